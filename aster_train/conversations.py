"""Stored conversations in OpenAI's form, as the turns that the environment would have had."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from aster_env.dialects import Dialect
from aster_env.dialects.base import Schemas
from aster_env.dialects.render import render
from aster_env.errors import UsageError
from aster_env.rollout import RolloutRunner
from aster_env.types import Message, Turn

_TAGS = ("tool_response", "result")
_WRAPPED = re.compile(rf"\s*<({'|'.join(_TAGS)})>\n?(.*?)\n?</\1>\s*", re.DOTALL)


def read_conversation(row: Mapping[str, Any], dialect: Dialect, schemas: Schemas) -> list[Turn]:
    """Return the turns of an object with ``messages``, and ``tools`` if it has its own.

    A message's ``tool_calls`` are written after its ``content`` as the dialect writes a call. A result that stands in a
    user's message between the tags of a dialect is taken out of them, for the dialect adds its own.

    Args:
        row: ``{"messages": [{"role": …, "content": …}, …], "tools": [{"type": "function", "function": {…}}, …]}``.
        dialect: renders it.
        schemas: of the tools that the prompt describes where ``row`` has no ``tools``.

    Raises:
        UsageError: a turn has two calls, a message no text, or the roles do not follow one another as in an episode.
    """
    messages: list[Message] = []
    for said in row["messages"]:
        begun = any(message.role == "assistant" for message in messages)
        content = _content(said)
        if said.get("tool_calls"):
            content = (
                f"{content}\n{_call(said['tool_calls'], dialect)}" if content else _call(said["tool_calls"], dialect)
            )
        elif begun and said["role"] != "assistant":
            content = _unwrapped(content)
        messages.append(Message(said["role"], content))
    tools = row.get("tools")
    return render(messages, dialect, schemas if tools is None else _schemas(tools))


def tool_schemas(env: str, env_kwargs: Mapping[str, Any], dialect: Dialect) -> dict[str, Mapping[str, Any]]:
    """Return the schemas of an environment's tools by name, as its prompt describes them; no session is started.

    Raises:
        UsageError: the environment cannot be made from these arguments.
    """
    settings = {**env_kwargs, "tokenizer": dialect.tokenizer, "dialect": dialect.name}
    runner = RolloutRunner(env, max_concurrent=1, env_kwargs=settings)
    made = runner.envs[0]

    async def read() -> dict[str, Mapping[str, Any]]:
        tools = await made.open_tools()
        try:
            return {tool.name: tool.schema for tool in tools}
        finally:
            for tool in tools:
                await tool.close()
            await made.close_tools()

    with runner:
        return runner.call(read)


def _content(message: Mapping[str, Any]) -> str:
    """Return a message's text: a string, a list of text parts, or null beside ``tool_calls``."""
    content = message.get("content")
    if isinstance(content, list) and all(part.get("type") == "text" for part in content):
        return "".join(part["text"] for part in content)
    if content is None and message.get("tool_calls"):
        return ""
    if not isinstance(content, str):
        raise UsageError(
            f"The content of a message with the role {message['role']!r} is {content!r}. Allowed: a string, a list of "
            "text parts, or null in an assistant's message with 'tool_calls'."
        )
    return content


def _call(calls: Sequence[Mapping[str, Any]], dialect: Dialect) -> str:
    if len(calls) != 1:
        raise UsageError(
            f"A message has {len(calls)} tool_calls. Allowed: one, since the environment runs one call a turn. "
            "Fix: split the message, or leave the conversation out."
        )
    function = calls[0].get("function", calls[0])
    arguments = function.get("arguments") or {}
    return dialect.call(function["name"], json.loads(arguments) if isinstance(arguments, str) else arguments)


def _unwrapped(content: str) -> str:
    match = _WRAPPED.fullmatch(content)
    if match is None:
        return content
    if any(f"</{tag}>" in match[2] for tag in _TAGS):
        raise UsageError("A message holds several results. Allowed: one, since the environment runs one call a turn.")
    return match[2]


def _schemas(tools: Any) -> dict[str, Mapping[str, Any]]:
    """Return schemas by name from OpenAI's list, which some data sets store as a JSON string."""
    listed = json.loads(tools) if isinstance(tools, str) else tools
    functions = [tool.get("function", tool) for tool in listed]
    return {function["name"]: function for function in functions}
