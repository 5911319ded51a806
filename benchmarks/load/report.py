"""The goals, and the tables."""

from __future__ import annotations

from typing import Any

from benchmarks import goals
from benchmarks.goals import Goal, Row, goals_table

THREADS = 48
"""Six of asyncio's own pool on two processors, 32 of OpenEnv's, and a few that each have one purpose."""


def _share(rows: list[Row]) -> float:
    return sum(row["right"] for row in rows) / len(rows)


GOALS: tuple[Goal, ...] = (
    (
        "errors that clients that behave see",
        "≤",
        0,
        "",
        lambda r: sum(r["load"]["errors"].values()) + r["load"]["infrastructure"],
    ),
    ("a step that calls the tool, p99", "≤", 1000, "ms", lambda r: r["load"]["step_ms"]["p99"]),
    ("a step that answers, p99", "≤", 1000, "ms", lambda r: r["load"]["answer_ms"]["p99"]),
    ("processes, descriptors, sockets and files left after", "≤", 0, "", lambda r: sum(r["load"]["leaked"].values())),
    ("memory, growth in the second half", "≤", 5, "%", lambda r: 100 * r["load"]["memory_growth"]),
    ("threads, at most", "≤", THREADS, "", lambda r: r["load"]["most"]["threads"]),
    ("exit status after SIGTERM", "≤", 0, "", lambda r: abs(r["killed_server"]["exit_status"])),
    ("service killed: processes and files left", "≤", 0, "", lambda r: sum(r["killed_server"]["left"].values())),
    ("service killed: sessions that connect again", "≥", 1, "×", lambda r: _back(r["killed_server"])),
    ("service killed: errors besides lost connections", "≤", 0, "", lambda r: _errors(r["killed_server"])),
    ("pool killed: sessions told of an infrastructure failure", "≥", 0.25, "×", lambda r: _told(r["killed_pool"])),
    ("pool killed: results that are neither right nor told so", "≤", 0, "", lambda r: _errors(r["killed_pool"])),
    ("pool killed: next resets that fail", "≤", 0, "", lambda r: r["killed_pool"]["failed_again"]),
    ("pool killed: episodes after it, for each session", "≥", 1, "×", lambda r: _after(r["killed_pool"])),
    ("a broken judge is told as such, in time", "≥", 1, "×", lambda r: _share(r["broken_judge"])),
    ("a broken policy's episode is masked, in time", "≥", 1, "×", lambda r: _share(r["broken_policy"])),
)


def judge(results: Row) -> list[dict[str, Any]]:
    """Return each goal with what was measured."""
    return goals.judge(GOALS, results)


def times_table(load: Row) -> str:
    """Return what the clients that behave waited for, as Markdown."""
    lines = ["| of the clients that behave | p50, ms | p99, ms | most, ms | count |", "|---|---:|---:|---:|---:|"]
    rows = {
        "a step that calls the tool": "step_ms",
        "a step that answers, half of them for the judges": "answer_ms",
        "a reset, which starts a session": "reset_ms",
    }
    for name, key in rows.items():
        row = load[key]
        lines.append(f"| {name} | {row['median']:,.0f} | {row['p99']:,.0f} | {row['max']:,.0f} | {row['count']:,} |")
    return "\n".join(lines)


def held_table(load: Row) -> str:
    """Return what the service held before, at half time, at most, and after, as Markdown."""
    lines = ["| held | before | half time | most | after |", "|---|---:|---:|---:|---:|"]
    for name in load["before"]:
        cells = " | ".join(f"{load[when][name]:,}" for when in ("before", "half", "most", "after"))
        lines.append(f"| {name.replace('memory_mb', 'memory, MB')} | {cells} |")
    return "\n".join(lines)


def endpoints_table(results: Row) -> str:
    """Return what comes of an episode whose judge or policy fails, as Markdown."""
    lines = ["| endpoint | judge: the client sees | after, s | policy: the episode ends | after, s |"]
    lines.append("|---|---|---:|---|---:|")
    for judged, played in zip(results["broken_judge"], results["broken_policy"], strict=True):
        seen = judged["client_sees"].partition(":")[0]
        ended = played["stop"] if played["reward"] is None else f"{played['stop']}, reward {played['reward']:g}"
        lines.append(f"| {judged['endpoint']} | {seen} | {judged['seconds']} | {ended} | {played['seconds']} |")
    return "\n".join(lines)


def text(results: Row) -> str:
    """Return the whole report as Markdown."""
    load, server, pool = results["load"], results["killed_server"], results["killed_pool"]
    parts = [
        f"# OpenEnv serving under load and faults ({results['machine']})",
        f"`{results['command']}`",
        f"{load['sessions']} sessions that behave beside {load['misbehaving']} clients that do not, for "
        f"{load['seconds']:g} s, {load['think_s']:g} s between turns on average; {load['episodes']:,} episodes; "
        f"misbehaved: {_counts(load['misbehaved'])}.",
        f"Processors used meanwhile: {_counts(load['processors'])}; load average {load['load_average']:.1f}.",
        times_table(load),
        held_table(load),
        f"Service killed under {server['sessions']} sessions and started again: {server['reconnects']:,} lost or "
        f"refused connections, the first episode {server['back_s']} s after.",
        f"Kernel pool killed under {pool['sessions']} sessions: {pool['infrastructure']} told of an infrastructure "
        f"failure, the first episode {pool['back_s']} s after.",
        endpoints_table(results),
        goals_table(results["goals"]),
    ]
    for part in ("load", "killed_server", "killed_pool"):
        parts += [f"{part}: {count} × {what}" for what, count in results[part]["errors"].items()]
    return "\n\n".join(parts)


def _counts(row: Row) -> str:
    return ", ".join(f"{name} {count}" for name, count in row.items()) or "nothing"


def _errors(row: Row) -> int:
    return sum(row["errors"].values())


def _back(row: Row) -> float:
    return float(min(row["reconnects"], row["episodes"]) / row["sessions"])


def _told(row: Row) -> float:
    return float(row["infrastructure"] / row["sessions"])


def _after(row: Row) -> float:
    return float(row["episodes_after"] / row["sessions"])
