"""What an episode may use."""

from __future__ import annotations

from dataclasses import dataclass

from aster_env.errors import UsageError


@dataclass(frozen=True, slots=True)
class Limits:
    """What an episode may use.

    Args:
        max_tool_calls: executed calls; the call after the last allowed one ends the episode.
        max_tokens: tokens of the whole episode: prompt, actions and observations.
        max_invalid_calls: calls in a row that cannot be executed; the next one ends the episode.
        max_losses: sessions in a row that the model's code destroyed; the last one ends the episode.
    """

    max_tool_calls: int = 50
    max_tokens: int = 32768
    max_invalid_calls: int = 3
    max_losses: int = 3

    def __post_init__(self) -> None:
        for name, least in (("max_tool_calls", 0), ("max_tokens", 1), ("max_invalid_calls", 0), ("max_losses", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise UsageError(f"{name}={value!r} is not allowed. Allowed: an integer of at least {least}.")
