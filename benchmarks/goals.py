"""Goals of a benchmark, and their table."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Row = Mapping[str, Any]
SIGNS: Mapping[str, Callable[[float, float], bool]] = {"≤": operator.le, "≥": operator.ge}
Goal = tuple[str, str, float, str, Callable[[Row], float]]
"""Name, sign, value, unit, and what reads the measured value from the results."""


def judge(goals: Iterable[Goal], results: Row, digits: int = 3) -> list[dict[str, Any]]:
    """Return each goal with what was measured; None, also for reached, where it was not."""
    rows = []
    for name, sign, goal, unit, read in goals:
        try:
            measured = round(read(results), digits)
        except (KeyError, StopIteration, IndexError, ValueError):
            measured = None
        reached = None if measured is None else SIGNS[sign](measured, goal)
        rows.append({"name": name, "sign": sign, "goal": goal, "unit": unit, "measured": measured, "reached": reached})
    return rows


def goals_table(goals: Iterable[Row]) -> str:
    """Return the goals as Markdown."""
    lines = ["| measure | measured | goal | reached |", "|---|---:|---:|---|"]
    for row in goals:
        unit = f" {row['unit']}" if row["unit"] else ""
        measured = "–" if row["measured"] is None else f"{row['measured']:,}{unit}"
        reached = {True: "yes", False: "no", None: "not measured"}[row["reached"]]
        lines.append(f"| {row['name']} | {measured} | {row['sign']} {row['goal']:,}{unit} | {reached} |")
    return "\n".join(lines)
