"""Interaction collapse: many turns with tools fall into long thinking with one trivial call, or none.

ASTER (arXiv:2602.01204) names it and watches calls, turn length and entropy; it publishes no thresholds. Those below
are chosen so that a run whose calls stay, however its other measures drift, gives no warning, and so that one batch
cannot give one.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aster_env.errors import UsageError
from aster_env.types import StopReason, Trajectory

WINDOW = 8
"""Measurements in each mean: few, to be before a collapse, and enough that batches which vary by a third (a handful of
episodes) give no false warning in hundreds of steps."""
FELL = 0.9
"""Calls have fallen when they are at most this share of their start; a smaller difference may be noise."""
RECOVERED = 0.5
"""A warning can come again once its measure is back by half of the way from the start to the threshold."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What is measured at a step of training; NaN where something was not.

    Args:
        step: of the run.
        calls: executed, per episode.
        only_last: share of episodes whose only call is the last action before the answer.
        no_call: share of episodes without a call.
        entropy: of the policy, in nats per token.
        turn_length: tokens per turn of the model.
    """

    step: int
    calls: float = math.nan
    only_last: float = math.nan
    no_call: float = math.nan
    entropy: float = math.nan
    turn_length: float = math.nan


@dataclass(frozen=True, slots=True)
class Collapse:
    """A warning: one measure against its own start.

    Args:
        name: ``fewer_calls``, ``one_last_call``, ``no_calls``, ``longer_turns`` or ``entropy_fell``.
        step: at which it was raised.
        measure: in words.
        start: mean of the first measurements.
        now: mean of the last ones.
        start_steps: first and last step of the first measurements.
        now_steps: first and last step of the last ones.
    """

    name: str
    step: int
    measure: str
    start: float
    now: float
    start_steps: tuple[int, int]
    now_steps: tuple[int, int]

    def text(self) -> str:
        """Return the warning for people, with its evidence."""
        (a, b), (c, d) = self.start_steps, self.now_steps
        return (
            f"Interaction collapse ({self.name}) at step {self.step}: {self.measure} "
            f"{self.start:.3g} (steps {a} to {b}) → {self.now:.3g} (steps {c} to {d})."
        )

    def to_json(self) -> dict[str, Any]:
        """Return the warning as plain JSON types, its text included."""
        return {
            "name": self.name,
            "step": self.step,
            "measure": self.measure,
            "start": self.start,
            "now": self.now,
            "start_steps": list(self.start_steps),
            "now_steps": list(self.now_steps),
            "text": self.text(),
        }


@dataclass(frozen=True, slots=True)
class _Rule:
    """Raised when ``field`` passes ``limit(start)``, on whichever side of the start that is.

    Where ``supports`` is set, only while calls have fallen: turns that grow, a policy that grows sure of itself and
    problems that take one call are what successful training looks like too.
    """

    name: str
    field: str
    measure: str
    limit: Callable[[float], float]
    supports: bool


_RULES = (
    # At least half of the calls are gone, and a quarter of a call: less is noise where there are hardly any.
    _Rule("fewer_calls", "calls", "calls per episode", lambda start: min(start / 2, start - 0.25), False),
    # What a third more of the episodes do, and most of them.
    _Rule("no_calls", "no_call", "share of episodes without a call", lambda start: max(start + 0.3, 0.5), False),
    _Rule(
        "one_last_call", "only_last", "share of episodes whose only call comes right before the answer",
        lambda start: max(start + 0.3, 0.5), True,
    ),
    _Rule("longer_turns", "turn_length", "tokens per turn", lambda start: 2 * start, True),
    # Healthy runs lose much of their entropy, so only a small rest of it counts.
    _Rule("entropy_fell", "entropy", "entropy per token", lambda start: start / 5, True),
)  # fmt: skip


@dataclass(slots=True)
class _Series:
    """The first and the last measurements of one kind, each with its step."""

    first: list[tuple[int, float]]
    last: deque[tuple[int, float]]

    def add(self, step: int, value: float) -> None:
        if len(self.first) < (self.last.maxlen or 0):
            self.first.append((step, value))
        else:
            self.last.append((step, value))

    @property
    def full(self) -> bool:
        return len(self.last) == self.last.maxlen

    @property
    def start(self) -> float:
        return statistics.median(value for _, value in self.first)

    @property
    def now(self) -> float:
        return statistics.median(value for _, value in self.last)


@dataclass(slots=True)
class CollapseWatch:
    """Compares each measure's last measurements with its first, and warns once until it recovers.

    Args:
        window: measurements in each mean; no warning comes before twice as many.

    Raises:
        UsageError: a window below 1.
    """

    window: int = WINDOW
    active: set[str] = field(default_factory=set, init=False)
    """Names of the warnings that were raised and have not recovered."""
    _series: dict[str, _Series] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.window < 1:
            raise UsageError(f"window={self.window} is not allowed. Allowed: 1 measurement or more.")
        self._series = {rule.field: _Series([], deque(maxlen=self.window)) for rule in _RULES}

    def add(self, measured: Measured) -> list[Collapse]:
        """Take a step's measurements, in the order of steps, and return the warnings that they raise."""
        found = []
        added = [name for name in self._series if math.isfinite(getattr(measured, name))]
        for name in added:
            self._series[name].add(measured.step, getattr(measured, name))
        for rule in _RULES:
            if rule.field in added and self._series[rule.field].full and self._raises(rule):
                found.append(self._report(rule, measured.step))
        return found

    def _raises(self, rule: _Rule) -> bool:
        series = self._series[rule.field]
        limit, start = rule.limit(series.start), series.start
        depth = (series.now - start) / (limit - start) if limit != start else 0.0
        if rule.name in self.active:
            if depth <= RECOVERED:
                self.active.discard(rule.name)
            return False
        if depth < 1 or (rule.supports and not self._calls_fell()):
            return False
        self.active.add(rule.name)
        return True

    def _calls_fell(self) -> bool:
        """Whether episodes have fewer calls than at the start; true where no call was ever measured.

        Calls may be measured more seldom than entropy: until they can be compared, they have not fallen.
        """
        calls = self._series["calls"]
        return not calls.first or (calls.full and calls.now <= FELL * calls.start)

    def _report(self, rule: _Rule, step: int) -> Collapse:
        series = self._series[rule.field]
        ends = [(part[0][0], part[-1][0]) for part in (series.first, series.last)]
        return Collapse(rule.name, step, rule.measure, series.start, series.now, *ends)


