"""Preference pairs out of scored episodes: exactly the ids that were sampled, the environment's masked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aster_env.types import Trajectory


@dataclass(frozen=True, slots=True)
class Pair:
    """Two episodes of one task, the better one first; ids after the prompt, and 1 where the model sampled them."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    chosen_mask: list[int]
    rejected_ids: list[int]
    rejected_mask: list[int]

    def row(self) -> dict[str, list[int]]:
        """Return the pair as a row of a data set."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(slots=True)
class Preferences:
    """Pairs, and what became of the other tasks.

    Args:
        pairs: in the order of their tasks.
        tasks: how many there are of each kind: ``paired``, ``all_right``, ``all_wrong``, ``unscored``.
        overlong: episodes left out for their length.
        unjudged: episodes left out because the judge of the answer ran out of time.
    """

    pairs: list[Pair] = field(default_factory=list)
    tasks: Counter[str] = field(default_factory=Counter)
    overlong: int = 0
    unjudged: int = 0

    def report(self) -> str:
        """Say in a line what was found."""
        counts = self.tasks
        return (
            f"{len(self.pairs)} pairs from {sum(counts.values())} tasks: {counts['paired']} with a right and a wrong "
            f"episode, {counts['all_right']} all right, {counts['all_wrong']} all wrong, {counts['unscored']} without "
            f"a scored episode; {self.overlong} overlong and {self.unjudged} unjudged episodes left out"
        )


def make_pairs(
    trajectories: Sequence[Trajectory],
    *,
    threshold: float = 1.0,
    per_task: int = 1,
    max_length: int | None = None,
    seed: int = 0,
) -> Preferences:
    """Pair episodes of Tool-Star's self-critic rule (arXiv 2505.16410): chosen r >= 1, rejected r < 1, of one task.

    How many pairs a task gives is not published; here an episode is in one pair at most, drawn at random. Episodes
    that failed for reasons outside the model, in which it sampled nothing, or whose answer was not judged, are in none.

    Args:
        trajectories: scored episodes, in any order.
        threshold: the least reward of a chosen one.
        per_task: pairs of a task at most.
        max_length: tokens of an episode, prompt included; a longer one is left out whole, for cut short it would teach
            to stop in the middle.
        seed: of the draw.
    """
    found = Preferences()
    rng = np.random.default_rng(seed)
    for group in _by_task(trajectories).values():
        played = [t for t in group if t.reward is not None and any(t.mask)]
        scored = [t for t in played if not t.reward_terms.get("unjudged")]
        found.unjudged += len(played) - len(scored)
        fitting = [t for t in scored if max_length is None or len(t.ids) <= max_length]
        found.overlong += len(scored) - len(fitting)
        right = [t for t in fitting if (t.reward or 0.0) >= threshold]
        wrong = [t for t in fitting if (t.reward or 0.0) < threshold]
        found.tasks[_kind(bool(right), bool(wrong))] += 1
        count = min(len(right), len(wrong), per_task)
        chosen, rejected = (rng.permutation(len(side))[:count] for side in (right, wrong))
        found.pairs += [_pair(right[i], wrong[j]) for i, j in zip(chosen, rejected, strict=True)]
    return found


def _by_task(trajectories: Sequence[Trajectory]) -> Mapping[Any, list[Trajectory]]:
    """Return episodes by what was asked: the task, and the very ids of its prompt."""
    groups: dict[Any, list[Trajectory]] = {}
    for trajectory in trajectories:
        groups.setdefault((trajectory.task.id, tuple(trajectory.prompt_ids)), []).append(trajectory)
    return groups


def _kind(right: bool, wrong: bool) -> str:
    if right and wrong:
        return "paired"
    return "all_right" if right else "all_wrong" if wrong else "unscored"


def _pair(chosen: Trajectory, rejected: Trajectory) -> Pair:
    start = len(chosen.prompt_ids)
    parts = (part[start:] for t in (chosen, rejected) for part in (t.ids, t.mask))
    return Pair(chosen.prompt_ids, *parts)
