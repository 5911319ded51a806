"""A task's kind decides how its answer is scored."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from aster_env.errors import check_name
from aster_env.rewards.base import Reward
from aster_env.rewards.math import MathReward
from aster_env.rewards.qa import QAReward
from aster_env.types import RewardResult, Task, Trajectory


class KindReward:
    """Scores each task with the reward of its kind; terms are that reward's.

    Args:
        rewards: by kind of task.
    """

    def __init__(self, rewards: Mapping[str, Reward]) -> None:
        self.rewards = dict(rewards)

    async def __call__(self, task: Task, trajectory: Trajectory) -> RewardResult:
        """Score a finished episode.

        Raises:
            UsageError: no reward goes with the task's kind.
            InfrastructureError: the judge could not be reached.
        """
        return await self.rewards[check_name(f"kind of the task {task.id!r}", task.kind, self.rewards)](
            task, trajectory
        )

    async def close(self) -> None:
        """Close every reward; calling it twice is harmless."""
        async with contextlib.AsyncExitStack() as ending:
            for reward in self.rewards.values():
                ending.push_async_callback(reward.close)


def by_kind(questions: str) -> Reward:
    """Return the reward that judges mathematics by equivalence, and questions by ``"em"`` or ``"f1"``."""
    return KindReward({"math": MathReward(), "qa": QAReward(questions)})
