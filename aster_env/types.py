"""The nouns of the gym, as small dataclasses and enums."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["kept", "lost"]


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message: ``role`` is ``system``, ``user``, ``assistant`` or ``tool``."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Task:
    """One problem.

    Args:
        id: unique within its TaskSet.
        prompt: the question as the user would ask it.
        answers: reference answers, any of which is right.
        kind: how it is scored: ``"math"``, ``"qa"``, …
        metadata: whatever else the source holds (level, split, licence).
    """

    id: str
    prompt: str
    answers: tuple[str, ...]
    kind: str = "math"
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call parsed from a model's turn; ``problem`` says why it cannot be executed, if it cannot."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool gave back.

    Args:
        text: what the model reads.
        ok: whether the tool did what it was asked.
        state: whether the tool's session survived the call.
        seconds: wall time of the call.
        dropped: characters of output that the bound cut away.
        timed_out: whether the call hit its time limit.
    """

    text: str
    ok: bool = True
    state: State = "kept"
    seconds: float = field(default=0.0, compare=False)
    dropped: int = 0
    timed_out: bool = False


class StopReason(enum.StrEnum):
    """Why an episode ended."""

    ANSWERED = "answered"
    """The model gave an answer in a turn without a call (terminated)."""
    VOID_TURN = "void_turn"
    """The model's turn held neither a call nor an answer (terminated)."""
    INVALID_CALLS = "invalid_calls"
    """Too many calls in a row could not be executed (terminated)."""
    SESSION_LOST = "session_lost"
    """The model's code destroyed its tool session too often (terminated)."""
    MAX_TOOL_CALLS = "max_tool_calls"
    """The model asked for one call more than allowed (truncated)."""
    MAX_TOKENS = "max_tokens"
    """Prompt, actions and observations used up the episode's tokens (truncated)."""
    MAX_SECONDS = "max_seconds"
    """The episode's time was up (truncated)."""
    INFRASTRUCTURE = "infrastructure"
    """Something outside the model failed (truncated; not scored, masked from the loss)."""

    @property
    def truncated(self) -> bool:
        """Whether Gymnasium's ``truncated`` (rather than ``terminated``) is set for this reason."""
        return self in _TRUNCATED


_TRUNCATED = (StopReason.MAX_TOOL_CALLS, StopReason.MAX_TOKENS, StopReason.MAX_SECONDS, StopReason.INFRASTRUCTURE)


@dataclass(frozen=True, slots=True)
class Turn:
    """A run of tokens appended by one side.

    Args:
        role: ``"environment"`` or ``"model"``.
        ids: token ids, exactly as appended.
        text: the ids decoded, for people and parsers.
        logprobs: the sampler's log-probabilities, aligned with ``ids``; ``None`` for the environment, or
            when the policy gave none.
        calls: the calls parsed from a model's turn.
        results: the results that an environment's turn reports.
        seconds: wall time this turn took (generation, or tools).
        module: what wrote a model's turn under another context than the one before it; see ``aster_env.modules``.
    """

    role: Literal["environment", "model"]
    ids: tuple[int, ...]
    text: str
    logprobs: tuple[float, ...] | None = None
    calls: tuple[ToolCall, ...] = ()
    results: tuple[ToolResult, ...] = ()
    seconds: float = field(default=0.0, compare=False)
    module: str = ""


@dataclass(frozen=True, slots=True)
class RewardResult:
    """A reward and the terms it is made of; ``judged`` is False where the judge ran out of time."""

    value: float
    terms: Mapping[str, float] = field(default_factory=dict)
    judged: bool = True


