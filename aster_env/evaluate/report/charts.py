"""The plots of one task set: problems, budgets, tool use. Each returns None where there is nothing to draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from aster_env.evaluate.report.beside import beside
from aster_env.evaluate.report.cells import budget, clean, count, estimate, finite, middle, number, percent
from aster_env.evaluate.report.svg import SHAPES, Axes, Plot, Point, ticks
from aster_env.evaluate.report.tables import OUTCOMES

BARS = 200
"""Problems drawn as a bar each; more are drawn as one outline."""
_BINS = 26
_UNITS = {"tokens": "tokens of the episode", "tool_calls": "tool calls", "seconds": "seconds of the episode"}


def problems(summary: Mapping[str, Any]) -> Plot | None:
    """Accuracy of each problem, the easiest first: the shares of its k samples that were right, wrong, unscored."""
    k = finite(summary.get("k")) or 0
    rows = []
    for row in summary.get("per_problem") or ():
        samples, score = finite(row.get("samples")) or 0, finite(row.get("score")) or 0.0
        size = max(k, samples, 1)
        rows.append((score * samples / size, samples / size, clean(row.get("task")), percent(row.get("score"))))
    if not rows:
        return None
    rows.sort(key=lambda row: (-row[0], -row[1], row[2]))
    never = sum(row[0] <= 0 for row in rows)
    always = sum(row[0] >= 1 - 1e-9 for row in rows)
    said = f"Of {count(len(rows))} problems, {count(always)} are right in every sample, {count(never)} in none."
    plot = Plot("Accuracy per problem", said, 940.0, 280.0)
    axes = Axes(plot, (0.0, float(len(rows))), margin=(46.0, 30.0, 14.0, 44.0))
    places = [(float(n), count(n)) for n in ticks(0, len(rows), 11) if n == int(n)]
    axes.draw("problems, the easiest first", "share of samples (%)", x_ticks=places)
    if len(rows) > BARS:
        for heights, class_ in (([row[1] for row in rows], "wrong"), ([row[0] for row in rows], "right")):
            plot.path(_outline(axes, heights), class_, closed=True)
    else:
        _bars(axes, rows)
    _legend(plot, [("right", "right"), ("wrong", "wrong"), ("no score", "missing")], 60.0)
    return plot


def _bars(axes: Axes, rows: Sequence[tuple[float, float, str, str]]) -> None:
    space = 0.15 if len(rows) <= 100 else 0.0
    for n, (right, scored, task, score) in enumerate(rows):
        for low, high, class_ in ((0.0, right, "right"), (right, scored, "wrong"), (scored, 1.0, "missing")):
            if high - low > 1e-9:
                _box(axes, (n + space / 2, n + 1 - space / 2), (low, high), class_, f"{task}: {score} %")


def _outline(axes: Axes, heights: Sequence[float]) -> list[Point]:
    corners = [(x, height) for n, height in enumerate(heights) for x in (n, n + 1)]
    return [axes.at(*corner) for corner in [(0, 0), *corners, (len(heights), 0)]]


def against(summary: Mapping[str, Any], unit: str) -> Plot | None:
    """Accuracy against a budget, with its band; against tokens, the published numbers of a stated budget beside."""
    rows = [
        (limit, row, value)
        for row in (summary.get("budgets") or {}).get(unit) or ()
        if (limit := finite(row.get("limit"))) is not None and (value := middle(row)) is not None
    ]
    if len(rows) < 2:
        return None
    last = rows[-1][0]
    if last <= rows[0][0]:
        return None
    half = next((limit for limit, _, value in rows if value >= rows[-1][2] / 2), last)
    said = f"{percent(rows[-1][2])} % within {count(last)} {_UNITS[unit]}"
    said += f"; half of that within {number(half, 1 if unit == 'seconds' else 0)}" if half > 0 else ""
    said += ". The band is the 95 % interval."
    plot = Plot(f"Accuracy against {unit.replace('_', ' ')}", said)
    axes = Axes(plot, (min(0.0, rows[0][0]), last), margin=(46.0, 20.0, 22.0, 44.0))
    axes.draw(f"budget: {_UNITS[unit]}", "accuracy (%)", x_ticks=_places(last, unit))
    # Before the first right answer no sample says anything: an interval there would only be that of too few samples.
    lows, highs = ([(x, _bound(row, side, v)) for x, row, v in rows if v > 0] for side in ("low", "high"))
    plot.path([axes.at(*p) for p in [*_steps(lows), *reversed(_steps(highs))]], "band", closed=True)
    plot.path([axes.at(*p) for p in _steps([(x, value) for x, _, value in rows])], "curve")
    if unit == "tokens":
        _published(axes, summary)
    return plot


def _published(axes: Axes, summary: Mapping[str, Any]) -> None:
    """Draw what was published at a stated budget, and the run's own numbers there."""
    plot, rows = axes.plot, beside(summary)
    # Numbered as in the plot across task sets, so that a model keeps its mark.
    models = list(dict.fromkeys(p.model for row in rows for p in row.published))[:SHAPES]
    drawn = dict[int, str]()
    for row in rows:
        if row.budget is None or row.budget > axes.x[1] * 1.001:
            continue
        ours = middle(row.estimate)
        if ours is not None:
            place = axes.at(row.budget, ours)
            plot.add("circle", cx=place[0], cy=place[1], r=4, class_="run")
        for theirs in (p for p in row.published if p.budget is not None and p.model in models):
            place, shape = axes.at(row.budget, theirs.value), models.index(theirs.model)
            drawn[shape] = theirs.model
            plot.mark(*place, shape, f"model-{shape}", f"{theirs.name}: {theirs.percent} %")
            plot.text(place[0], place[1] - 8, number(theirs.percent), "middle", "said")
    # A curve that only rises leaves the lower right free.
    for n, (shape, model) in enumerate(drawn.items()):
        y = plot.height - 60 - 16.0 * n
        plot.mark(plot.width - 160, y, shape, f"model-{shape}")
        plot.text(plot.width - 148, y + 4, f"{model}, published")


