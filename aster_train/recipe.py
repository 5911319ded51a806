"""What a recipe adds to plain GRPO: shaped advantages, penalties, a selection of episodes, a curriculum of tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from trl import GRPOConfig

from aster_env.errors import UsageError
from aster_env.tasks import TaskSet
from aster_env.types import Trajectory
from aster_train.advantages import group_relative
from aster_train.curriculum import Curriculum, read_curriculum
from aster_train.penalties import Penalties, read_penalties
from aster_train.selection import Selection, read_selection
from aster_train.shaping import AdvantageShaping, read_shaping


@dataclass(frozen=True, slots=True)
class Recipe:
    """The parts that a configuration switches on, each by one line; none by default.

    Args:
        shaping: of advantages.
        penalties: of rewards.
        selection: of the episodes that are trained on.
        curriculum: of the tasks that are played.
    """

    shaping: AdvantageShaping | None = None
    penalties: Penalties = field(default_factory=lambda: read_penalties(None))
    selection: Selection = field(default_factory=lambda: read_selection(None))
    curriculum: Curriculum | None = None

    @classmethod
    def read(
        cls,
        shaping: Mapping[str, Any] | None = None,
        penalties: Mapping[str, Any] | None = None,
        selection: Mapping[str, Any] | None = None,
        curriculum: Mapping[str, Any] | None = None,
    ) -> Recipe:
        """Return the recipe of a configuration's values.

        Raises:
            UsageError: an unknown name, or a value that is not allowed.
        """
        return cls(
            read_shaping(shaping), read_penalties(penalties), read_selection(selection), read_curriculum(curriculum)
        )

    def check(self, args: GRPOConfig) -> None:
        """Raise ``UsageError`` where episodes are selected and a group would be spread over processes."""
        batch = args.per_device_train_batch_size * args.steps_per_generation
        if self.selection.replaces and batch % args.num_generations:
            raise UsageError(
                f"'selection' needs whole groups on each process, and {batch} episodes (per_device_train_batch_size x "
                f"steps_per_generation) are no multiple of num_generations={args.num_generations}. "
                "Fix: make them one."
            )

    @property
    def wrappers(self) -> Sequence[Callable[[Any], Any]]:
        """What measures an episode of training for the shaping."""
        return self.shaping.wrappers if self.shaping else ()

    def fit(self, envs: Sequence[Any]) -> None:
        """Leave to environments the tasks that the curriculum keeps.

        Raises:
            UsageError: it knows none of them or keeps none, or a penalty does not go with ``max_tokens``.
        """
        self.penalties.check(envs[0].limits.max_tokens)
        if self.curriculum is None:
            return
        if not any(task.id in self.curriculum.counts for task in envs[0].tasks):
            raise UsageError(
                f"curriculum.after={self.curriculum.after!r} played none of the {len(envs[0].tasks)} tasks: its ids "
                f"are like {next(iter(self.curriculum.counts))!r}, and these like {envs[0].tasks[0].id!r}. Fix: name a "
                "run on the same tasks, or leave the curriculum out."
            )
        tasks = TaskSet((task for task in envs[0].tasks if self.curriculum.keeps(task.id)), envs[0].tasks.name)
        for env in envs:
            env.tasks = tasks

    def plan(self, prompts: Sequence[str], group_size: int, tasks: TaskSet, seed: int) -> list[str]:
        """Return the ids of the tasks to play for a batch that asks for ``prompts``.

        Args:
            prompts: a process's task ids, those of a group side by side.
            group_size: G.
            tasks: all of the run, to draw further ones from.
            seed: of the batch.
        """
        if not self.selection.replaces:
            return list(prompts)
        rng = np.random.default_rng((seed, 1))
        others = sorted({task.id for task in tasks} - set(prompts)) or sorted(set(prompts))

        def extra(count: int) -> list[str]:
            return [str(name) for name in rng.choice(others, size=count, replace=count > len(others))]

        return self.selection.plan(prompts, group_size, extra)

    def prepare(
        self, played: Sequence[Trajectory], group_size: int, count: int, seed: int, limit: int
    ) -> tuple[list[Trajectory], dict[str, float]]:
        """Return ``count`` of the episodes played, penalties added to their rewards, and metrics of the choice.

        Args:
            played: the episodes of the planned tasks, in their order.
            group_size: G.
            count: a multiple of G.
            seed: of the batch.
            limit: tokens that an episode may have.
        """
        chosen, metrics = list(played), dict[str, float]()
        if self.selection.replaces:
            chosen, metrics = self.selection.choose(played, group_size, count // group_size, seed)
        for trajectory in chosen:
            if trajectory.reward is None:
                continue
            terms = self.penalties.apply(trajectory, limit)
            if terms:
                # Without a term of its own, whether it is right could no longer be told from its reward.
                trajectory.reward_terms = {"correct": trajectory.reward, **trajectory.reward_terms, **terms}
                trajectory.reward += sum(terms.values())
        return chosen, metrics

    def rows(self, trajectories: Sequence[Trajectory]) -> list[list[float]]:
        """Return, for each episode, what ``advantages`` needs: its reward, whether it is right, and its shaping."""
        nan = float("nan")
        rows = []
        for trajectory in trajectories:
            reward = nan if trajectory.reward is None else trajectory.reward
            correct = trajectory.reward_terms.get("correct", float(reward > 0))
            rows.append([reward, correct, *(self.shaping.row(trajectory) if self.shaping else ())])
        return rows

    def advantages(self, rows: torch.Tensor, group_size: int, *, scale: bool) -> Shaped:
        """Return the advantages of all processes' episodes.

        Args:
            rows: shape (B·G, 2 + K), see ``rows``; the episodes of a group side by side.
            group_size: G.
            scale: whether a group's advantages are divided by its standard deviation.
        """
        rewards, correct = rows[:, 0], rows[:, 1]
        if self.shaping is None:
            plain = group_relative(rewards, group_size, scale=scale)
            return Shaped(plain, torch.zeros_like(plain), plain)
        return Shaped(*self.shaping.apply(rows[:, 2:], rewards, correct, group_size, scale))


@dataclass(frozen=True, slots=True)
class Shaped:
    """Advantages, shape (B·G,): what is trained with, the part φ of it that shaping added, and what it was without."""

    advantages: torch.Tensor
    phi: torch.Tensor
    unshaped: torch.Tensor

    @property
    def columns(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The three, in the order of the fields."""
        return self.advantages, self.phi, self.unshaped

    def lists(self) -> dict[str, list[float]]:
        """Return the columns that are stored with the episodes."""
        names = ("advantage", "phi", "unshaped_advantage")
        return {name: column.tolist() for name, column in zip(names, self.columns, strict=True)}

    def metrics(self) -> dict[str, float]:
        """Return what is logged of a step: how large φ is beside the advantages."""
        names = ("shaping/advantage_size", "shaping/phi_size", "shaping/unshaped_advantage_size")
        sizes = {name: column.abs().mean().item() for name, column in zip(names, self.columns, strict=True)}
        return {**sizes, "shaping/phi_mean": self.phi.mean().item()}
