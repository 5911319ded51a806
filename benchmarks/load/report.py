"""The goals, and the tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Row = Mapping[str, Any]

GOALS: tuple[tuple[str, Callable[[Row], bool]], ...] = (
    ("clients that behave see no error", lambda r: not r["load"]["errors"] and not r["load"]["infrastructure"]),
    ("nothing is leaked", lambda r: not any(r["load"]["leaked"].values())),
    ("memory after is no more than at most under load", lambda r: _kept(r["load"])),
    ("the service ends with status 0", lambda r: r["load"]["exit_status"] == 0),
    ("SIGKILL of the service leaves nothing", lambda r: not any(r["killed_server"]["left"].values())),
    ("clients play again after its restart", lambda r: _again(r["killed_server"])),
    ("a killed pool is told as such, and nothing else", lambda r: _told(r["killed_pool"])),
    ("sessions go on after it", lambda r: r["killed_pool"]["episodes_after"] >= r["killed_pool"]["sessions"]),
    ("a broken judge is told as such, in time", lambda r: all(row["right"] for row in r["broken_judge"])),
)


def judge(results: Row) -> list[dict[str, Any]]:
    """Return each goal and whether it was reached."""
    return [{"goal": name, "reached": bool(reached(results))} for name, reached in GOALS]


def text(results: Row) -> str:
    """Return the tables."""
    load, server, pool = results["load"], results["killed_server"], results["killed_pool"]
    lines = [
        f"OpenEnv serving under load and faults ({results['machine']})",
        "",
        f"{load['sessions']} sessions that behave beside {load['misbehaving']} that do not, for {load['seconds']:g} s, "
        f"{load['think_s']:g} s between turns on average",
        *_times(load),
        f"  episodes {load['episodes']}, of which with an error {sum(load['errors'].values())}; "
        f"misbehaved: {_counts(load['misbehaved'])}",
        "  held          before    most   after  leaked",
        *(
            f"  {name:<12}{load['before'][name]:>8}{load['most'][name]:>8}{load['after'][name]:>8}"
            f"{load['leaked'].get(name, ''):>8}"
            for name in load["before"]
        ),
        "",
        f"Service killed under {server['sessions']} sessions: left {_counts(server['left'])}; first episode "
        f"{server['back_s']} s after; {server['reconnects']} lost connections, {sum(server['errors'].values())} errors",
        f"Kernel pool killed under {pool['sessions']} sessions: {pool['infrastructure']} told of an infrastructure "
        f"failure, {sum(pool['errors'].values())} other errors; first episode {pool['back_s']} s after",
        "",
        "Judge's endpoint       s     the client sees",
        *(f"  {row['endpoint']:<20}{row['seconds']:<6}{row['client_sees']}" for row in results["broken_judge"]),
        "",
        *(f"{'reached' if row['reached'] else 'MISSED '}  {row['goal']}" for row in results["goals"]),
    ]
    for part in ("load", "killed_server", "killed_pool"):
        lines += [f"{part}: {count} × {what}" for what, count in results[part]["errors"].items()]
    return "\n".join(lines)


def _times(load: Row) -> list[str]:
    rows = [(name.removesuffix("_ms"), load[name]) for name in ("step_ms", "reset_ms")]
    return [
        f"  {name:<6} p50 {row['median']:.1f} ms   p99 {row['p99']:.1f} ms   most {row['max']:.1f} ms   "
        f"{row['count']} of them"
        for name, row in rows
    ]


def _counts(row: Row) -> str:
    return ", ".join(f"{name} {count}" for name, count in row.items()) or "nothing"


def _kept(load: Row) -> bool:
    return bool(load["after"]["memory_mb"] <= load["most"]["memory_mb"])


def _told(row: Row) -> bool:
    return bool(row["infrastructure"] and not row["errors"])


def _again(row: Row) -> bool:
    return bool(row["reconnects"] and not row["errors"])
