"""The plots across task sets: a run's accuracies beside the published models'."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from aster_env.evaluate.report.beside import Beside, beside
from aster_env.evaluate.report.cells import budget, clean, estimate, finite, middle, percent
from aster_env.evaluate.report.published import Published, find
from aster_env.evaluate.report.svg import SHAPES, Axes, Plot, ticks
from aster_env.evaluate.report.tables import Summaries, label


def side_by_side(summaries: Summaries) -> Plot | None:
    """Accuracies with their intervals, and the published ones as marks on the same line."""
    rows = [(label(s, summaries), row) for s in summaries for row in beside(s) if middle(row.estimate) is not None]
    if not rows:
        return None
    models = list(dict.fromkeys(p.model for _, row in rows for p in row.published))[:SHAPES]
    said = (
        "; ".join(f"{name}{_budget(row)}: {estimate(row.estimate)} %{_theirs(row, models)}" for name, row in rows) + "."
    )
    top = 30.0 + 18 * math.ceil((1 + len(models)) / 4)
    plot = Plot("Accuracy with 95 % interval", said, 940.0, top + 28 * len(rows) + 44)
    plot.caption = "Marks: published numbers" + (
        "; those whose source states no budget stand at each." if any(row.budget for _, row in rows) else "."
    )
    axes = Axes(plot, (0.0, 1.0), (0.0, 1.0), (190.0, top, 20.0, 44.0))
    for value in ticks(0, 1):
        low, high = axes.at(value, 0), axes.at(value, 1)
        plot.line(low, high, "grid")
        plot.text(low[0], low[1] + 16, percent(value, 0), "middle")
    plot.text(axes.at(0.5, 0)[0], plot.height - 8, "accuracy (%)", "middle", "name")
    _key(plot, ["this run", *models])
    for n, (name, row) in enumerate(rows):
        _line(axes, top + 28 * n + 14, f"{name}{_budget(row)}", row, models)
    return plot


def _line(axes: Axes, y: float, name: str, row: Beside, models: Sequence[str]) -> None:
    plot = axes.plot
    plot.text(180, y + 4, name, "end", limit=26)
    low, high = finite(row.estimate.get("low")), finite(row.estimate.get("high"))
    if low is not None and high is not None:
        plot.line((axes.at(low, 0)[0], y), (axes.at(high, 0)[0], y), "interval")
    for theirs in row.published:
        if theirs.model in models:
            shape = models.index(theirs.model)
            plot.mark(axes.at(theirs.value, 0)[0], y, shape, f"model-{shape}", f"{theirs.name}: {theirs.percent} %")
    ours = middle(row.estimate) or 0.0
    plot.add("circle", cx=axes.at(ours, 0)[0], cy=y, r=5, class_="run")


def radar(summaries: Summaries) -> Plot | None:
    """A run and the published models on three or more task sets of one protocol; None for fewer."""
    known = {label(s, summaries): s for s in summaries if middle(s.get("avg@k")) is not None}
    if len(known) < 3 or len(known) != len({str(s.get("tasks")) for s in known.values()}):
        return None
    names = list(known)
    ours = [middle(s.get("avg@k")) or 0.0 for s in known.values()]
    series = {"this run": ours, **_whole_series(list(known.values()))}
    said = "; ".join(
        f"{model}: " + ", ".join(f"{name} {percent(v)}" for name, v in zip(names, values, strict=True))
        for model, values in series.items()
    )
    plot = Plot("Across task sets (accuracy, %)", f"{said}.", caption="Published models at their greatest budget.")
    plot.width, plot.height = 560.0, 400.0
    centre, radius = (280.0, 225.0), 135.0
    _web(plot, names, centre, radius)
    for n, (_, values) in reversed(list(enumerate(series.items()))):
        points = [_spoke(centre, radius * value, m, len(names)) for m, value in enumerate(values)]
        plot.path(points, "run-area" if n == 0 else f"outline outline-{n - 1}", closed=True)
        for x, y in points:
            if n:
                plot.mark(x, y, n - 1, f"model-{n - 1}")
            else:
                plot.add("circle", cx=x, cy=y, r=4, class_="run")
    _key(plot, list(series), columns=3)
    return plot


def _whole_series(summaries: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Return the published models that have a number for every task set, each at its greatest budget."""
    best: dict[str, dict[int, Published]] = {}
    for n, summary in enumerate(summaries):
        for p in find(str(summary.get("tasks", "")), str(summary.get("protocol") or "")):
            row = best.setdefault(p.model, {})
            if n not in row or (p.budget or 0) > (row[n].budget or 0):
                row[n] = p
    whole = {row[0].name: row for row in best.values() if len(row) == len(summaries)}
    return {name: [row[n].value for n in range(len(summaries))] for name, row in list(whole.items())[:SHAPES]}


def _web(plot: Plot, names: Sequence[str], centre: tuple[float, float], radius: float) -> None:
    for value in (0.25, 0.5, 0.75, 1.0):
        ring = [_spoke(centre, radius * value, n, len(names)) for n in range(len(names))]
        plot.path(ring, "ring", closed=True)
        x, y = _spoke(centre, radius * value * math.cos(math.pi / len(names)), 0.5, len(names))
        plot.text(x - 3, y + 4, percent(value, 0), "end", "said")
    for n, name in enumerate(names):
        plot.line(centre, _spoke(centre, radius, n, len(names)), "grid")
        x, y = _spoke(centre, radius + 16, n, len(names))
        anchor = "middle" if abs(x - centre[0]) < 5 else "start" if x > centre[0] else "end"
        plot.text(x, y + 4, name, anchor, limit=17)


def _spoke(centre: tuple[float, float], length: float, n: float, of: int) -> tuple[float, float]:
    angle = 2 * math.pi * n / of
    return centre[0] + length * math.sin(angle), centre[1] - length * math.cos(angle)


def _budget(row: Beside) -> str:
    return f" at {budget(row.budget)}" if row.budget else ""


def _theirs(row: Beside, models: Sequence[str]) -> str:
    shown = ", ".join(f"{p.name} {p.percent}" for p in row.published if p.model in models)
    return f" (published: {shown})" if shown else ""


def _key(plot: Plot, names: Sequence[str], columns: int = 4) -> None:
    width = (plot.width - 40) / columns
    for n, name in enumerate(names):
        x, y = 20 + width * (n % columns), 16.0 + 18 * (n // columns)
        if n:
            plot.mark(x, y, n - 1, f"model-{n - 1}")
        else:
            plot.add("circle", cx=x, cy=y, r=5, class_="run")
        plot.text(x + 12, y + 4, clean(name, 30))
