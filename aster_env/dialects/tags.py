"""The tag form of Tool-Star: ``<python>``, ``<search>``, ``<result>``, ``<answer>`` in one assistant message."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from aster_env.dialects.base import Dialect, Parsed, Schemas, chat_rows, last_boxed, split_thought
from aster_env.tokenizers import Tokenizer
from aster_env.types import Message, ToolCall

_TAGS = ("python", "search", "visit")
_OPEN = re.compile(f"<({'|'.join(_TAGS)})>")
_ANY = re.compile(f"</?({'|'.join(_TAGS)})>")


class Tags(Dialect):
    r"""``<python>code</python>``, answered by ``<result>`` in the same message (Tool-Star, arXiv 2505.16410).

    The tag's name is the tool's, and its content the tool's one required argument. The answer is the content of
    ``<answer>``, or the ``\boxed{…}`` inside it. Text outside tags is no action.
    """

    name = "tags"
    stop = tuple(f"</{tag}>" for tag in _TAGS)
    result_tag = "result"

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)
        rendered = tokenizer.chat([{"role": "user", "content": "ASTERMARK"}], ())
        self._reopen = "\n<|im_start|>assistant\n"
        if rendered is not None:
            self._reopen = rendered.partition("ASTERMARK")[2].removeprefix(tokenizer.end_text)

    def prompt(self, messages: Sequence[Message], schemas: Schemas) -> str:
        """Render with the chat template or in ChatML, the tags described in the system message."""
        described = _with_tags(messages, schemas)
        rendered = self.tokenizer.chat(chat_rows(described), ())
        if rendered is not None:
            return rendered
        turns = "".join(f"<|im_start|>{m.role}\n{m.content}<|im_end|>\n" for m in described)
        return turns + "<|im_start|>assistant\n"

    def parse(self, text: str, schemas: Schemas) -> Parsed:
        """See the table in ``Dialect``."""
        text = text.partition(self.tokenizer.end_text)[0]
        visible, thought = split_thought(text)
        answer = _answer(visible)
        opened = _OPEN.search(visible)
        if opened is None:
            stray = _ANY.search(visible)
            if stray is not None and answer is None:
                problem = f"The turn closes {stray[1]!r} without opening it. Put the call between its two tags."
                return Parsed(call=ToolCall(stray[1], {}, problem))
            if answer is None and (inside := _OPEN.search(thought)):
                problem = (
                    "A call was written inside the thought, so it was not run. Close the thought first, then call."
                )
                return Parsed(call=ToolCall(inside[1], {}, problem))
            return Parsed(answer=answer)
        name = opened[1]
        body, closed, after = visible[opened.end() :].partition(f"</{name}>")
        if not closed:
            return Parsed(call=ToolCall(name, {}, f"The call {name!r} is not closed. Put it between its two tags."))
        notes = []
        if _OPEN.search(after):
            notes.append("Only the first call of a turn is run; the others were not. Make one call a turn.")
        if _answer(visible[: opened.start()] + after) is not None:
            notes.append("An answer beside a call is ignored. Give the answer in a turn without a call.")
        call = ToolCall(name, {_argument(name, schemas): body.strip("\n")})
        return Parsed(call=call, note=" ".join(notes))

    def observation(self, result: str, closed_by: str = "") -> str:
        """Append ``<result>``; a message that the model ended is opened again."""
        reopened = self._reopen if closed_by else "\n"
        return self.frame(f"{reopened}<result>\n", result, "\n</result>\n")

    def call(self, name: str, arguments: Mapping[str, str]) -> str:
        """Write ``<name>`` around the only argument."""
        (body,) = arguments.values()
        return f"<{name}>\n{body}\n</{name}>"

    def answer(self, value: str) -> str:
        r"""Write ``<answer>\boxed{…}</answer>``."""
        return f"<answer>\\boxed{{{value}}}</answer>"

    def _call_opening(self, visible: str) -> int:
        opened = _OPEN.search(visible)
        assert opened is not None
        return opened.start()

    def _answer_opening(self, visible: str) -> int:
        return visible.rfind("<answer>")


def _answer(visible: str) -> str | None:
    start = visible.rfind("<answer>")
    if start < 0:
        return None
    content, closed, _ = visible[start + len("<answer>") :].partition("</answer>")
    boxed = last_boxed(content)
    if boxed is not None:
        return boxed
    return content.strip() if closed and content.strip() else None


def _argument(name: str, schemas: Schemas) -> str:
    schema = schemas.get(name)
    return next(iter(schema["parameters"].get("required", ())), "text") if schema else "text"


def _with_tags(messages: Sequence[Message], schemas: Schemas) -> list[Message]:
    """Return the messages with a description of the tags at the end of the system message."""
    lines = [f"<{name}>…</{name}>: {schema['description']}" for name, schema in schemas.items()]
    text = (
        "Think between <think> and </think>. These tools can be called, one call at a time, as often as needed:\n"
        + "\n".join(lines)
        + "\nWhat a call gives comes back between <result> and </result>. When you are sure, write the final answer "
        "as <answer>\\boxed{…}</answer>."
    )
    if messages and messages[0].role == "system":
        return [Message("system", f"{messages[0].content}\n\n{text}"), *messages[1:]]
    return [Message("system", text), *messages]
