"""The goals, and the tables."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from . import extraction, walkers

Row = Mapping[str, Any]
SIGNS: Mapping[str, Callable[[float, float], bool]] = {"≤": operator.le, "≥": operator.ge}
PUBLIC, GENERATED = "public benchmark", "generated site"


def _ours(name: str) -> Callable[[Row], float]:
    return lambda results: float(results["extraction"][name]["rows"]["ours"]["f1"])


def _ahead(results: Row) -> float:
    """Return how far ours is behind the best of the others at most, over all kinds of pages."""
    behind = []
    for part in results["extraction"].values():
        others = [row["f1"] for name, row in part["rows"].items() if name != "ours" and "f1" in row]
        behind.append(max(others) - part["rows"]["ours"]["f1"])
    return float(max(behind))


GOALS: tuple[tuple[str, str, float, str, Callable[[Row], float]], ...] = (
    ("walkers at once", "≥", 200, "", lambda r: r["walkers"]["rows"][-1]["walkers"]),
    ("their infrastructure failures", "≤", 0, "", lambda r: r["walkers"]["rows"][-1]["failures"]),
    (f"F1 on article pages: {PUBLIC}", "≥", 0.95, "", _ours(PUBLIC)),
    (f"F1 on article pages: {GENERATED}", "≥", 0.95, "", _ours(GENERATED)),
    ("F1 behind the best of the others at most", "≤", 0.01, "", _ahead),
)


def judge(results: Row) -> list[dict[str, Any]]:
    """Return each goal with what was measured; None, also for reached, where it was not."""
    rows = []
    for name, sign, goal, unit, read in GOALS:
        try:
            measured = round(read(results), 4)
        except (KeyError, IndexError, ValueError):
            measured = None
        reached = None if measured is None else SIGNS[sign](measured, goal)
        rows.append({"name": name, "sign": sign, "goal": goal, "unit": unit, "measured": measured, "reached": reached})
    return rows


def goals_table(goals: list[dict[str, Any]]) -> str:
    """Return the goals as Markdown."""
    lines = ["| measure | measured | goal | reached |", "|---|---:|---:|---|"]
    for row in goals:
        measured = "–" if row["measured"] is None else f"{row['measured']:,}"
        reached = {True: "yes", False: "no", None: "not measured"}[row["reached"]]
        lines.append(f"| {row['name']} | {measured} | {row['sign']} {row['goal']:,} | {reached} |")
    return "\n".join(lines)


def text(results: Row) -> str:
    """Return everything that was measured."""
    parts = [goals_table(results["goals"])]
    if "walkers" in results:
        parts.append(walkers.table(results["walkers"]))
    if "extraction" in results:
        parts.append(extraction.table(results["extraction"]))
    return "\n\n".join(parts)