def calls(summary: Mapping[str, Any]) -> Plot | None:
    """How many samples made how many calls, split by whether they were right."""
    bins, size = _binned(summary)
    if not bins:
        return None
    total = sum(samples for samples, _ in bins.values())
    tools = summary.get("tools") or {}
    said = f"{count(total)} samples made {number(tools.get('mean'))} calls in the mean; "
    said += f"{percent(tools.get('with_call'))} % made any."
    plot = Plot("Tool calls per sample", said)
    most = max(samples for samples, _ in bins.values())
    axes = _frame(plot, bins, size, (0.0, most), "samples", percent_axis=False)
    for first, (samples, right) in bins.items():
        sides, hint = (first + 0.1 * size, first + 0.9 * size), f"{_range(first, size)}: {count(samples)} samples"
        _box(axes, sides, (0.0, right), "right", f"{hint}, {number(right)} right")
        _box(axes, sides, (right, samples), "wrong", f"{hint}, {number(right)} right")
    _legend(plot, [("right", "right"), ("wrong", "wrong")], plot.width - 180)
    return plot


def calls_and_accuracy(summary: Mapping[str, Any]) -> Plot | None:
    """Accuracy of the samples that made so many calls; the wider the bar, the more samples it stands for."""
    bins, size = _binned(summary)
    if not bins:
        return None
    most = max(samples for samples, _ in bins.values())
    without = bins.get(0) if size == 1 else None
    said = "Accuracy of the samples that made so many calls; wider bars stand for more samples. " + (
        f"Without a call: {percent(without[1] / without[0])} %." if without else ""
    )
    plot = Plot("Accuracy by calls made", said)
    axes = _frame(plot, bins, size, (0.0, 1.0), "accuracy (%)", percent_axis=True)
    for first, (samples, right) in bins.items():
        half = size * (0.08 + 0.37 * (samples / most) ** 0.5)
        share = right / samples
        hint = f"{_range(first, size)}: {percent(share)} % of {count(samples)} samples"
        _box(axes, (first + size / 2 - half, first + size / 2 + half), (0.0, max(share, 0.004)), "right", hint)
    return plot


def outcomes(summary: Mapping[str, Any]) -> Plot | None:
    """How calls ended: shares of ok, error, timeout and invalid."""
    tools = summary.get("tools") or {}
    counts = {name: max(0.0, finite(tools.get(name)) or 0.0) for name in OUTCOMES}
    total = sum(counts.values())
    if not total:
        return None
    said = ", ".join(f"{name} {percent(n / total)} %" for name, n in counts.items()) + f" of {count(total)} calls."
    plot = Plot("How calls ended", said, height=170.0)
    for row, (name, n) in enumerate(counts.items()):
        y = 14.0 + 36 * row
        plot.text(70, y + 16, name, "end")
        plot.rect(78, y, 280, 22, "ground")
        plot.rect(78, y, 280 * n / total, 22, f"outcome-{name}", f"{name}: {count(n)}")
        plot.text(366, y + 16, f"{percent(n / total)} % ({count(n)})")
    return plot


