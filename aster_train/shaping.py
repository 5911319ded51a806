"""Shaping that one line of YAML switches on: what is measured of an episode, and what becomes of its advantage.

::

    shaping: {name: aspo, delta: -2.0, k: 0.7}
"""

from __future__ import annotations

import abc
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import torch

from aster_env.errors import UsageError, check_name
from aster_env.shaping import Bigrams, EarlyCall, FirstCall
from aster_env.types import Trajectory
from aster_train import advantages

NAN = float("nan")
_BELOW_ZERO = ("a number below 0", lambda value: value < 0)
_ABOVE_ZERO = ("a number above 0", lambda value: value > 0)
_NOT_BELOW_ZERO = ("a number, 0 or more", lambda value: value >= 0)
_PART = ("a number between 0 and 1; below 1, no right episode's advantage changes sign", lambda value: 0 < value < 1)


def _number(default: float, allowed: tuple[str, Callable[[float], bool]]) -> Any:
    return field(default=default, metadata={"allowed": allowed})


@dataclass(frozen=True, slots=True)
class AdvantageShaping(abc.ABC):
    """A way to shape advantages, and its numbers.

    A row of numbers is made of each episode where it was played; the rows of all processes come together before the
    advantages are shaped.

    Raises:
        UsageError: a number is not allowed.
    """

    name: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    """What a row holds: names in ``Trajectory.shaping``, and ``is_math``."""

    def __post_init__(self) -> None:
        for spec in fields(self):
            value, (said, fits) = getattr(self, spec.name), spec.metadata["allowed"]
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if not number or not fits(value):
                raise UsageError(f"shaping {self.name!r}: {spec.name}={value!r} is not allowed. Allowed: {said}.")

    @property
    @abc.abstractmethod
    def wrappers(self) -> tuple[Callable[[Any], Any], ...]:
        """What measures an episode: ``wrappers`` of ``aster_env.rollout.RolloutRunner``."""

    def row(self, trajectory: Trajectory) -> list[float]:
        """Return an episode's numbers, one for each column; NaN for what is absent."""
        known = {**trajectory.shaping, "is_math": float(trajectory.task.kind == "math")}
        return [known.get(column, NAN) for column in self.columns]

    def apply(
        self, rows: torch.Tensor, rewards: torch.Tensor, correct: torch.Tensor, group_size: int, scale: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Shape the group-relative advantages of a step.

        Args:
            rows: shape (B·G, K), see ``row``; the episodes of a group side by side.
            rewards: shape (B·G,); NaN for an episode that was not scored, which counts for nothing and gets 0.
            correct: shape (B·G,): above 0 for an episode that is right.
            group_size: G.
            scale: whether a group's advantages are divided by its standard deviation.

        Returns:
            The shaped advantages, what was added to them, and the unshaped advantages, each of shape (B·G,).
        """
        scored = ~rewards.isnan()
        right = scored & (correct > 0)
        plain = advantages.group_relative(rewards, group_size, scale=scale)
        shaped = self._shape(rows, rewards, right, plain, group_size, scale)
        shaped = torch.where(scored, shaped, plain)
        return shaped, shaped - plain, plain

    @abc.abstractmethod
    def _shape(
        self,
        rows: torch.Tensor,
        rewards: torch.Tensor,
        right: torch.Tensor,
        plain: torch.Tensor,
        group_size: int,
        scale: bool,
    ) -> torch.Tensor:
        """Return the shaped advantages; those of episodes that were not scored are passed over."""


@dataclass(frozen=True, slots=True)
class Aspo(AdvantageShaping):
    """ASPO with its published δ and k; the other published pair is -2.5 and 0.9 (arXiv:2508.19201)."""

    name = "aspo"
    columns = ("first_call/tokens", "length/tokens")
    delta: float = _number(-2.0, _BELOW_ZERO)
    k: float = _number(0.7, _PART)

    @property
    def wrappers(self) -> tuple[Callable[[Any], Any], ...]:
        """The position of the first call."""
        return (FirstCall,)

    def _shape(self, rows: Any, rewards: Any, right: Any, plain: Any, group_size: int, scale: bool) -> torch.Tensor:
        positions, lengths = rows.T
        return advantages.aspo(plain, positions, lengths, right, group_size, delta=self.delta, k=self.k)


@dataclass(frozen=True, slots=True)
class AspoInTheReward(AdvantageShaping):
    """The variant in the reward, which collapses; see ``aster_train.advantages.aspo_in_the_reward_collapses``.

    Its numbers are chosen here.
    """

    name = "aspo_in_the_reward_collapses"
    columns = ("first_call/tokens",)
    delta: float = _number(-0.5, _BELOW_ZERO)
    c: float = _number(1.0, _ABOVE_ZERO)

    @property
    def wrappers(self) -> tuple[Callable[[Any], Any], ...]:
        """The position of the first call."""
        return (FirstCall,)

    def _shape(self, rows: Any, rewards: Any, right: Any, plain: Any, group_size: int, scale: bool) -> torch.Tensor:
        made = advantages.aspo_in_the_reward_collapses(
            rewards, rows[:, 0], right, group_size, delta=self.delta, c=self.c
        )
        return advantages.group_relative(made, group_size, scale=scale)


@dataclass(frozen=True, slots=True)
class Bigram(AdvantageShaping):
    """The bigram version as reported for Tool-Star: A + λφ, with its reported numbers.

    ``scale`` is λ, and ``early_k`` the k of ψ, see ``aster_env.shaping.early_call``.
    """

    name = "bigram"
    columns = ("ends/python>answer", "bigram/python>think", "is_math", "early_call")
    alpha: float = _number(1.0, _NOT_BELOW_ZERO)
    beta: float = _number(1.0, _NOT_BELOW_ZERO)
    gamma: float = _number(0.5, _NOT_BELOW_ZERO)
    scale: float = _number(0.5, _ABOVE_ZERO)
    early_k: float = _number(5.0, _ABOVE_ZERO)

    @property
    def wrappers(self) -> tuple[Callable[[Any], Any], ...]:
        """The pairs of actions, and how early the first call is."""
        return (Bigrams, functools.partial(EarlyCall, k=self.early_k))

    def _shape(self, rows: Any, rewards: Any, right: Any, plain: Any, group_size: int, scale: bool) -> torch.Tensor:
        return advantages.bigram(plain, self._phi(rows), scale=self.scale)

    def _phi(self, rows: torch.Tensor) -> torch.Tensor:
        # A pair that does not occur is absent from an episode's measures.
        columns = rows.nan_to_num(nan=0.0).T
        return advantages.bigram_phi(*columns, alpha=self.alpha, beta=self.beta, gamma=self.gamma)


@dataclass(frozen=True, slots=True)
class BigramClipped(Bigram):
    """The bigram version for right episodes alone, under ASPO's bound k."""

    name = "bigram_clipped"
    k: float = _number(0.7, _PART)

    def _shape(self, rows: Any, rewards: Any, right: Any, plain: Any, group_size: int, scale: bool) -> torch.Tensor:
        return advantages.bigram_clipped(plain, self._phi(rows), right, scale=self.scale, k=self.k)


SHAPINGS: Mapping[str, type[AdvantageShaping]] = {
    kind.name: kind for kind in (Aspo, Bigram, BigramClipped, AspoInTheReward)
}
"""By the name that a configuration gives."""


def read_shaping(values: Mapping[str, Any] | None) -> AdvantageShaping | None:
    """Return the shaping of a configuration's values, or None without any.

    Args:
        values: ``name``, one of ``SHAPINGS``, and any of its numbers; those left out have their published values.

    Raises:
        UsageError: an unknown name, or a number that is unknown or not allowed.
    """
    if values is None:
        return None
    if not isinstance(values, Mapping) or "name" not in values:
        raise UsageError(
            f"shaping={values!r} is not allowed. Allowed: null, or a mapping with a 'name' "
            f"({', '.join(map(repr, SHAPINGS))}). Fix: shaping: {{name: aspo}}."
        )
    kind = SHAPINGS[check_name("shaping", values["name"], SHAPINGS)]
    numbers = {name: value for name, value in values.items() if name != "name"}
    for name in numbers:
        check_name(f"number of shaping {kind.name!r}", name, [spec.name for spec in fields(kind)])
    return kind(**numbers)
