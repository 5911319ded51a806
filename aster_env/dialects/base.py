"""What every dialect has: how a family of models writes calls and reads results."""

from __future__ import annotations

import abc
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aster_env.errors import UsageError
from aster_env.tokenizers import CHAT_MARKERS, TAG_NAMES, Tokenizer
from aster_env.types import Message, ToolCall

Schemas = Mapping[str, Mapping[str, Any]]
"""OpenAI function schemas by tool name."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """What one assistant turn asks for: at most one of ``call`` and ``answer`` is set.

    Args:
        call: the call to execute; its ``problem`` is set where it cannot be.
        answer: the final answer, if the turn has no call.
        note: what the model should know about parts of its turn that were ignored.
    """

    call: ToolCall | None = None
    answer: str | None = None
    note: str = ""


class Dialect(abc.ABC):
    """How one family of models writes tool calls and reads results.

    Parsing is total: every string has a defined outcome, the same in every dialect.

    ================================  ==================================================================
    the turn holds                    outcome
    ================================  ==================================================================
    one well-formed call              executed
    two calls or more                 the first is executed; a note says that the others were not
    a call and an answer              the call is executed; a note says that the answer was ignored
    a call inside a thought only      invalid call: the text says to close the thought first
    a call that is not closed         invalid call: the text names the missing tag
    a closing tag alone, no answer    invalid call: the text says that nothing was opened
    malformed JSON                    invalid call: the text names the fault and the form to write
    unknown tool, wrong arguments     a call, refused by ``aster_env.tools.base.check_call`` in the same way
    an answer, no call                the episode ends (``StopReason.ANSWERED``), also beside a closing tag that
                                      was never opened, or a call inside a thought
    neither                           the episode ends (``StopReason.VOID_TURN``)
    ================================  ==================================================================

    Args:
        tokenizer: renders the chat template, where it has one.
    """

    name: str
    stop: tuple[str, ...]

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        tags = (f"<{slash}{name}>" for name in TAG_NAMES for slash in ("", "/"))
        markers = sorted({*CHAT_MARKERS, *tags, *tokenizer.specials} - {""}, key=lambda m: (-len(m), m))
        self._markers = re.compile("|".join(map(re.escape, markers)))

    @abc.abstractmethod
    def prompt(self, messages: Sequence[Message], schemas: Schemas) -> str:
        """Render the conversation up to the point where the model's first turn begins."""

    @abc.abstractmethod
    def parse(self, text: str, schemas: Schemas) -> Parsed:
        """Say what a turn asks for. Total: defined for every string."""

    @abc.abstractmethod
    def observation(self, result: str, closed_by: str = "") -> str:
        """Render a result, up to the point where the model's next turn begins.

        Args:
            result: what the tool said; control markers in it are broken up (see ``neutralize``).
            closed_by: text of the end-of-turn token if the model's turn ended with one, else "".
        """

    @abc.abstractmethod
    def call(self, name: str, arguments: Mapping[str, str]) -> str:
        """Write a call as a model would: the inverse of ``parse``."""

    @abc.abstractmethod
    def answer(self, value: str) -> str:
        """Write a final answer as a model would, without the end-of-turn token."""

    def neutralize(self, text: str) -> str:
        """Break up control markers in foreign text by a space after their first character.

        A tool's output or a task's text can therefore never close the observation, open a turn, or forge a call;
        this holds for every tokenizer, since it happens before tokenisation. Lone surrogates become ``?``.
        """
        clean = text.encode("utf-8", "replace").decode("utf-8")
        return self._markers.sub(lambda m: f"{m[0][0]} {m[0][1:]}", clean)


def split_thought(text: str) -> tuple[str, str]:
    """Split a turn into (visible text, thought).

    Handles a thought that the prompt opened (only ``</think>`` is in the turn) and one that is never closed.
    """
    visible, thought = [], []
    opened = text.find("<think>")
    closed = text.find("</think>")
    if closed >= 0 and not 0 <= opened < closed:
        thought.append(text[:closed])
        text = text[closed + len("</think>") :]
    while True:
        before, tag, rest = text.partition("<think>")
        visible.append(before)
        if not tag:
            return "".join(visible), "".join(thought)
        inside, _, text = rest.partition("</think>")
        thought.append(inside)


def last_boxed(text: str) -> str | None:
    r"""Return the content of the last complete ``\boxed{…}`` (balanced braces), or None."""
    start = len(text)
    while (start := text.rfind("\\boxed{", 0, start)) >= 0:
        depth = 0
        for position in range(start + len("\\boxed"), len(text)):
            character = text[position]
            if character == "{" and text[position - 1] != "\\":
                depth += 1
            elif character == "}" and text[position - 1] != "\\":
                depth -= 1
                if depth == 0:
                    return text[start + len("\\boxed{") : position].strip()
    return None


def chat_rows(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Return messages as the dictionaries that chat templates expect."""
    return [{"role": m.role, "content": m.content} for m in messages]


def template_pieces(tokenizer: Tokenizer) -> tuple[str, str] | None:
    """Return what the chat template writes between a call and a result's text, and after it, or None.

    Found by rendering a conversation with two marks and cutting at them, so that any template that knows the
    ``tool`` role is followed exactly.

    Raises:
        UsageError: the template does not render an assistant's and a tool's message as they are.
    """
    first, second = "ASTERMARKA", "ASTERMARKB"
    rows = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": first},
        {"role": "tool", "content": second},
    ]
    try:
        text = tokenizer.chat(rows, ())
    except Exception as error:  # templates raise jinja2 errors of their own making; jinja2 is not a dependency here
        raise UsageError(
            f"The tokenizer's chat template cannot render a 'tool' message ({error}). "
            "Fix: use a tokenizer whose template knows tools, or dialect='tags'."
        ) from error
    if text is None:
        return None
    _, found_first, rest = text.partition(first)
    before, found_second, after = rest.partition(second)
    if not found_first or not found_second:
        raise UsageError(
            "The tokenizer's chat template drops the text of assistant or tool messages. "
            "Fix: use a tokenizer whose template knows tools, or dialect='tags'."
        )
    return before, after
