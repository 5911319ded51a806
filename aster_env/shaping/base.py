"""What every shaping term has: a wrapper that adds a measure to an environment, and the actions of an episode."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym

from aster_env.dialects.base import ANSWER, THINK, Action, Dialect
from aster_env.env import ToolEnv
from aster_env.errors import UsageError
from aster_env.types import StopReason, Trajectory, Turn


class Shaping(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs, abc.ABC):
    """Measures each episode of an environment into ``info["shaping"]``.

    The measure is taken by the environment inside, so that it is there however the environment is stepped: also by
    ``astep``, in a rollout, and in a ``ToolVectorEnv``.

    Args:
        env: a ``ToolEnv``, wrapped or not.
        **arguments: of the subclass, recorded in ``env.spec``.

    Raises:
        UsageError: the environment is no ``ToolEnv``.
    """

    def __init__(self, env: gym.Env[Any, Any], **arguments: Any) -> None:
        inner = getattr(env, "unwrapped", env)
        if not isinstance(inner, ToolEnv):
            raise UsageError(
                f"{type(self).__name__} cannot measure a {type(inner).__name__}. Allowed: a ToolEnv. "
                "Fix: wrap an ASTER/… environment; of a ToolVectorEnv, each of its envs."
            )
        gym.utils.RecordConstructorArgs.__init__(self, **arguments)
        super().__init__(env)
        inner.measures.append(self.measure)

    @abc.abstractmethod
    def measure(self, trajectory: Trajectory, dialect: Dialect) -> Mapping[str, float]:
        """Return the numbers of an episode that has ended, by name."""


def episode_actions(trajectory: Trajectory, dialect: Dialect) -> list[tuple[Turn, tuple[Action, ...]]]:
    """Return each model turn with its actions, those the environment refused left out.

    A call has the tool's own name, where the model used an alias; one that came after a limit counts, for the model
    made it. An answer is one only if the episode ended by it. What the environment appended holds no action.

    Args:
        trajectory: an episode, also a stored one.
        dialect: that it was played in.
    """
    answered = trajectory.stop in (None, StopReason.ANSWERED)
    turns = [(turn, _accepted(dialect.actions(turn.text), turn)) for turn in trajectory.model_turns]
    return [(turn, tuple(a for a in actions if answered or a.kind != ANSWER)) for turn, actions in turns]


def is_call(action: Action) -> bool:
    """Whether an action is a call of a tool."""
    return action.kind not in (THINK, ANSWER)


def _accepted(actions: Sequence[Action], turn: Turn) -> tuple[Action, ...]:
    if not turn.calls:
        return tuple(actions)
    (call, *_) = turn.calls
    if call.problem is not None:
        return tuple(action for action in actions if action.kind == THINK)
    return tuple(replace(action, kind=call.name) if is_call(action) else action for action in actions)
