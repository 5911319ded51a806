"""What every policy of an evaluation has: how it samples, and what it is once open."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from aster_env.dialects.base import Dialect
from aster_env.errors import UsageError
from aster_env.rollout import Completion, GenerateRequest, Policy


@dataclass(frozen=True, slots=True)
class Sampling:
    """How turns are sampled.

    Args:
        temperature: 0 is greedy.
        top_p: nucleus sampling.
        max_tokens: of an episode, by the policy's own count; prompt and observations included.
        seed: with the seed of an episode, seeds its sampling.

    Raises:
        UsageError: a value is not allowed.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 32768
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0 and 0 < self.top_p <= 1):
            raise UsageError(
                f"temperature={self.temperature}, top_p={self.top_p} is not allowed. Allowed: temperature >= 0, "
                "0 < top_p <= 1."
            )
        for name, least in (("max_tokens", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UsageError(f"{name}={value!r} is not allowed. Allowed: whole numbers from {least} on.")

    def seed_of(self, request: GenerateRequest) -> int:
        """Return a seed below 2**31 for a turn: made of this one, the episode's, and how far the episode is."""
        parts = (self.seed, request.seed, len(request.ids))
        return int(np.random.SeedSequence(parts).generate_state(1)[0] >> 1)


@dataclass(slots=True)
class OpenPolicy:
    """A policy that is ready to play; it belongs to the event loop it was opened on.

    Args:
        policy: plays the assistant.
        tokenizer: for the environment; None is the byte tokenizer.
        described: for a run's manifest: what was opened, without secrets. Plain JSON types. It may gain entries while
            the policy plays (that its tokens had to be estimated, say).
        counts_tokens: whether the policy's own count, ``Completion.usage["tokens"]``, bounds an episode, and not the
            environment's ids.
        on_attach: told the environments' dialect, where the policy writes in it.
        on_close: releases what was opened.
    """

    policy: Policy
    tokenizer: Any
    described: dict[str, Any]
    counts_tokens: bool = False
    on_attach: Callable[[Dialect], None] | None = None
    on_close: Callable[[], Awaitable[None] | None] | None = None

    def attach(self, dialect: Dialect) -> None:
        """Say in which dialect turns are written; called once the environments are made, before any turn."""
        if self.on_attach is not None:
            self.on_attach(dialect)

    async def close(self) -> None:
        """Release the connections, the model or the engine; calling it twice is harmless."""
        close, self.on_close = self.on_close, None
        closing = close() if close is not None else None
        if closing is not None:
            await closing


class WithinContext:
    """A policy whose model has a shorter context than an episode may have: at its end the episode's budget ends.

    Args:
        policy: takes ids.
        length: tokens of the model's context.
    """

    def __init__(self, policy: Policy, length: int) -> None:
        self.policy, self.length = policy, length

    async def generate(self, request: GenerateRequest) -> Completion:
        """Sample one turn, as far as the context reaches.

        Raises:
            PolicyError: the policy failed.
        """
        fitting = within(request, self.length)
        return Completion((), (), "length") if fitting is None else await self.policy.generate(fitting)

    async def release(self, episode: str) -> None:
        """Forget an episode; unknown names are ignored."""
        await self.policy.release(episode)


def within(request: GenerateRequest, length: int | None) -> GenerateRequest | None:
    """Return the request with no more new tokens than a context of ``length`` has room for; None where it has none."""
    if length is None:
        return request if request.max_new_tokens > 0 else None
    room = min(length - len(request.ids), request.max_new_tokens)
    return replace(request, max_new_tokens=room) if room > 0 else None