def stopped(summary: Mapping[str, Any]) -> Plot | None:
    """Why episodes ended."""
    ends = {clean(name, 22): finite(n) or 0.0 for name, n in (summary.get("stops") or {}).items()}
    total = sum(ends.values())
    if not total:
        return None
    ordered = sorted(ends.items(), key=lambda pair: (-pair[1], pair[0]))[:10]
    said = ", ".join(f"{name} {count(n)}" for name, n in ordered) + "."
    plot = Plot("Why episodes ended", said, height=30.0 + 28 * len(ordered))
    for row, (name, n) in enumerate(ordered):
        y = 14.0 + 28 * row
        plot.text(124, y + 15, name, "end")
        plot.rect(132, y, 230, 20, "ground")
        plot.rect(132, y, 230 * n / total, 20, "right" if name == "answered" else "wrong", f"{name}: {count(n)}")
        plot.text(370, y + 15, f"{percent(n / total)} %")
    return plot


def headline(summary: Mapping[str, Any]) -> str:
    """Return a task set's result in one sentence."""
    return (
        f"avg@{count(summary.get('k'))} {estimate(summary.get('avg@k'))} % "
        f"over {count(summary.get('problems'))} problems; "
        f"{count(summary.get('samples'))} samples scored, {count(summary.get('failed'))} failed outside the model, "
        f"{count(summary.get('missing'))} not played."
    )


def _binned(summary: Mapping[str, Any]) -> tuple[dict[int, tuple[float, float]], int]:
    """Return {first number of calls: (samples, sum of scores)} and how many numbers of calls a bin spans."""
    rows = [[finite(cell) or 0.0 for cell in row] for row in (summary.get("tools") or {}).get("by_calls") or ()]
    rows = [row for row in rows if row[1] > 0]
    if not rows:
        return {}, 1
    size = -(-(int(max(row[0] for row in rows)) + 1) // _BINS)
    bins: dict[int, tuple[float, float]] = {}
    for made, samples, right in rows:
        first = int(made) // size * size
        before = bins.get(first, (0.0, 0.0))
        bins[first] = (before[0] + samples, before[1] + right)
    return bins, size


def _frame(plot: Plot, bins: Mapping[int, object], size: int, y: Point, name: str, *, percent_axis: bool) -> Axes:
    last = max(bins) + size
    axes = Axes(plot, (0.0, float(last)), y, (46.0, 24.0, 14.0, 44.0))
    every = max(1, -(-(last // size) // 13)) * size
    places = [(first + (0.5 if size == 1 else 0.0), count(first)) for first in range(0, last, every)]
    axes.draw("tool calls", name, percent=percent_axis, x_ticks=places)
    return axes


def _range(first: int, size: int) -> str:
    return f"{first} calls" if size == 1 else f"{first}–{first + size - 1} calls"


def _box(axes: Axes, x: Point, y: Point, class_: str, hint: str) -> None:
    (left, low), (right, high) = axes.at(x[0], y[0]), axes.at(x[1], y[1])
    if low - high > 0:
        axes.plot.rect(left, high, right - left, low - high, class_, hint)


def _bound(row: Mapping[str, Any], side: str, otherwise: float) -> float:
    known = finite(row.get(side))
    return otherwise if known is None else known


def _steps(points: Sequence[Point]) -> list[Point]:
    """Return the corners of a curve that keeps its value up to the next point."""
    return [*points[:1], *(corner for (_, y), (x, z) in pairwise(points) for corner in ((x, y), (x, z)))]


def _places(last: float, unit: str) -> list[tuple[float, str]]:
    if unit == "tokens" and last >= 8192:
        return [(n * 1024, budget(n * 1024)) for n in ticks(0, last / 1024) if n]
    return [(n, number(n, 0 if n == int(n) else 1)) for n in ticks(0, last)]


def _legend(plot: Plot, entries: Sequence[tuple[str, str]], x: float) -> None:
    for n, (words, class_) in enumerate(entries):
        plot.rect(x + 90 * n, 4.0, 10, 10, class_)
        plot.text(x + 90 * n + 15, 13.0, words)
