"""Turns of an episode as token ids: the environment builds them one by one, SFT from stored messages."""

from __future__ import annotations

from collections.abc import Sequence

from aster_env.dialects.base import Dialect, Schemas
from aster_env.errors import UsageError, check_name
from aster_env.types import Message, ToolResult, Turn


def prompt_turn(dialect: Dialect, messages: Sequence[Message], schemas: Schemas) -> Turn:
    """Return the environment's first turn: the conversation up to where the model begins."""
    text = dialect.prompt(messages, schemas)
    return Turn("environment", tuple(dialect.tokenizer.encode(text)), text)


def observation_turn(
    dialect: Dialect, content: str, closed_by: str, results: tuple[ToolResult, ...] = (), seconds: float = 0.0
) -> Turn:
    """Return the environment's turn that reports a result.

    Args:
        dialect: renders it.
        content: what the model reads.
        closed_by: text of the end-of-turn token if the model's turn ended with one, else "".
        results: stored with the turn.
        seconds: stored with the turn.
    """
    text = dialect.observation(content, closed_by)
    return Turn("environment", tuple(dialect.tokenizer.encode(text)), text, results=results, seconds=seconds)


def closing(dialect: Dialect, ids: Sequence[int]) -> str:
    """Return the text of the end-of-turn token that ``ids`` end with, or ""."""
    tokenizer = dialect.tokenizer
    return tokenizer.decode(ids[-1:]) if ids and ids[-1] in tokenizer.end_ids else ""


def render(messages: Sequence[Message], dialect: Dialect, schemas: Schemas | None = None) -> list[Turn]:
    """Return a stored conversation as the turns that the environment would have had.

    A message of the assistant that ends with one of the dialect's stop strings ends there; any other gets the
    end-of-turn token.

    Args:
        messages: system and user messages, then the assistant's, each but the last followed by a tool's (or, as
            some data sets write results, a user's).
        dialect: renders them.
        schemas: of the tools that the prompt describes.

    Raises:
        UsageError: the roles do not follow one another so.
    """
    for message in messages:
        check_name("role", message.role, ("system", "user", "assistant", "tool"))
    roles = [message.role for message in messages]
    start = roles.index("assistant") if "assistant" in roles else len(roles)
    rest = ["assistant" if role == "assistant" else "result" for role in roles[start:]]
    expected = ["assistant" if n % 2 == 0 else "result" for n in range(len(rest))]
    if not start or not rest or rest != expected or "tool" in roles[:start]:
        raise UsageError(
            f"A conversation with the roles {', '.join(roles) or '(none)'} is no episode. Allowed: system and user "
            "messages, then assistant and tool messages in turn, beginning with the assistant's."
        )
    turns = [prompt_turn(dialect, messages[:start], schemas or {})]
    for message in messages[start:]:
        if message.role == "assistant":
            ends = "" if message.content.endswith(dialect.stop) else dialect.tokenizer.end_text
            text = message.content + ends
            turns.append(Turn("model", tuple(dialect.tokenizer.encode(text)), text))
        else:
            turns.append(observation_turn(dialect, message.content, closing(dialect, turns[-1].ids)))
    return turns
