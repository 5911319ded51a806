"""A running episode: what was said so far, and the counts that its limits bound."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aster_env.dialects.base import Dialect
from aster_env.errors import InfrastructureError
from aster_env.limits import Limits
from aster_env.rewards.base import Reward
from aster_env.tools.base import Tool
from aster_env.types import Message, StopReason, Task, ToolCall, Trajectory, Turn

Measure = Callable[[Trajectory, Dialect], Mapping[str, float]]
"""What an episode is measured by at its end: numbers by name, for ``Trajectory.shaping``."""


@dataclass(slots=True)
class Episode:
    """The trajectory of a running episode, and its counts.

    Args:
        trajectory: what was said so far.
        limits: what it may use.
        tokens: ids in the trajectory.
        invalid: calls in a row that could not be executed.
    """

    trajectory: Trajectory
    limits: Limits
    tokens: int = 0
    invalid: int = 0

    @classmethod
    def begin(cls, task: Task, prompt: Turn, messages: Sequence[Message], limits: Limits) -> Episode:
        """Return an episode that was asked ``task``."""
        episode = cls(Trajectory(task), limits)
        episode.trajectory.seconds = {"generation": 0.0, "tools": 0.0, "reward": 0.0}
        episode.append(prompt, messages)
        return episode

    def append(self, turn: Turn, messages: Sequence[Message]) -> None:
        """Add a turn, and what it is in chat form."""
        self.trajectory.turns.append(turn)
        self.trajectory.messages.extend(messages)
        self.tokens += len(turn.ids)

    def count(self, call: ToolCall) -> None:
        """Count a call that is now executed, or refused."""
        if call.problem is None:
            self.invalid = 0
            self.trajectory.tool_calls += 1
        else:
            self.invalid += 1

    def refuses(self, call: ToolCall) -> bool:
        """Whether a call that could be executed is one too many."""
        return call.problem is None and self.trajectory.tool_calls >= self.limits.max_tool_calls

    def stop_before(self, turn: Turn, tools: Iterable[Tool]) -> StopReason | None:
        """Say whether the episode ends instead of having an observation appended."""
        if self.invalid > self.limits.max_invalid_calls:
            return StopReason.INVALID_CALLS
        if any(getattr(tool, "losses", 0) >= self.limits.max_losses for tool in tools):
            return StopReason.SESSION_LOST
        if self.tokens + len(turn.ids) >= self.limits.max_tokens:
            return StopReason.MAX_TOKENS
        return None

    async def score(self, reward: Reward, measures: Iterable[Measure], dialect: Dialect) -> InfrastructureError | None:
        """Put the reward and the measures of an episode that has ended into its trajectory.

        Returns:
            The failure that left it without either, if one did.
        """
        trajectory = self.trajectory
        started = time.perf_counter()
        try:
            scored = await reward(trajectory.task, trajectory)
        except InfrastructureError as failure:
            trajectory.stop = StopReason.INFRASTRUCTURE
            return failure
        else:
            trajectory.reward, trajectory.reward_terms = scored.value, dict(scored.terms)
            for measure in measures:
                trajectory.shaping.update(measure(trajectory, dialect))
            return None
        finally:
            trajectory.seconds["reward"] += time.perf_counter() - started

    def info(
        self, action: Sequence[int], observed: Sequence[int], text: str, messages: Sequence[Message]
    ) -> dict[str, Any]:
        """Return the ``info`` of a step that added these ids and messages; see ``ToolEnv``."""
        return {
            "task_id": self.trajectory.task.id,
            "mask": np.array([1] * len(action) + [0] * len(observed), dtype=np.int8),
            "text": text,
            "messages": list(messages),
            "tool_calls": self.trajectory.tool_calls,
            "tokens": self.tokens,
            "tokens_left": max(0, self.limits.max_tokens - self.tokens),
            "stop": None,
        }
