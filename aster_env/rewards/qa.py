"""Question answering: exact match and token F1, the best over all reference answers."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

from aster_env.errors import check_name
from aster_env.types import RewardResult, StopReason, Task, Trajectory

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


class QAReward:
    """Token F1, or exact match, of the episode's answer (SQuAD, arXiv 1606.05250); 0 for an episode without one.

    Terms: ``em`` and ``f1``; ``correct`` is the exact match.

    Args:
        score: what the reward is: ``"f1"`` or ``"em"``.

    Raises:
        UsageError: another ``score``.
    """

    def __init__(self, score: str = "f1") -> None:
        self.score = check_name("score", score, ("em", "f1"))

    async def __call__(self, task: Task, trajectory: Trajectory) -> RewardResult:
        """Score a finished episode."""
        answer = trajectory.answer if trajectory.stop is StopReason.ANSWERED else None
        em, f1 = exact_match(task.answers, answer or ""), token_f1(task.answers, answer or "")
        return RewardResult({"em": em, "f1": f1}[self.score], {"em": em, "f1": f1, "correct": em})

    async def close(self) -> None:
        """Do nothing: there is nothing to release."""


def normalize(text: str) -> str:
    """Return a text as SQuAD compares it: lower case, without ASCII punctuation and articles, single spaces.

    A text of nothing but these (the article "A" as the answer to a choice, say) keeps them: it would equal every other
    such text.
    """
    lower = text.lower()
    kept = " ".join(_ARTICLES.sub(" ", lower.translate(_PUNCTUATION)).split())
    return kept or " ".join(lower.split())


def exact_match(golds: Sequence[str], answer: str) -> float:
    """Return 1.0 if the answer is any of the reference answers once both are normalized, else 0.0."""
    found = normalize(answer)
    return float(bool(found) and any(found == normalize(gold) for gold in golds))


def token_f1(golds: Sequence[str], answer: str) -> float:
    """Return the largest F1 of the answer's tokens over the reference answers.

    The maximum is SQuAD's; Tool-Star's published script keeps the last reference's score instead, so that a right
    answer scores 0 where another reference is listed after it.
    """
    return max((_f1(normalize(gold).split(), normalize(answer).split()) for gold in golds), default=0.0)


def _f1(gold: list[str], answer: list[str]) -> float:
    common = sum((Counter(gold) & Counter(answer)).values())
    return 2 * common / (len(gold) + len(answer)) if common else 0.0
