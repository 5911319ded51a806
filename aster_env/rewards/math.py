"""Binary reward: is the answer mathematically equivalent to a reference answer?"""

from __future__ import annotations

import re
from collections.abc import Sequence

from aster_env import loops
from aster_env.rewards.judges import Judges
from aster_env.types import RewardResult, StopReason, Task, Trajectory

_INTEGER = re.compile(r"[+-]?(\d+|\d{1,3}(,\d{3})+)(\.0*)?")


class MathReward:
    r"""1 if the episode's answer is equivalent to any reference answer, else 0 (outcome reward of arXiv 2602.01204).

    Equivalence is judged by ``math-verify`` in worker processes under a wall-clock bound, so that no answer can hang
    or break the caller, on any thread. Plain integers and identical strings are judged in place. Only an episode
    that was answered can score; an answer that cannot be judged in time scores 0, ``judged`` is False, the term
    ``unjudged`` is 1, and ``unjudged`` counts it.

    For a reference answer that is one value, an answer may be a chain (``x = 12``, ``2 \sqrt 3 \approx 3.46``) in
    which every side holds; see ``aster_env.rewards.worker``.

    Args:
        timeout: seconds a judgement may take.
        workers: processes at most; they start when first needed. All rewards of an event loop with this number share
            them.
        max_length: characters of an answer that is judged; a longer one is wrong.
    """

    def __init__(self, timeout: float = 5.0, workers: int = 2, max_length: int = 2000) -> None:
        self.timeout, self.max_length = timeout, max_length
        self.unjudged = 0
        self._workers = workers
        self._judges: Judges | None = None

    async def __call__(self, task: Task, trajectory: Trajectory) -> RewardResult:
        """Score a finished episode.

        Raises:
            JudgeError: no worker process could be started, or two in a row died.
        """
        if trajectory.stop is not StopReason.ANSWERED or trajectory.answer is None:
            return RewardResult(0.0, {"correct": 0.0})
        verdict = await self.grade(task.answers, trajectory.answer)
        if verdict is None:
            self.unjudged += 1
            return RewardResult(0.0, {"correct": 0.0, "unjudged": 1.0}, judged=False)
        return RewardResult(float(verdict), {"correct": float(verdict)})

    async def grade(self, golds: Sequence[str], answer: str) -> bool | None:
        """Whether ``answer`` is equivalent to any of ``golds``; None if that cannot be judged in time.

        Raises:
            JudgeError: no worker process could be started, or two in a row died.
        """
        quick = grade_quickly(golds, answer, self.max_length)
        if quick is not None:
            return quick
        if self._judges is None:
            self._judges = loops.lease(("judges", self._workers), lambda: Judges(self._workers))
        return await self._judges.judge(golds, answer, self.timeout)

    async def close(self) -> None:
        """Give the judge processes back, which end with their last user; calling it twice is harmless."""
        judges, self._judges = self._judges, None
        if judges is not None:
            await loops.release(judges)


def grade_quickly(golds: Sequence[str], answer: str, max_length: int = 2000) -> bool | None:
    """Judge what needs no algebra: empty or overlong answers, identical strings, and integers; else None."""
    answer = answer.strip()
    if not answer or len(answer) > max_length:
        return False
    stripped = [gold.strip() for gold in golds]
    if answer in stripped:
        return True
    if _INTEGER.fullmatch(answer) and all(map(_INTEGER.fullmatch, stripped)):
        return _canonical(answer) in map(_canonical, stripped)
    return None


def _canonical(integer: str) -> str:
    digits = integer.partition(".")[0].replace(",", "").lstrip("+")
    sign = "-" if digits.startswith("-") else ""
    digits = digits.lstrip("-").lstrip("0") or "0"
    return digits if digits == "0" else sign + digits