@dataclass(slots=True)
class Trajectory:
    """One episode: the turns, alternating from the prompt on, and how it ended.

    Two trajectories are equal if all but their timings are.
    ``reward`` is None until the episode is scored, and stays None after an infrastructure failure.
    """

    task: Task
    turns: list[Turn] = field(default_factory=list)
    reward: float | None = None
    reward_terms: dict[str, float] = field(default_factory=dict)
    shaping: dict[str, float] = field(default_factory=dict)
    stop: StopReason | None = None
    answer: str | None = None
    error: str | None = None
    seconds: dict[str, float] = field(default_factory=dict, compare=False)
    messages: list[Message] = field(default_factory=list)
    tool_calls: int = 0
    """How many calls were executed: not those refused, nor one that came after a limit."""
    index: int = 0
    """Position of its task in the request that produced it (see ``aster_env.rollout``)."""
    sources: dict[str, str] = field(default_factory=dict)
    """What its tools read from: the corpus, its licence and hash (see ``aster_env.retrieval``)."""
    usage: dict[str, int] = field(default_factory=dict)
    """What it cost by its policy's own count, where that gives one (see ``aster_env.rollout.Completion``)."""

    @property
    def ids(self) -> list[int]:
        """All token ids, in order: the training row."""
        return [i for turn in self.turns for i in turn.ids]

    @property
    def mask(self) -> list[int]:
        """What is trained: 1 for each token the model sampled under exactly the ids before it; aligned with ``ids``.

        0 for what the environment appended, and for a turn that a module wrote (``Turn.module``).
        """
        return [int(turn.role == "model" and not turn.module) for turn in self.turns for _ in turn.ids]

    @property
    def logprobs(self) -> list[float]:
        """The sampler's log-probabilities aligned with ``ids``: 0.0 where ``mask`` is 0, NaN if not given."""
        nan = float("nan")
        row: list[float] = []
        for turn in self.turns:
            if turn.logprobs is not None:
                row.extend(turn.logprobs)
            else:
                row.extend([nan if turn.role == "model" and not turn.module else 0.0] * len(turn.ids))
        return row

    @property
    def prompt_ids(self) -> list[int]:
        """The ids of the first observation."""
        return list(self.turns[0].ids) if self.turns else []

    @property
    def model_turns(self) -> list[Turn]:
        """The turns the model sampled."""
        return [turn for turn in self.turns if turn.role == "model"]

    @property
    def results(self) -> list[ToolResult]:
        """Every result the model was shown, in order."""
        return [result for turn in self.turns for result in turn.results]

    def to_json(self) -> dict[str, Any]:
        """Return the episode as plain JSON types (see ``from_json``)."""
        return {
            "task": {
                "id": self.task.id,
                "prompt": self.task.prompt,
                "answers": list(self.task.answers),
                "kind": self.task.kind,
                "metadata": dict(self.task.metadata),
            },
            "stop": self.stop.value if self.stop else None,
            "reward": self.reward,
            "reward_terms": self.reward_terms,
            "shaping": self.shaping,
            "answer": self.answer,
            "error": self.error,
            "tool_calls": self.tool_calls,
            "seconds": self.seconds,
            **({"sources": self.sources} if self.sources else {}),
            **({"usage": self.usage} if self.usage else {}),
            "turns": [_turn_to_json(turn) for turn in self.turns],
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Trajectory:
        """Read back what ``to_json`` wrote (not stored: ``messages``, which repeat the turns, and ``index``)."""
        task = Task(**{**row["task"], "answers": tuple(row["task"]["answers"])})
        return cls(
            task=task,
            turns=[_turn_from_json(turn) for turn in row["turns"]],
            reward=row["reward"],
            reward_terms=dict(row["reward_terms"]),
            shaping=dict(row["shaping"]),
            stop=StopReason(row["stop"]) if row["stop"] else None,
            answer=row["answer"],
            error=row["error"],
            tool_calls=row.get("tool_calls", 0),
            seconds=dict(row["seconds"]),
            sources=dict(row.get("sources", {})),
            usage=dict(row.get("usage", {})),
        )


def _turn_to_json(turn: Turn) -> dict[str, Any]:
    row: dict[str, Any] = {"role": turn.role, "text": turn.text, "ids": list(turn.ids), "seconds": turn.seconds}
    if turn.module:
        row["module"] = turn.module
    if turn.logprobs is not None:
        row["logprobs"] = list(turn.logprobs)
    if turn.calls:
        row["calls"] = [{"name": c.name, "arguments": dict(c.arguments), "problem": c.problem} for c in turn.calls]
    if turn.results:
        row["results"] = [
            {name: getattr(r, name) for name in ("text", "ok", "state", "seconds", "dropped", "timed_out")}
            for r in turn.results
        ]
    return row


def _turn_from_json(row: Mapping[str, Any]) -> Turn:
    logprobs: Sequence[float] | None = row.get("logprobs")
    return Turn(
        role=row["role"],
        ids=tuple(row["ids"]),
        text=row["text"],
        logprobs=None if logprobs is None else tuple(logprobs),
        calls=tuple(ToolCall(**call) for call in row.get("calls", ())),
        results=tuple(ToolResult(**result) for result in row.get("results", ())),
        seconds=row["seconds"],
        module=row.get("module", ""),
    )
