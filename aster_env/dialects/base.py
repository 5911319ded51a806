"""What every dialect has: how a family of models writes calls and reads results."""

from __future__ import annotations

import abc
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from aster_env.dialects.inert import Inert
from aster_env.errors import UsageError
from aster_env.tokenizers import Tokenizer
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


THINK, ANSWER = "think", "answer"


@dataclass(frozen=True, slots=True)
class Action:
    """One thing that a model does in a turn.

    Args:
        kind: ``"think"``, ``"answer"``, or for a call the name that it gives its tool.
        start: offset of the action's opening in the turn's text, in characters.
    """

    kind: str
    start: int


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
    result_tag: str
    """Name of the tag around a result."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        closing = (*self.stop, f"</{self.result_tag}>")
        self._inert = Inert(tokenizer, {*closing, *(tag.replace("</", "<") for tag in closing)})

    @abc.abstractmethod
    def prompt(self, messages: Sequence[Message], schemas: Schemas) -> str:
        """Render the conversation up to the point where the model's first turn begins."""

    @abc.abstractmethod
    def parse(self, text: str, schemas: Schemas) -> Parsed:
        """Say what a turn asks for. Total: defined for every string."""

    def actions(self, text: str) -> tuple[Action, ...]:
        """Return what the model does in a turn, in order: at most a think, then at most a call or an answer.

        Total, and as ``parse`` reads the turn: the call is the one that is executed, never one inside a thought; an
        answer beside a call is none; what follows the call or the answer is passed over. A call that cannot be read
        is no action, nor is one by the name ``think`` or ``answer``. Whether there is such a tool is not known here.

        A think is a thought that is not blank, or free text where the dialect takes it for one; several are one.

        A result that the model forges is no action, and nothing in it is: not even a call that is executed. One that
        is not closed reaches to the end of the turn, as an unclosed thought does.
        """
        text = text.partition(self.tokenizer.end_text)[0]
        thoughts = thought_spans(text)
        where = _outside(text, thoughts)
        visible = "".join(text[i] for i in where)
        kind, opening = self._outcome(self.parse(text, {}), visible)
        forged = _tagged(visible, self.result_tag)

        def counts(place: int) -> bool:
            return place <= opening and not any(start < place < end for start, end in forged)

        # A thought's place in the visible text is before the first character that follows it.
        thinks = [t.start for t in thoughts if text[t.begin : t.end].strip() and counts(bisect_left(where, t.start))]
        free = "" if kind == ANSWER else visible[: self._free_end(visible)]
        for start, end in forged:
            free = free[:start] + " " * len(free[start:end]) + free[end:]
        free = self._inert.markers.sub(lambda m: " " * len(m[0]), free)
        if free.strip():
            thinks.append(where[len(free) - len(free.lstrip())])
        actions = [Action(THINK, min(thinks))] if thinks else []
        if kind and counts(opening):
            actions.append(Action(kind, where[opening]))
        return tuple(actions)

    def _outcome(self, parsed: Parsed, visible: str) -> tuple[str, int]:
        """Return the kind of a turn's call or answer and where it opens in the visible text; "" and its end if none."""
        if parsed.answer is not None:
            return ANSWER, self._answer_opening(visible)
        call = parsed.call
        if call is None or call.problem is not None or call.name in (THINK, ANSWER, ""):
            return "", len(visible)
        return call.name, self._call_opening(visible)

    @abc.abstractmethod
    def _call_opening(self, visible: str) -> int:
        """Return where the executed call opens in a turn's text without its thoughts."""

    @abc.abstractmethod
    def _answer_opening(self, visible: str) -> int:
        """Return where the answer opens in a turn's text without its thoughts."""

    def _free_end(self, visible: str) -> int:
        """Return how much of a turn without an answer is reasoning where it is not tagged: none, by default."""
        return 0

    @abc.abstractmethod
    def observation(self, result: str, closed_by: str = "") -> str:
        """Render a result, up to the point where the model's next turn begins.

        Args:
            result: what the tool said; control markers in it are broken up (see ``frame``).
            closed_by: text of the end-of-turn token if the model's turn ended with one, else "".
        """

    @abc.abstractmethod
    def call(self, name: str, arguments: Mapping[str, str]) -> str:
        """Write a call as a model would: the inverse of ``parse``."""

    @abc.abstractmethod
    def answer(self, value: str) -> str:
        """Write a final answer as a model would, without the end-of-turn token."""

    def neutralize(self, text: str) -> str:
        """Break up control markers in foreign text, by a space after their first character where that is enough.

        A tool's output or a task's text can therefore never close the observation, open a turn, or forge a call, nor
        become a special token, whatever the tokenizer makes of letters and spaces (see ``aster_env.dialects.inert``).
        A text without markers stays as it is, but for lone surrogates, which become ``?``.
        """
        return self._inert(text)

    def frame(self, before: str, result: str, after: str) -> str:
        """Return a result between what the dialect writes before and after it, neutralized; for ``observation``."""
        return self._inert.between(before, result, after)


class Thought(NamedTuple):
    """Where a thought is in a text: from ``start`` to ``after`` with its tags, from ``begin`` to ``end`` without."""

    start: int
    begin: int
    end: int
    after: int


def thought_spans(text: str) -> list[Thought]:
    """Return where a turn's thoughts are, in order.

    Handles a thought that the prompt opened (only ``</think>`` is in the turn) and one that is never closed.
    """
    spans = []
    at = 0
    opened, closed = text.find("<think>"), text.find("</think>")
    if closed >= 0 and not 0 <= opened < closed:
        at = closed + len("</think>")
        spans.append(Thought(0, 0, closed, at))
    while (opened := text.find("<think>", at)) >= 0:
        begin = opened + len("<think>")
        closed = text.find("</think>", begin)
        end = closed if closed >= 0 else len(text)
        at = min(end + len("</think>"), len(text))
        spans.append(Thought(opened, begin, end, at))
    return spans


def split_thought(text: str) -> tuple[str, str]:
    """Split a turn into (visible text, thought); see ``thought_spans``."""
    thoughts = thought_spans(text)
    cuts = [0, *(place for t in thoughts for place in (t.start, t.after)), len(text)]
    visible = (text[start:end] for start, end in zip(cuts[::2], cuts[1::2], strict=True))
    return "".join(visible), "".join(text[t.begin : t.end] for t in thoughts)


def _outside(text: str, thoughts: Sequence[Thought]) -> list[int]:
    """Return the offsets of a turn's characters that are in no thought."""
    cuts = [0, *(place for t in thoughts for place in (t.start, t.after)), len(text)]
    return [i for start, end in zip(cuts[::2], cuts[1::2], strict=True) for i in range(start, end)]


def _tagged(text: str, tag: str) -> list[tuple[int, int]]:
    """Return where spans between two tags are; one that is not closed reaches beyond the end."""
    spans = []
    at = 0
    while (start := text.find(f"<{tag}>", at)) >= 0:
        closed = text.find(f"</{tag}>", start)
        at = closed + len(f"</{tag}>") if closed >= 0 else len(text) + 1
        spans.append((start, at))
    return spans


def find_boxed(text: str) -> tuple[int, int] | None:
    r"""Return where the last complete ``\boxed{…}`` (balanced braces) begins and ends, or None."""
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
                    return start, position + 1
    return None


def last_boxed(text: str) -> str | None:
    r"""Return the content of the last complete ``\boxed{…}`` (balanced braces), or None."""
    found = find_boxed(text)
    return None if found is None else text[found[0] + len("\\boxed{") : found[1] - 1].strip()


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
