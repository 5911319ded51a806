"""Penalties on rewards, as published recipes have them: each a pure function, switched on by one line of YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aster_env.errors import UsageError, check_name
from aster_env.types import StopReason, Trajectory
from aster_train.values import check_type

BUFFER = 4096
"""Tokens before the limit in which an episode is penalised (DAPO, arXiv:2503.14476)."""


def overlong_penalty(length: int, limit: int, buffer: int = BUFFER) -> float:
    """Return min(-(length - (limit - buffer)) / buffer, 0), at least -1.

    Soft overlong punishment of DAPO (arXiv:2503.14476, section 3.4) and DemyAgent (arXiv:2510.11701): nothing until
    ``buffer`` tokens are left, then linearly down to -1 at the limit.

    Args:
        length: tokens of an episode, counted as ``limit`` counts them.
        limit: tokens that it may have.
        buffer: tokens before the limit in which the penalty grows.

    Raises:
        UsageError: the buffer is no part of the limit.
    """
    if not 1 <= buffer <= limit:
        raise UsageError(
            f"penalties.overlong: a buffer of {buffer} tokens is not allowed. Allowed: 1 to {limit}, the tokens that "
            "an episode may have. Fix: a smaller buffer, or a larger env_kwargs.max_tokens."
        )
    return min(0.0, max(-1.0, (limit - buffer - length) / buffer))


def wrong_floor(score: float, turns: int, most: float = -0.6, per_turn: float = 0.05) -> float:
    """Return min(most, score + per_turn·(turns - 2)): what a wrong answer is worth.

    DemyAgent (arXiv:2510.11701) and the ReTool recipe that it builds on: calls make a wrong answer less bad, up to a
    bound that stays far below any right answer. The papers leave open what is counted; the public recipes score a
    wrong answer -1 and count every turn, the prompt and the results too, so that an answer without a call has two
    turns and each call adds two, that is 0.1.

    Args:
        score: of a wrong answer without a call, negative.
        turns: of the episode, the prompt and the results included.
        most: the result is never above it.
        per_turn: what each turn after the second adds.
    """
    return min(most, score + per_turn * (turns - 2))


@dataclass(frozen=True, slots=True)
class WrongFloor:
    """The numbers of ``wrong_floor``.

    Args:
        most: the bound.
        score: of a wrong answer without a call, where the environment's own reward is not negative.
        per_turn: what a turn adds.

    Raises:
        UsageError: not ``score <= most <= 0``, or a negative ``per_turn``.
    """

    most: float = -0.6
    score: float = -1.0
    per_turn: float = 0.05

    def __post_init__(self) -> None:
        if not (self.score <= self.most <= 0 <= self.per_turn < float("inf")):
            raise UsageError(
                f"penalties.wrong_floor: score={self.score}, most={self.most}, per_turn={self.per_turn} is not "
                "allowed. Allowed: score <= most <= 0 and per_turn >= 0."
            )


@dataclass(frozen=True, slots=True)
class Penalties:
    """Which penalties are on; none by default.

    Args:
        overlong: the buffer of ``overlong_penalty``, in tokens.
        wrong_floor: the numbers of ``wrong_floor``.

    Raises:
        UsageError: a buffer below 1.
    """

    overlong: int | None = None
    wrong_floor: WrongFloor | None = None

    def __post_init__(self) -> None:
        if self.overlong is not None and self.overlong < 1:
            raise UsageError(f"penalties.overlong: {self.overlong} is not allowed. Allowed: tokens, 1 or more.")

    def check(self, limit: int) -> None:
        """Raise ``UsageError`` where the buffer is longer than an episode of ``limit`` tokens."""
        if self.overlong is not None:
            overlong_penalty(0, limit, self.overlong)

    def apply(self, trajectory: Trajectory, limit: int) -> dict[str, float]:
        """Return the terms to add to an episode's reward, by the names ``penalty/…``; none where it has no reward.

        An answer is wrong if its term ``correct``, or without one its reward, is not above 0. The episode stays as
        it is.

        Args:
            trajectory: a scored episode.
            limit: tokens that it may have, its prompt and observations included.
        """
        if trajectory.reward is None:
            return {}
        terms = {}
        if self.overlong is not None:
            # An observation that did not fit is not among the ids, and ended the episode all the same.
            length = limit if trajectory.stop is StopReason.MAX_TOKENS else len(trajectory.ids)
            terms["penalty/overlong"] = overlong_penalty(length, limit, self.overlong)
        if self.wrong_floor is not None:
            terms["penalty/wrong_floor"] = self._wrong(trajectory, trajectory.reward, self.wrong_floor)
        return terms

    @staticmethod
    def _wrong(trajectory: Trajectory, reward: float, numbers: WrongFloor) -> float:
        if trajectory.reward_terms.get("correct", reward) > 0:
            return 0.0
        score = reward if reward < 0 else numbers.score
        return wrong_floor(score, len(trajectory.turns), numbers.most, numbers.per_turn) - reward


def read_penalties(values: Mapping[str, Any] | None) -> Penalties:
    """Return the penalties of a configuration.

    Args:
        values: ``overlong``: a buffer in tokens, or ``{buffer: 4096}``; ``wrong_floor``: a bound, or
            ``{most: -0.6, score: -1.0, per_turn: 0.05}``. A key that is absent or null is off.

    Raises:
        UsageError: an unknown key, or a value that is not allowed.
    """
    read: dict[str, Any] = {}
    for name, value in (values or {}).items():
        check_name("key of 'penalties'", name, ("overlong", "wrong_floor"))
        if value is not None:
            read[name] = value
    overlong = _fields("overlong", read["overlong"], {"buffer": int}) if "overlong" in read else None
    floor = None
    if "wrong_floor" in read:
        kinds = {"most": float, "score": float, "per_turn": float}
        floor = WrongFloor(**_fields("wrong_floor", read["wrong_floor"], kinds))
    return Penalties(None if overlong is None else overlong.get("buffer", BUFFER), floor)


def _fields(name: str, value: Any, kinds: Mapping[str, type]) -> dict[str, Any]:
    """Return the fields of a mapping, or of a single value, which stands for the first of ``kinds``."""
    first, kind = next(iter(kinds.items()))
    check_type(f"penalties.{name}", value, kind | dict)
    fields = value if isinstance(value, dict) else {first: value}
    for key, inner in fields.items():
        check_name(f"key of 'penalties.{name}'", key, tuple(kinds))
        check_type(f"penalties.{name}.{key}", inner, kinds[key])
    return dict(fields)
