"""A comparison of two runs as a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aster_env.evaluate.report import tables
from aster_env.evaluate.report.cells import clean, count, finite, percent, signed
from aster_env.evaluate.report.page import figures, grid, page
from aster_env.evaluate.report.svg import Axes, Plot, ticks


def compare_html(found: Mapping[str, Any]) -> str:
    """Return a comparison as a page: the result, a plot of the problems, and those that differ."""
    parts = [
        grid(tables.comparison(found)),
        figures([differences(found)]),
        grid(tables.compared_problems(found), folded=True),
    ]
    return page(f"{clean(found.get('a'), 60)} against {clean(found.get('b'), 60)}", parts)


def differences(found: Mapping[str, Any]) -> Plot | None:
    """Draw a − b of each problem, from where a is better to where b is."""
    rows = [(clean(r.get("task")), finite(r.get("a")), finite(r.get("b"))) for r in found.get("per_problem") or ()]
    pairs = sorted(((a - b, name, a, b) for name, a, b in rows if a is not None and b is not None), reverse=True)
    if not pairs:
        return None
    wins, losses, ties = (count(found.get(name)) for name in ("wins", "losses", "ties"))
    said = f"a is better on {wins} problems, b on {losses}; {ties} are equal."
    plot = Plot("Difference per problem", said, 940.0, 300.0)
    axes = Axes(plot, (0.0, float(len(pairs))), (-1.0, 1.0))
    places = [(float(n), count(n)) for n in ticks(0, len(pairs), 11) if n == int(n)]
    axes.draw("problems, from a better to b better", "a − b (points)", x_ticks=places)
    space = 0.15 if len(pairs) <= 100 else 0.0
    for n, (gap, name, a, b) in enumerate(pairs):
        left, right = axes.at(n + space / 2, max(0.0, gap)), axes.at(n + 1 - space / 2, min(0.0, gap))
        if gap:
            hint = f"{name}: {percent(a)} and {percent(b)}, {signed(gap)}"
            plot.rect(left[0], left[1], right[0] - left[0], right[1] - left[1], "right" if gap > 0 else "wrong", hint)
    plot.line(axes.at(0, 0), axes.at(len(pairs), 0))
    return plot
