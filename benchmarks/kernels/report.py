"""The goals, and what was measured beside them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Goal:
    """A number to reach.

    Args:
        name: what is measured.
        sign: ``"≤"`` or ``"≥"``.
        least: the number.
        unit: its unit.
        read: takes the measured number out of the results; KeyError or TypeError: it was not measured.
        bound: the measure whose profile says what bounds it.
    """

    name: str
    sign: str
    least: float
    unit: str
    read: Callable[[Row], float]
    bound: tuple[str, ...] = ()


GOALS = (
    Goal("session ready, from the spares", "≤", 2, "ms", lambda r: r["from spares"]["ready"]["median"]),
    Goal("session ready, cold fork", "≤", 25, "ms", lambda r: r["cold fork"]["ready"]["median"], ("cold fork",)),
    Goal("start → first reply, against ipykernel, from the spares", "≥", 25, "×", lambda r: _against(r, "from spares")),
    Goal(
        "start → first reply, against ipykernel, cold fork",
        "≥",
        25,
        "×",
        lambda r: _against(r, "cold fork"),
        ("cold fork",),
    ),
    Goal("start, use and close, sustained", "≥", 60, "/s", lambda r: r["sustained"]["per_second"], ("sustained",)),
    Goal("round trip of 1+1, idle", "≤", 0.6, "ms", lambda r: r["round trip"]["median"], ("round trip",)),
    Goal("cells over 200 live sessions", "≥", 2000, "/s", lambda r: r["busy"]["per_second"], ("busy",)),
    Goal(
        "private memory of an idle session",
        "≤",
        5,
        "MB",
        lambda r: r["cold fork"]["private_mb"],
        ("cold fork", "private"),
    ),
    Goal(
        "1,000 live at once, memory of all (PSS)",
        "≤",
        8000,
        "MB",
        lambda r: r["many"]["pss_mb"],
        ("cold fork", "private"),
    ),
    Goal("1,000 live at once, sessions that answer rightly", "≥", 1000, "", lambda r: r["many"]["sessions"]),
    Goal("1,000 live at once, closing all", "≤", 5, "s", lambda r: r["many"]["close_seconds"], ("many", "close")),
    Goal("45,000 one-line calls over them", "≤", 60, "s", lambda r: r["many"]["call_seconds"], ("many", "call")),
)


def judge(results: Row) -> list[Row]:
    """Return a row for each goal: what was measured, and whether it was reached (None where counts were small)."""
    rows = []
    for goal in GOALS:
        try:
            value: float | None = float(goal.read(results))
        except (KeyError, TypeError):
            value = None
        test = operator.le if goal.sign == "≤" else operator.ge
        row = {"goal": goal.name, "sign": goal.sign, "least": goal.least, "unit": goal.unit, "value": value}
        reached = value is not None and test(value, goal.least)
        told = None if results["quick"] else reached
        rows.append({**row, "reached": told, "bound": "" if reached else _bound(goal, results)})
    return rows


def facts(results: Row) -> list[str]:
    """Return what is told beside the goals."""
    lines = []
    trip, floor = results.get("round trip", {}), results.get("pipe worker", {})
    if "median" in trip and "call" in floor:
        ratio = trip["median"] / floor["call"]["median"]
        lines.append(f"round trip: {ratio:.1f} × that of the bare pipe worker; p99 {trip['p99']:.2f} ms")
    many = results.get("many", {})
    if "call_ms" in many:
        calls, sessions = many["calls"], many["sessions"]
        call = many["call_ms"]
        lines += [
            f"{calls:,} calls over {sessions:,} sessions: p50 {call['median']:.1f} ms, p99 {call['p99']:.1f} ms "
            f"(all sessions call at once), {calls / many['call_seconds']:,.0f} calls/s",
            f"{sessions:,} sessions started and answered in {many['start_seconds']:.1f} s; "
            f"{many['left_after_close']} processes left after closing; host process {many.get('host_pss_mb', '?')} MB",
        ]
    lines += [f"{name}: not measured: {row['failed']}" for name, row in results.items() if "failed" in row]
    return lines


def goals_table(rows: Sequence[Row]) -> str:
    """Return the goals as a table."""
    lines = ["| measure | measured | goal | reached |", "|---|---:|---:|---|"]
    for row in rows:
        value = "not measured" if row["value"] is None else f"{_short(row['value'])} {row['unit']}"
        mark = {True: "yes", False: "NO", None: "–"}[row["reached"]]
        lines.append(f"| {row['goal']} | {value} | {row['sign']} {_short(row['least'])} {row['unit']} | {mark} |")
    missed = [row for row in rows if row["reached"] is False and row["bound"]]
    return "\n".join([*lines, *(f"NO: {row['goal']}: bounded by {row['bound']}" for row in missed)])


def contestants_table(results: Row) -> str:
    """Return the contestants as a table; times in milliseconds, medians."""
    spares, cold = results.get("from spares", {}), results.get("cold fork", {})
    trip, sustained = results.get("round trip", {}), results.get("sustained", {})
    ours = {
        "private_mb": cold.get("private_mb"),
        "starts_per_second": sustained.get("per_second"),
        "persistent": True,
    }
    ours |= {"call": trip}
    rows = {"aster, from the spares": {**ours, **spares}, "aster, cold fork": {**ours, **cold}}
    rows |= {name: results[name] for name in ("ipykernel", "gem-llm", "skyrl-gym", "pipe worker") if name in results}
    isolated = "yes" if all(on is True for on in results["layers"].values()) else "in part"
    lines = ["| | start → first `1+1` | round trip | starts/s | private MB | keeps variables | isolated |"]
    lines.append("|---|---:|---:|---:|---:|---|---|")
    for name, row in rows.items():
        if why := row.get("unavailable") or row.get("failed"):
            lines.append(f"| {name} | not measured: {why} |")
            continue
        medians = [_short(row.get(key, {}).get("median")) for key in ("first", "call")]
        numbers = [_short(row.get(key)) for key in ("starts_per_second", "private_mb")]
        words = ["yes" if row.get("persistent") else "no", isolated if name.startswith("aster") else "no"]
        lines.append(f"| {name} | {' | '.join([*medians, *numbers, *words])} |")
    return "\n".join(lines)


def _against(results: Row, how: str) -> float:
    ratio: float = results["ipykernel"]["first"]["median"] / results[how]["first"]["median"]
    return round(ratio, 1)


def _bound(goal: Goal, results: Row) -> str:
    row = results
    for key in goal.bound:
        row = row.get(key, {})
    return str(row.get("bound", "")) if goal.bound else ""


def _short(value: float | None) -> str:
    if value is None:
        return "–"
    return (
        f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"
    )
