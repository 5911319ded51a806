"""What the runs did: a table with intervals, and a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from aster_env.dialects import Dialect, make_dialect
from aster_env.shaping import bigrams, first_call
from aster_env.tokenizers import as_tokenizer
from aster_env.types import Trajectory

NAN = float("nan")
LAST = 5
"""Batches at the end of a run that the table is made of; each is of two updates."""
STUDENT: Mapping[int, float] = {
    1: 12.706,
    2: 4.303,
    3: 3.182,
    4: 2.776,
    5: 2.571,
    6: 2.447,
    7: 2.365,
    8: 2.306,
    9: 2.262,
}
"""The two-sided 95 % quantile of Student's distribution, by degrees of freedom."""

Measure = Callable[[Trajectory, Dialect], float]
MEASURES: Mapping[str, Measure] = {
    "accuracy": lambda t, _: NAN if t.reward is None else t.reward_terms.get("correct", t.reward),
    "tokens before the first call": lambda t, d: first_call(t, d).get("first_call/tokens", NAN),
    "calls": lambda t, _: float(t.tool_calls),
    "ends python→answer": lambda t, d: bigrams(t, d).get("ends/python>answer", 0.0),
    "has python→think": lambda t, d: bigrams(t, d).get("bigram/python>think", 0.0),
}


def read_run(out: Path, tokenizer: Any) -> list[list[float]]:
    """Return, for each batch of a run, the mean of each measure over its episodes; a position, over those that call."""
    dialect = make_dialect("hermes", as_tokenizer(tokenizer))
    curve = []
    for path in sorted((out / "trajectories").glob("train-*.jsonl")):
        with open(path, encoding="utf-8") as lines:
            episodes = [Trajectory.from_json(json.loads(line)) for line in lines]
        curve.append([_mean([measure(t, dialect) for t in episodes]) for measure in MEASURES.values()])
    return curve


def table(report: Mapping[str, Any]) -> str:
    """Return the means of the last batches, and their differences to plain GRPO with 95 % intervals over seeds."""
    names = list(report["measures"])
    plain, *others = report["curves"]
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    start = [mean(_column(run[:1], n) for run in report["curves"][plain]) for n in range(len(names))]
    lines.append("| before, all | " + " | ".join(f"{value:.2f}" for value in start) + " |")
    base = [ends(run) for run in report["curves"][plain]]
    lines.append(f"| {plain} | " + " | ".join(f"{mean(column):.2f}" for column in zip(*base, strict=True)) + " |")
    for name in others:
        runs = [ends(run) for run in report["curves"][name]]
        cells = []
        for n in range(len(names)):
            low, high = interval([run[n] - other[n] for run, other in zip(runs, base, strict=True)])
            cells.append(f"{_mean([run[n] for run in runs]):.2f} ({low:+.2f} … {high:+.2f})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ends(run: Sequence[Sequence[float]]) -> list[float]:
    """Return the mean of each measure over a run's last batches."""
    return [_column(run[-LAST:], n) for n in range(len(MEASURES))]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of a mean of a few values, by Student's distribution; NaN of fewer than two."""
    values = [value for value in values if not math.isnan(value)]
    if len(values) < 2:
        return NAN, NAN
    half = STUDENT[len(values) - 1] * stdev(values) / math.sqrt(len(values))
    return mean(values) - half, mean(values) + half


def picture(report: Mapping[str, Any], path: Path) -> None:
    """Draw each measure over the steps, a line for each shaping: the mean over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(report["measures"])
    figure, axes = pyplot.subplots(len(names), 1, sharex=True, figsize=(8, 2.2 * len(names)))
    for n, (name, axis) in enumerate(zip(names, axes, strict=True)):
        for shaping, runs in report["curves"].items():
            curve = [_mean([run[step][n] for run in runs]) for step in range(min(map(len, runs)))]
            axis.plot(_smooth(curve), label=shaping)
        axis.set(ylabel=name)
    axes[0].legend(fontsize="x-small", ncols=2)
    axes[-1].set(xlabel="batch of episodes")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _smooth(values: Sequence[float], width: int = 3) -> list[float]:
    return [_mean(values[max(0, n - width + 1) : n + 1]) for n in range(len(values))]


def _column(rows: Sequence[Sequence[float]], n: int) -> float:
    return _mean([row[n] for row in rows])


def _mean(values: Sequence[float]) -> float:
    kept = [value for value in values if not math.isnan(value)]
    return mean(kept) if kept else NAN
