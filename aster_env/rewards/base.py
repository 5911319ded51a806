"""The protocol that every reward follows."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from aster_env.types import RewardResult, Task, Trajectory


@runtime_checkable
class Reward(Protocol):
    """Scores a finished episode from the task and the trajectory alone, in bounded time."""

    async def __call__(self, task: Task, trajectory: Trajectory) -> RewardResult:
        """Return the reward and its terms.

        Raises:
            InfrastructureError: the judge could not be reached; the episode is then not scored.
        """
        ...

    async def close(self) -> None:
        """Release everything; calling it twice is harmless."""
        ...
