"""Which reward an environment scores with: by name, or a Reward of one's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aster_env.errors import UsageError, check_name
from aster_env.rewards.base import Reward
from aster_env.rewards.toolstar import ToolStarReward
from aster_env.types import Trajectory


def choose_reward(reward: Any, rewards: Mapping[str, Callable[[], Reward]], dialect: str) -> Reward:
    """Return a Reward.

    Args:
        reward: a name of ``rewards``, or a Reward.
        rewards: those of the environment by name.
        dialect: that of the environment; Tool-Star's reward reads tags.

    Raises:
        UsageError: there is no such reward, or it does not go with the dialect.
    """
    if isinstance(reward, str):
        made = rewards[check_name("reward", reward, rewards)]()
        if isinstance(made, ToolStarReward) and dialect != "tags":
            raise UsageError(
                f"reward={reward!r} reads the tags of Tool-Star, and dialect={dialect!r}. Fix: dialect='tags'."
            )
        return made
    if not isinstance(reward, Reward):
        raise UsageError(
            f"reward={reward!r} is a {type(reward).__name__}. Allowed: {', '.join(map(repr, rewards))}, or a Reward."
        )
    return reward


def check_require_tool(value: Any, reward: Reward) -> bool:
    """Return whether a call has to come before the answer.

    Raises:
        UsageError: the value is no bool, or the reward does not go with an answer that is refused.
    """
    if not isinstance(value, bool):
        raise UsageError(f"require_tool={value!r} is not allowed. Allowed: True or False.")
    if value and isinstance(reward, ToolStarReward):
        raise UsageError(
            "require_tool=True does not go with reward='toolstar': an episode with an answer that was refused has two "
            "and is malformed, whatever comes after. Fix: require_tool=False, or another reward."
        )
    return value


def refuse_untried(required: bool, trajectory: Trajectory, missing: str, tools: str) -> str | None:
    """Say that a tool comes first, where it must and no call was executed yet; for ``ToolEnv.refuse_answer``.

    Args:
        required: see ``check_require_tool``.
        trajectory: of the running episode.
        missing: what was not done yet: ``"no code has been run"``.
        tools: what to call: ``"'python'"``.
    """
    if not required or trajectory.tool_calls:
        return None
    return f"The answer was not taken: {missing} yet. Call {tools} first, then answer."
