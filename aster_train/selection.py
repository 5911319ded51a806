"""Which of the episodes played are trained on: resampling, an accuracy band, and void turns."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aster_env.errors import UsageError, check_name
from aster_env.types import StopReason, Trajectory
from aster_train.values import check_type

OVERSAMPLE = 3
"""How many times the tasks asked for are played where a band is set: SimpleTIR's factor (arXiv:2509.02479)."""


def is_void(trajectory: Trajectory) -> bool:
    """Return whether a turn of the model held neither a call nor an answer; the environment ends such an episode.

    SimpleTIR (arXiv:2509.02479) leaves these episodes out of the loss.
    """
    return trajectory.stop is StopReason.VOID_TURN


def accuracy(group: Sequence[Trajectory]) -> float:
    """Return the mean of the term ``correct``, or without one of the reward; NaN where nothing is scored."""
    scores = [_correct(trajectory) for trajectory in group if trajectory.reward is not None]
    return float(np.mean(scores)) if scores else math.nan


def in_band(group: Sequence[Trajectory], low: float, high: float) -> bool:
    """Return whether a group's accuracy is within [low, high]; not so where nothing of it is scored.

    The filter of SimpleTIR (arXiv:2509.02479), which keeps 0.1 to 0.9. Dynamic sampling of DAPO (arXiv:2503.14476,
    section 3.2) keeps what is neither 0 nor 1, that is a band from 1/G to 1 - 1/G.
    """
    return low <= accuracy(group) <= high


def choose_groups(groups: Sequence[Sequence[Trajectory]], count: int, low: float, high: float) -> list[int]:
    """Return the positions of ``count`` groups: those in the band first, each kind in the order given.

    Where they are too few, others fill up the batch, whose shape is fixed; groups of which nothing is scored come
    last. Published systems play on until the batch is full, which bounds neither time nor memory.

    Raises:
        ValueError: fewer than ``count`` groups are given.
    """
    if count > len(groups):
        raise ValueError(f"{count} groups of {len(groups)} cannot be chosen")

    def rank(n: int) -> int:
        return 0 if in_band(groups[n], low, high) else 2 if math.isnan(accuracy(groups[n])) else 1

    return sorted(range(len(groups)), key=rank)[:count]


def tool_penalty(trajectory: Trajectory) -> float:
    """Return how untidy an episode is, 0 to 2: its tool errors plus its errors of format.

    rStar2-Agent (arXiv:2508.20722). Tool errors are the share of results that say the call failed, and
    0.5 for an episode without a result. The paper's format errors are missing or repeated answer tags, of which an
    environment here allows just one; they are the share of calls that could not be read, and 1 for an episode that
    did not end in an answer.
    """
    results = trajectory.results
    errors = sum(not result.ok for result in results) / len(results) if results else 0.5
    if trajectory.stop is not StopReason.ANSWERED:
        return errors + 1.0
    calls = [call for turn in trajectory.model_turns for call in turn.calls]
    return errors + (sum(call.problem is not None for call in calls) / len(calls) if calls else 0.0)


def resample_on_correct(group: Sequence[Trajectory], keep: int, rng: np.random.Generator) -> list[int]:
    """Return the positions of ``keep`` episodes: of the right ones the tidiest, of the wrong ones any.

    GRPO-RoC of rStar2-Agent (arXiv:2508.20722): twice the episodes are played and half of each side is
    kept, the wrong ones drawn uniformly, so that the ways to fail stay varied. The paper draws right ones with a
    probability that falls with ``tool_penalty``; the published code takes the least, as here, with ties drawn. Each
    side keeps one episode at least, for a group without both teaches nothing.

    Args:
        group: the episodes of one task; right is one whose term ``correct``, or without one its reward, is above 0.
        keep: how many.
        rng: draws.

    Returns:
        Positions in ascending order, but for episodes without a reward: these come last, where others are too few.

    Raises:
        ValueError: the group has fewer than ``keep`` episodes.
    """
    if keep > len(group):
        raise ValueError(f"{keep} episodes of {len(group)} cannot be kept")
    order = [int(n) for n in rng.permutation(len(group))]
    scored = [n for n in order if group[n].reward is not None]
    right = sorted((n for n in scored if _correct(group[n]) > 0), key=lambda n: tool_penalty(group[n]))
    wrong = [n for n in scored if not _correct(group[n]) > 0]
    if len(scored) > keep:
        least, most = max(keep - len(wrong), min(len(right), 1)), min(len(right), keep - min(len(wrong), 1))
        share = min(max(round(keep * len(right) / len(scored)), least), most)
        right, wrong = right[:share], wrong[: keep - share]
    kept = sorted(right + wrong)
    return kept + [n for n in range(len(group)) if group[n].reward is None][: keep - len(kept)]


