r"""Tool-Star's hierarchical reward (arXiv 2505.16410): form first, then the answer, then the use of both tools.

The conditions of form read what the model wrote. A result is the environment's as a whole: no text inside it satisfies
a condition, or breaks one. The content of a call is code or a query, in which tags mean nothing either.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from aster_env.rewards.math import MathReward
from aster_env.rewards.qa import exact_match, token_f1
from aster_env.types import RewardResult, StopReason, Task, Trajectory, Turn

MALFORMED = -1.0
"""The reward where a condition fails."""
BOTH_TOOLS = 0.1
"""What is added to a score above 0 where the episode used both tools."""

_CALLS = ("python", "search", "visit")
_TAG = re.compile(f"<(/?)({'|'.join((*_CALLS, 'think', 'result', 'answer'))})>")


@dataclass(frozen=True, slots=True)
class Span:
    """What stands between a tag and its closing tag.

    Args:
        name: the tag's.
        text: between the two.
        balanced: whether it was opened, closed in the same turn, and held no other tag (a call may).
        foreign: whether the environment wrote it.
    """

    name: str
    text: str = ""
    balanced: bool = True
    foreign: bool = False


class ToolStarReward:
    r"""-1 for a malformed episode; 0 where the answer scores 0; else the score, plus 0.1 where both tools were used.

    Well-formed is what meets every check of ``CONDITIONS``. The score of a question is token F1, the best over the
    reference answers. That of mathematics is 1 for an equivalent answer, as ``MathReward`` judges it: the published
    code takes token F1 there too, which gives ``x^2+1`` nothing for ``1+x^2``.

    Terms: ``correct`` (the mathematical verdict, or the exact match; 0 in a malformed episode, which is not judged),
    ``format``, ``malformed/NAME`` for each condition (1 where it fails), ``both_tools``; ``f1`` for questions, and
    ``unjudged`` as in ``MathReward``.

    Args:
        math: judges mathematics.
    """

    def __init__(self, math: MathReward | None = None) -> None:
        self.math = math or MathReward()

    async def __call__(self, task: Task, trajectory: Trajectory) -> RewardResult:
        """Score a finished episode.

        Raises:
            JudgeError: no worker process could be started, or two in a row died.
        """
        spans = read_spans(trajectory.turns)
        failed = {f"malformed/{name}": float(not holds(spans)) for name, holds in CONDITIONS.items()}
        both = float(used_both_tools(trajectory.turns))
        terms = {"correct": 0.0, "format": float(not any(failed.values())), **failed, "both_tools": both}
        if not terms["format"]:
            return RewardResult(MALFORMED, terms)
        score, of_score, judged = await self._score(task, trajectory)
        return RewardResult(score + BOTH_TOOLS * both if score > 0 else 0.0, {**terms, **of_score}, judged)

    async def close(self) -> None:
        """Give the judge processes back; calling it twice is harmless."""
        await self.math.close()

    async def _score(self, task: Task, trajectory: Trajectory) -> tuple[float, Mapping[str, float], bool]:
        """Return the answer's score, its terms, and whether it was judged."""
        if task.kind == "math":
            result = await self.math(task, trajectory)
            return result.value, result.terms, result.judged
        answer = (trajectory.answer or "") if trajectory.stop is StopReason.ANSWERED else ""
        f1 = token_f1(task.answers, answer)
        return f1, {"correct": exact_match(task.answers, answer), "f1": f1}, True


def balanced_tags(spans: Sequence[Span]) -> bool:
    """Whether every tag of the model's is opened, closed in its turn, and inside no other."""
    return all(span.balanced for span in spans)


def thinks(spans: Sequence[Span]) -> bool:
    """Whether there is a thought."""
    return any(span.name == "think" for span in spans)


def answers_once(spans: Sequence[Span]) -> bool:
    """Whether there is exactly one answer, and in the last turn: one beside a call ended nothing."""
    places = [place for place, span in enumerate(spans) if span.name == "answer"]
    return len(places) == 1 and not any(span.foreign for span in spans[places[0] :])


def pairs_calls_with_results(spans: Sequence[Span]) -> bool:
    """Whether each call is followed at once by the environment's result, and nothing else is followed by one."""
    waiting = False
    for span in spans:
        if waiting != (span.name == "result") or (waiting and not span.foreign):
            return False
        waiting = span.name in _CALLS
    return not waiting


def boxes_the_answer(spans: Sequence[Span]) -> bool:
    r"""Whether every answer, and at least one, holds ``\boxed{``."""
    answers = [span.text for span in spans if span.name == "answer"]
    return bool(answers) and all("\\boxed{" in text for text in answers)


CONDITIONS: Mapping[str, Callable[[Sequence[Span]], bool]] = {
    "balanced_tags": balanced_tags,
    "thinks": thinks,
    "answers_once": answers_once,
    "pairs_calls_with_results": pairs_calls_with_results,
    "boxes_the_answer": boxes_the_answer,
}
"""What a well-formed episode meets, by name."""


def used_both_tools(turns: Sequence[Turn]) -> bool:
    """Whether a call of Python and one of search were executed."""
    names = {call.name for turn in turns for call in turn.calls if call.problem is None}
    return {"python", "search"} <= names


def read_spans(turns: Sequence[Turn]) -> list[Span]:
    """Return an episode's spans in order; what stands outside of tags is none.

    Args:
        turns: the prompt, then the model's and the environment's in turn. A thought that the environment's text opens
            at its end, as some chat templates do, counts as the model's.
    """
    spans: list[Span] = []
    opened = False
    for number, turn in enumerate(turns):
        if turn.role == "model":
            spans += _scan(("<think>" if opened else "") + turn.text)
            continue
        spans += [Span("result", foreign=True)] * (number > 0)
        opened = turn.text.rstrip().endswith("<think>")
    return spans


def _scan(text: str) -> Iterator[Span]:
    """Yield the spans of a turn of the model's."""
    position = 0
    while (tag := _TAG.search(text, position)) is not None:
        closes, name = tag.groups()
        position = tag.end()
        if closes:
            yield Span(name, balanced=False)
            continue
        end = text.find(f"</{name}>", position)
        inside = text[position:] if end < 0 else text[position:end]
        yield Span(name, inside, end >= 0 and (name in _CALLS or _TAG.search(inside) is None))
        position = len(text) if end < 0 else end + len(f"</{name}>")
