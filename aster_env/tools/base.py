"""The protocol that every tool follows."""

from __future__ import annotations

import asyncio
import difflib
import json
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from aster_env.errors import InfrastructureError
from aster_env.types import ToolCall, ToolResult


@runtime_checkable
class Tool(Protocol):
    """Something a model can call; one instance serves one episode.

    Attributes:
        name: the name shown to the model.
        aliases: other names it answers to.
        schema: the OpenAI function schema: ``{"name", "description", "parameters"}``.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def aliases(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def schema(self) -> Mapping[str, Any]: ...  # noqa: D102

    async def __call__(self, **arguments: Any) -> ToolResult:
        """Run the call; the model's own mistakes are in the result's text.

        Raises:
            InfrastructureError: the tool itself could not work.
        """
        ...

    async def reset(self) -> None:
        """Forget the episode's state, so that the next call starts afresh."""
        ...

    async def close(self) -> None:
        """Release everything; calling it twice is harmless."""
        ...


_JSON_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


def find_tool(name: str, tools: Mapping[str, Tool]) -> Tool | None:
    """Return the tool called ``name``, by its name or an alias."""
    if name in tools:
        return tools[name]
    return next((tool for tool in tools.values() if name in tool.aliases), None)


def check_call(call: ToolCall, tools: Mapping[str, Tool]) -> ToolCall:
    """Return the call under the tool's own name, with ``problem`` set where it cannot be executed.

    Checks the name and, against the tool's JSON schema, that required arguments are there, that no other
    is, that each has its declared type, and that its text is Unicode.
    """
    if call.problem is not None:
        return call
    tool = find_tool(call.name, tools)
    if tool is None:
        near = difflib.get_close_matches(call.name, tools, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return ToolCall(
            call.name,
            call.arguments,
            f"Unknown tool {call.name!r}.{hint} Available tools: {', '.join(sorted(tools))}.",
        )
    return ToolCall(tool.name, call.arguments, _arguments_problem(tool, call.arguments))


async def run_call(call: ToolCall, tools: Mapping[str, Tool], seconds: float) -> ToolResult:
    """Execute a checked call, or say what is wrong with it.

    Args:
        call: see ``check_call``.
        tools: by their own names.
        seconds: how long a call may take before it counts as one that never comes back.

    Raises:
        InfrastructureError: the tool could not work, or did not come back.
    """
    if call.problem is not None:
        return ToolResult(f"Error: {call.problem}", ok=False)
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await tools[call.name](**call.arguments)
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise InfrastructureError(
            f"The tool {call.name!r} did not come back within {seconds:g} s. A tool bounds its own time; "
            "this is the last resort."
        ) from error


def _arguments_problem(tool: Tool, arguments: Mapping[str, Any]) -> str | None:
    parameters = tool.schema["parameters"]
    properties: Mapping[str, Any] = parameters["properties"]
    expected = ", ".join(f"{name} ({_type_text(spec)})" for name, spec in properties.items())
    for name in parameters.get("required", ()):
        if name not in arguments:
            return f"The call to {tool.name!r} lacks the argument {name!r}. Its arguments are: {expected}."
    for name, value in arguments.items():
        if name not in properties:
            return f"The tool {tool.name!r} has no argument {name!r}. Its arguments are: {expected}."
        declared = properties[name].get("type", ())
        kinds = [declared] if isinstance(declared, str) else list(declared)
        if kinds and not any(_is_kind(value, kind) for kind in kinds):
            return f"The argument {name!r} of {tool.name!r} must be a {' or '.join(kinds)}, not {type(value).__name__}."
        if not _is_unicode(value):
            return (
                f"The argument {name!r} of {tool.name!r} holds half a surrogate pair (an escape from \\ud800 to "
                "\\udfff), which is no character. Write the character itself, or both halves of its escape."
            )
    return None


def _type_text(spec: Mapping[str, Any]) -> str:
    declared = spec.get("type", "any")
    return declared if isinstance(declared, str) else " or ".join(declared)


def _is_kind(value: Any, kind: str) -> bool:
    allowed = _JSON_TYPES.get(kind, (object,))
    return isinstance(value, allowed) and not (isinstance(value, bool) and kind != "boolean")


def _is_unicode(value: Any) -> bool:
    """Whether the strings in a JSON value can be encoded: JSON's escapes can write lone surrogates."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        # Nested to the very limit of the parser, a value that could be read may not be written: refused likewise.
        return False
    return True