@dataclass(frozen=True, slots=True)
class Selection:
    """What is played beyond what a batch asks for, and what of it is trained on; by default nothing more, and all.

    Args:
        resample: how many times G episodes of each task are played; ``resample_on_correct`` keeps G.
        accuracy_band: the least and the greatest accuracy of a group that is preferred; see ``choose_groups``.
        oversample: how many times the tasks asked for are played, so that enough are in the band.
        mask_void_turns: whether episodes that ended in a void turn are masked from the loss.

    Raises:
        UsageError: a factor below 1, a band that is none, or one of band and ``oversample`` without the other.
    """

    resample: int = 1
    accuracy_band: tuple[float, float] | None = None
    oversample: int = 1
    mask_void_turns: bool = False

    def __post_init__(self) -> None:
        for name in ("resample", "oversample"):
            if getattr(self, name) < 1:
                raise UsageError(f"selection.{name}: {getattr(self, name)} is not allowed. Allowed: 2 or more.")
        if self.accuracy_band is not None:
            low, high = self.accuracy_band
            if not 0 <= low <= high <= 1:
                raise UsageError(
                    f"selection.accuracy_band: {[low, high]} is not allowed. Allowed: [low, high] with "
                    "0 <= low <= high <= 1."
                )
        if (self.oversample > 1) != (self.accuracy_band is not None):
            raise UsageError(
                f"selection: oversample={self.oversample} with accuracy_band={self.accuracy_band} is not allowed: "
                "further tasks are played to find groups in the band. Fix: set both, oversample to 2 or more."
            )

    @property
    def replaces(self) -> bool:
        """Whether other episodes are played than a batch asks for."""
        return self.resample > 1 or self.oversample > 1

    def masks(self, trajectory: Trajectory) -> bool:
        """Return whether an episode is masked from the loss."""
        return self.mask_void_turns and is_void(trajectory)

    def plan(self, task_ids: Sequence[str], group_size: int, extra: Callable[[int], Sequence[str]]) -> list[str]:
        """Return the ids of the tasks to play, one for each episode, those of a group side by side.

        Args:
            task_ids: what a process's batch asks for, in whole groups.
            group_size: G.
            extra: returns so many ids of further tasks.

        Raises:
            ValueError: the ids do not divide into groups of one task each.
        """
        if len(task_ids) % group_size:
            raise ValueError(f"{len(task_ids)} task ids do not divide into groups of {group_size}")
        groups = [task_ids[n : n + group_size] for n in range(0, len(task_ids), group_size)]
        if any(len(set(group)) > 1 for group in groups):
            raise ValueError(f"the task ids of a group of {group_size} differ")
        wanted = [group[0] for group in groups]
        if self.oversample > 1:
            wanted += extra((self.oversample - 1) * len(groups))
        return [task_id for task_id in wanted for _ in range(group_size * self.resample)]

    def choose(
        self, trajectories: Sequence[Trajectory], group_size: int, wanted_groups: int, seed: int
    ) -> tuple[list[Trajectory], dict[str, float]]:
        """Return the episodes to train on, groups side by side, and metrics.

        Groups are chosen by all of their episodes, before these are resampled.

        Args:
            trajectories: the episodes of a plan, in its order.
            group_size: G.
            wanted_groups: how many groups of G to return.
            seed: draws.

        Returns:
            The episodes, and by their names: ``selection/played``, how many episodes were; of these
            ``selection/accuracy_played``, ``selection/void``, the share that ended in a void turn, and
            ``selection/in_band``, the share of groups (1 without a band); of the groups chosen
            ``selection/filled``, the share outside the band.

        Raises:
            ValueError: the episodes are not as many as planned.
        """
        size = group_size * self.resample
        if len(trajectories) != size * wanted_groups * self.oversample:
            raise ValueError(f"{len(trajectories)} episodes are not {wanted_groups * self.oversample} groups of {size}")
        rng = np.random.default_rng(seed)
        groups = [trajectories[n : n + size] for n in range(0, len(trajectories), size)]
        low, high = self.accuracy_band or (-math.inf, math.inf)
        taken = choose_groups(groups, wanted_groups, low, high) if self.accuracy_band else list(range(len(groups)))
        fits = [self.accuracy_band is None or in_band(group, low, high) for group in groups]
        chosen = [groups[n][k] for n in taken for k in resample_on_correct(groups[n], group_size, rng)]
        return chosen, {
            "selection/played": float(len(trajectories)),
            "selection/accuracy_played": accuracy(trajectories),
            "selection/void": float(np.mean([is_void(trajectory) for trajectory in trajectories])),
            "selection/in_band": float(np.mean(fits)),
            "selection/filled": float(np.mean([not fits[n] for n in taken])),
        }


def read_selection(values: Mapping[str, Any] | None) -> Selection:
    """Return the selection of a configuration.

    Args:
        values: ``resample``: 2 or more; ``accuracy_band``: ``[low, high]``; ``oversample``: 2 or more, beside a band
            (3 if absent); ``mask_void_turns``: true or false. A key that is absent or null is off.

    Raises:
        UsageError: an unknown key, or a value that is not allowed.
    """
    kinds: dict[str, Any] = {"resample": int, "accuracy_band": list, "oversample": int, "mask_void_turns": bool}
    read: dict[str, Any] = {}
    for name, value in (values or {}).items():
        check_name("key of 'selection'", name, tuple(kinds))
        if value is None:
            continue
        check_type(f"selection.{name}", value, kinds[name])
        if kinds[name] is int and value < 2:
            raise UsageError(f"selection.{name}: {value} is not allowed. Allowed: 2 or more. Fix: leave it out.")
        read[name] = value
    if "accuracy_band" in read:
        read["accuracy_band"] = _band(read["accuracy_band"])
        read.setdefault("oversample", OVERSAMPLE)
    return Selection(**read)


def _band(value: Sequence[Any]) -> tuple[float, float]:
    if len(value) != 2:
        raise UsageError(f"selection.accuracy_band: {value!r} is not allowed. Allowed: [low, high].")
    for bound in value:
        check_type("selection.accuracy_band", bound, float)
    return float(value[0]), float(value[1])


def _correct(trajectory: Trajectory) -> float:
    return float(trajectory.reward_terms.get("correct", trajectory.reward or 0.0))
