"""The Hermes form of Qwen3 and ASTER: JSON calls in ``<tool_call>``, results in ``<tool_response>``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from aster_env.dialects.base import (
    Dialect,
    Parsed,
    Schemas,
    chat_rows,
    find_boxed,
    last_boxed,
    split_thought,
    template_pieces,
)
from aster_env.tokenizers import Tokenizer
from aster_env.types import Message, ToolCall

OPEN, CLOSE = "<tool_call>", "</tool_call>"
FORM = 'Write one JSON object, {"name": "…", "arguments": {…}}, between the call tags.'


class Hermes(Dialect):
    """``<tool_call>{"name": …, "arguments": {…}}</tool_call>``; the result is a user turn (arXiv 2602.01204, §RL).

    The prompt follows the tokenizer's chat template where it has one (a template that never mentions ``tools`` gets
    their description as a system message), else ChatML with a description of the tools.

    Models write their reasoning with or without ``<think>``: text before a call, or in a turn without an answer, is
    taken for a think among a turn's ``actions``. Text beside an answer is part of the answer.
    """

    name = "hermes"
    stop = (CLOSE,)
    result_tag = "tool_response"

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)
        pieces = template_pieces(tokenizer)
        self._before, self._after = pieces or (
            "<|im_end|>\n<|im_start|>user\n<tool_response>\n",
            "\n</tool_response><|im_end|>\n<|im_start|>assistant\n",
        )

    def prompt(self, messages: Sequence[Message], schemas: Schemas) -> str:
        """Render with the chat template, or in ChatML."""
        listed = list(schemas.values())
        template = self.tokenizer.template
        if template is not None and "tools" in template:
            text = self.tokenizer.chat(chat_rows(messages), listed)
            assert text is not None
            return text
        described = _with_tools(messages, listed)
        rendered = self.tokenizer.chat(chat_rows(described), ())
        if rendered is not None:
            return rendered
        turns = "".join(f"<|im_start|>{m.role}\n{m.content}<|im_end|>\n" for m in described)
        return turns + "<|im_start|>assistant\n"

    def parse(self, text: str, schemas: Schemas) -> Parsed:
        """See the table in ``Dialect``."""
        text = text.partition(self.tokenizer.end_text)[0]
        visible, thought = split_thought(text)
        before, opened, rest = visible.partition(OPEN)
        answer = last_boxed(visible)
        if not opened:
            if answer is None and CLOSE in visible:
                problem = f"The turn closes a call that it never opened. {FORM}"
                return Parsed(call=ToolCall("", {}, problem))
            if answer is None and OPEN in thought:
                problem = (
                    "A call was written inside the thought, so it was not run. Close the thought first, then call."
                )
                return Parsed(call=ToolCall("", {}, problem))
            return Parsed(answer=answer)
        body, closed, after = rest.partition(CLOSE)
        if not closed:
            return Parsed(call=ToolCall("", {}, f"The call is not closed. {FORM}"))
        notes = []
        if OPEN in after:
            notes.append("Only the first call of a turn is run; the others were not. Make one call a turn.")
        if answer is not None and last_boxed(before + after) is not None:
            notes.append("An answer beside a call is ignored. Give the answer in a turn without a call.")
        return Parsed(call=_read_call(body), note=" ".join(notes))

    def observation(self, result: str, closed_by: str = "") -> str:
        """Render the result as the chat template renders a tool's message."""
        return self.frame(self._before.removeprefix(closed_by), result, self._after)

    def call(self, name: str, arguments: Mapping[str, str]) -> str:
        """Write ``<tool_call>`` with one JSON object; a tag or marker in an argument is escaped, as JSON allows."""
        body = json.dumps({"name": name, "arguments": dict(arguments)}, ensure_ascii=False)
        if self.neutralize(body) != body:
            body = body.replace("<", "\\u003c")
        return f"{OPEN}\n{body}\n{CLOSE}"

    def answer(self, value: str) -> str:
        r"""Write ``\boxed{…}``."""
        return f"\\boxed{{{value}}}"

    def _call_opening(self, visible: str) -> int:
        return visible.index(OPEN)

    def _answer_opening(self, visible: str) -> int:
        found = find_boxed(visible)
        assert found is not None
        return found[0]

    def _free_end(self, visible: str) -> int:
        return len(visible.partition(OPEN)[0])


def _read_call(body: str) -> ToolCall:
    try:
        # strict=False lets raw newlines stand inside strings: models often write code so, and the intent is clear.
        value: Any = json.loads(body, strict=False)
        arguments = value.get("arguments", {}) if isinstance(value, dict) else None
        if isinstance(arguments, str):
            arguments = json.loads(arguments, strict=False)
    except (ValueError, RecursionError) as error:
        return ToolCall("", {}, f"The call is not valid JSON ({_short(error)}). {FORM}")
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return ToolCall("", {}, f"The call has no 'name'. {FORM}")
    if not isinstance(arguments, dict):
        return ToolCall(value["name"], {}, f"The call's 'arguments' must be a JSON object. {FORM}")
    return ToolCall(value["name"], arguments)


def _short(error: Exception) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:120]


def _with_tools(messages: Sequence[Message], schemas: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Return the messages with a description of the tools at the end of the system message."""
    if not schemas:
        return list(messages)
    listed = "\n".join(json.dumps({"type": "function", "function": dict(schema)}) for schema in schemas)
    text = (
        f"# Tools\n\nThese functions can be called:\n<tools>\n{listed}\n</tools>\n\n"
        f"A call is one JSON object between tags, and its result comes back before you go on:\n{OPEN}\n"
        '{"name": <function name>, "arguments": <arguments as a JSON object>}\n' + CLOSE
    )
    if messages and messages[0].role == "system":
        return [Message("system", f"{messages[0].content}\n\n{text}"), *messages[1:]]
    return [Message("system", text), *messages]