def only_call_is_last(trajectory: Trajectory) -> bool:
    """Return whether an episode's only executed call is its last action before the answer."""
    if trajectory.stop is not StopReason.ANSWERED or trajectory.tool_calls != 1:
        return False
    turns = trajectory.model_turns
    return len(turns) > 1 and any(call.problem is None for call in turns[-2].calls)


def measure(step: int, trajectories: Iterable[Trajectory]) -> Measured:
    """Return what a step's episodes show; NaN where there are none that count.

    Args:
        step: of the run.
        trajectories: played in that step; those that failed outside the model do not count. Entropy is estimated by
            the mean of -log p of what was sampled, and is NaN where no log-probabilities are stored.
    """
    kept = [t for t in trajectories if t.stop is not StopReason.INFRASTRUCTURE]
    turns = [turn for t in kept for turn in t.model_turns]
    surprise = [-chance for turn in turns for chance in turn.logprobs or () if math.isfinite(chance)]
    return Measured(
        step,
        calls=_mean([t.tool_calls for t in kept]),
        only_last=_mean([only_call_is_last(t) for t in kept]),
        no_call=_mean([t.tool_calls == 0 for t in kept]),
        entropy=_mean(surprise),
        turn_length=_mean([len(turn.ids) for turn in turns]),
    )


def read_run(folder: str | Path) -> list[Measured]:
    """Return what each step of a run shows, from the files of its episodes in training.

    Args:
        folder: the run's ``trajectories``, which holds ``train-STEP.jsonl``, of several processes ``…-rankN.jsonl``.

    Raises:
        UsageError: there are none.
    """
    steps: dict[int, list[Path]] = {}
    for path in sorted(Path(folder).glob("train-*.jsonl")):
        if found := re.fullmatch(r"train-(\d+)(-rank\d+)?", path.stem):
            steps.setdefault(int(found[1]), []).append(path)
    if not steps:
        raise UsageError(
            f"{str(folder)!r} holds no train-STEP.jsonl. Allowed: the folder 'trajectories' of a run's output_dir."
        )
    return [measure(step, (t for path in paths for t in _episodes(path))) for step, paths in sorted(steps.items())]


def watch_run(folder: str | Path, window: int = WINDOW) -> list[Collapse]:
    """Return the warnings of a run, from the files of its episodes; see ``read_run`` and ``CollapseWatch``."""
    watch = CollapseWatch(window)
    return [warning for measured in read_run(folder) for warning in watch.add(measured)]


def _episodes(path: Path) -> Iterable[Trajectory]:
    with open(path, encoding="utf-8") as file:
        for line in file:
            # A run that was killed may have left the last line unfinished.
            if line.endswith("\n"):
                yield Trajectory.from_json(json.loads(line))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
