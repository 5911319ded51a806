"""The goals, and the tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks import goals
from benchmarks.goals import Goal, Row, goals_table

from . import extraction, walkers

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


GOALS: tuple[Goal, ...] = (
    ("walkers at once", "≥", 200, "", lambda r: r["walkers"]["rows"][-1]["walkers"]),
    ("their infrastructure failures", "≤", 0, "", lambda r: r["walkers"]["rows"][-1]["failures"]),
    (f"F1 on article pages: {PUBLIC}", "≥", 0.95, "", _ours(PUBLIC)),
    (f"F1 on article pages: {GENERATED}", "≥", 0.95, "", _ours(GENERATED)),
    ("F1 behind the best of the others at most", "≤", 0.01, "", _ahead),
)


def judge(results: Row) -> list[dict[str, Any]]:
    """Return each goal with what was measured."""
    return goals.judge(GOALS, results, 4)


def text(results: Row) -> str:
    """Return everything that was measured."""
    parts = [goals_table(results["goals"])]
    if "walkers" in results:
        parts.append(walkers.table(results["walkers"]))
    if "extraction" in results:
        parts.append(extraction.table(results["extraction"]))
    return "\n\n".join(parts)
