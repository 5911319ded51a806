"""A running episode: what was said so far, and the counts that its limits bound."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from aster_env.dialects.base import Dialect
from aster_env.errors import InfrastructureError, UsageError
from aster_env.limits import Limits
from aster_env.rewards.base import Reward
from aster_env.tools.base import Tool
from aster_env.types import Message, StopReason, Task, ToolCall, Trajectory, Turn

Measure = Callable[[Trajectory, Dialect], Mapping[str, float]]
"""What an episode is measured by at its end: numbers by name, for ``Trajectory.shaping``."""

TAKEN_BACK = "(Earlier calls are no longer shown. What they defined is still there.)"
"""What the result after calls that were taken back says, where code was among them."""

LOST_BEFORE = (
    "(Earlier calls are no longer shown. The session was lost in one: what had been defined until then is gone.)"
)
"""What it says, and every one after it, where a session was lost in such a call."""


@dataclass(slots=True)
class Episode:
    """The trajectory of a running episode, and its counts.

    Args:
        trajectory: what was said so far.
        limits: what it may use.
        tokens: ids in the trajectory.
        invalid: calls in a row that could not be executed.
        calls: executed calls by the tool's name.
        note: what the next result has to say beside itself.
        lost: whether a session was lost in a call that was taken back.
    """

    trajectory: Trajectory
    limits: Limits
    tokens: int = 0
    invalid: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    note: str = ""
    lost: bool = False

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

    def take_back(self, turns: int) -> None:
        """Remove the last turns of the model's, each with its result, from what was said.

        Their calls stay counted, and what they changed stays changed: the next result says so where code ran or a
        session was lost.

        Args:
            turns: how many of the model's.

        Raises:
            UsageError: the episode has fewer.
        """
        said, removed = self.trajectory.turns, self.trajectory.turns[len(self.trajectory.turns) - 2 * turns :]
        if 2 * turns >= len(said):
            raise UsageError(f"back={turns} is not allowed. Allowed: the episode has {len(said) // 2} turns.")
        if turns == 0:
            return
        del said[-2 * turns :], self.trajectory.messages[-2 * turns :]
        self.tokens -= sum(len(turn.ids) for turn in removed)
        self.lost |= any(result.state == "lost" for turn in removed for result in turn.results)
        ran = any(call.problem is None and call.name == "python" for turn in removed for call in turn.calls)
        if self.lost or ran:
            # The result that told of a loss may itself be taken back.
            self.note = LOST_BEFORE if self.lost else TAKEN_BACK

    def noted(self, note: str) -> str:
        """Return a note with what was to be said beside it, once."""
        pending, self.note = self.note, ""
        return "\n".join(filter(None, (note, pending)))

    def count(self, call: ToolCall) -> None:
        """Count a call that is now executed, or refused."""
        if call.problem is None:
            self.invalid = 0
            self.trajectory.tool_calls += 1
            self.calls[call.name] += 1
        else:
            self.invalid += 1

    def admit(self, turn: Turn, refusal: str | None) -> Turn:
        """Return a model's turn, its call or answer turned into one that is not executed where it is not allowed.

        A call beyond its tool's own limit is refused, while the episode has calls left: the model is told, and may
        still use the other tools, or answer.

        Args:
            turn: its call checked.
            refusal: why an answer is not taken, or None.
        """
        if refusal:
            return replace(turn, calls=(ToolCall("answer", {}, refusal),))
        calls = tuple(call if self.refuses(call) else self._within(call) for call in turn.calls)
        return turn if calls == turn.calls else replace(turn, calls=calls)

    def _within(self, call: ToolCall) -> ToolCall:
        most = self.limits.tool_limits.get(call.name)
        if call.problem is not None or most is None or self.calls[call.name] < most:
            return call
        used = "is not allowed here" if most == 0 else f"has been called {most} times, as often as is allowed"
        return replace(call, problem=f"{call.name!r} {used}. Use what you have: go on without it, or answer.")

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
