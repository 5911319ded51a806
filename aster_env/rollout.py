"""Policies, and many episodes on one event loop: no episode waits for another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """A request for one assistant turn.

    Args:
        ids: the whole context so far, as token ids (prompt, actions and observations).
        max_new_tokens: the most tokens the turn may have: what is left of the episode's budget.
        stop: strings that end the turn; the token that completes one is kept, none follows it.
        episode: names the episode, so that a policy can keep its key/value cache between turns: a later
            request of the same episode extends the ids of the earlier one.
        seed: makes sampling repeatable where the policy supports it; drawn once per episode.
    """

    ids: Sequence[int]
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    episode: str = ""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled turn.

    Args:
        ids: the sampled token ids, the end-of-turn token included.
        logprobs: log-probability of each id under the distribution it was sampled from; None if unknown.
        finish: ``"stop"`` for an end-of-turn token or stop string, ``"length"`` for the token limit.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...] | None = None
    finish: Literal["stop", "length"] = "stop"


@runtime_checkable
class Policy(Protocol):
    """A language model, or anything that plays one."""

    async def generate(self, request: GenerateRequest) -> Completion:
        """Sample one turn.

        Raises:
            PolicyError: the model could not be reached; the episode is masked, not scored.
        """
        ...

    async def release(self, episode: str) -> None:
        """Forget what was kept for ``episode`` (its cache); unknown names are ignored."""
        ...
