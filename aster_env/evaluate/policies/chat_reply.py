"""Reading a chat completion."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aster_env.endpoints import Transient
from aster_env.evaluate.policies.writing import NativeCall

_ENDS = ("stop", "length", "tool_calls", "function_call")


@dataclass(frozen=True, slots=True)
class Reply:
    """A chat completion.

    Args:
        content: its text.
        calls: its native calls.
        cut: whether it ended at a limit of length.
        usage: tokens of the prompt and of the completion, where the endpoint says them.
        message: what goes into the conversation.
    """

    content: str
    calls: tuple[NativeCall, ...]
    cut: bool
    usage: tuple[int, int] | None
    message: dict[str, Any]


def read_reply(text: str, turn: int) -> Reply:
    """Return what an endpoint said.

    Args:
        text: the reply's body.
        turn: names calls to which the endpoint gave no id.

    Raises:
        Transient: it is no chat completion, or none that the model ended.
    """
    try:
        # Half a surrogate pair is no character, and could not be sent back.
        value = json.loads(json.dumps(json.loads(text), ensure_ascii=False).encode("utf-8", "replace"))
        choice = value["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        content = message.get("content")
        calls = _calls(message.get("tool_calls") or [], turn)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise Transient("the reply is no chat completion", said=text) from error
    if not isinstance(content, str | None):
        raise Transient("the reply's content is no text", said=content)
    # Some servers give no reason with a reply that is whole.
    whole = finish is None and bool(content or calls) and "error" not in value and "error" not in choice
    if not (whole or finish in _ENDS):
        raise Transient("the reply was broken off or withheld, by its finish_reason", said=finish)
    said: dict[str, Any] = {"role": "assistant", "content": content}
    said |= {key: message[key] for key in ("reasoning_content", "reasoning") if isinstance(message.get(key), str)}
    if calls:
        said["tool_calls"] = [_row(call) for call in calls]
    elif content is None:
        said["content"] = ""
    return Reply(content or "", tuple(calls), finish == "length", _usage(value.get("usage")), said)


def _calls(rows: Sequence[Any], turn: int) -> list[NativeCall]:
    calls: list[NativeCall] = []
    for n, row in enumerate(rows):
        function = row["function"]
        name, arguments = function["name"], function.get("arguments")
        if not isinstance(name, str):
            raise TypeError(f"a call's name is {name!r:.80}")
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments) if arguments is not None else ""
        given = row.get("id")
        taken = {call.id for call in calls}
        own = isinstance(given, str) and given and given not in taken
        calls.append(NativeCall(given if own else f"call_{turn}_{n}", name, arguments))
    return calls


def _row(call: NativeCall) -> dict[str, Any]:
    text = call.text
    if call.arguments is None:
        text = json.dumps({"arguments": text})
    elif not text.strip():
        text = "{}"
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": text}}


def _usage(value: Any) -> tuple[int, int] | None:
    if not isinstance(value, dict):
        return None
    counts = value.get("prompt_tokens"), value.get("completion_tokens")
    usable = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in counts)
    return counts if usable else None  # type: ignore[return-value]
