"""What an episode may use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aster_env.errors import UsageError

BYTES_A_TOKEN = 16
"""Bytes of text that a token of a model whose tokenizer is not here is taken for at most."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What an episode may use.

    Args:
        max_tool_calls: executed calls; the call after the last allowed one ends the episode.
        max_tokens: tokens of the whole episode: prompt, actions and observations.
        max_invalid_calls: calls in a row that cannot be executed; the next one ends the episode.
        max_losses: sessions in a row that the model's code destroyed; the last one ends the episode.
        tool_limits: executed calls of a tool, by the tool's name; a call beyond is refused, and the model told so.
    """

    max_tool_calls: int = 50
    max_tokens: int = 32768
    max_invalid_calls: int = 3
    max_losses: int = 3
    tool_limits: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.tool_limits, Mapping):
            raise UsageError(
                f"tool_limits={self.tool_limits!r} is a {type(self.tool_limits).__name__}. Allowed: a mapping of a "
                "tool's name to how often it may be called."
            )
        least_of = {"max_tool_calls": 0, "max_tokens": 1, "max_invalid_calls": 0, "max_losses": 1}
        given = [(name, getattr(self, name), least) for name, least in least_of.items()]
        given += [(f"tool_limits[{name!r}]", value, 0) for name, value in self.tool_limits.items()]
        for name, value, least in given:
            if not isinstance(value, int) or value < least:
                raise UsageError(f"{name}={value!r} is not allowed. Allowed: an integer of at least {least}.")
