"""Binary reward: is the answer mathematically equivalent to a reference answer?"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from aster_env.errors import JudgeError
from aster_env.types import RewardResult, StopReason, Task, Trajectory

_WORKER = str(Path(__file__).with_name("worker.py"))
_INTEGER = re.compile(r"[+-]?(\d+|\d{1,3}(,\d{3})+)(\.0*)?")
_START_TIMEOUT = 60.0


class MathReward:
    """1 if the episode's answer is equivalent to any reference answer, else 0 (outcome reward of arXiv 2602.01204).

    Equivalence is judged by ``math-verify`` in worker processes under a wall-clock bound, so that no answer can hang
    or break the caller, on any thread. Plain integers and identical strings are judged in place. Only an episode
    that was answered can score; an answer that cannot be judged in time scores 0, ``judged`` is False, the term
    ``unjudged`` is 1, and ``unjudged`` counts it.

    Args:
        timeout: seconds a judgement may take.
        workers: processes at most; they start when first needed.
        max_length: characters of an answer that is judged; a longer one is wrong.
    """

    def __init__(self, timeout: float = 5.0, workers: int = 2, max_length: int = 2000) -> None:
        self.timeout, self.max_length = timeout, max_length
        self.unjudged = 0
        self._workers = workers
        self._places: asyncio.Semaphore | None = None
        self._idle: list[asyncio.subprocess.Process] = []
        self._all: set[asyncio.subprocess.Process] = set()

    async def __call__(self, task: Task, trajectory: Trajectory) -> RewardResult:
        """Score a finished episode.

        Raises:
            JudgeError: no worker process could be started.
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
            JudgeError: no worker process could be started.
        """
        quick = grade_quickly(golds, answer, self.max_length)
        if quick is not None:
            return quick
        if self._places is None:
            self._places = asyncio.Semaphore(self._workers)
        async with self._places:
            worker = self._idle.pop() if self._idle else await self._start()
            try:
                verdict = await asyncio.wait_for(_ask(worker, golds, answer), self.timeout)
            except BaseException as error:
                await self._end(worker)
                if isinstance(error, TimeoutError | ConnectionError | EOFError):
                    return None
                raise
            self._idle.append(worker)
            return verdict

    async def close(self) -> None:
        """End the worker processes; calling it twice is harmless."""
        self._idle, self._places = [], None
        for worker in list(self._all):
            await self._end(worker)

    async def _start(self) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        environment = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "HOME", "PYTHONPATH")}
        worker = await asyncio.create_subprocess_exec(
            sys.executable, "-P", _WORKER, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL, env=environment
        )
        self._all.add(worker)
        assert worker.stdout is not None
        try:
            ready = await asyncio.wait_for(worker.stdout.readline(), _START_TIMEOUT)
        except BaseException as error:
            await self._end(worker)
            if isinstance(error, TimeoutError):
                raise JudgeError(f"A judge process did not start within {_START_TIMEOUT:g} s.") from error
            raise
        if ready != b"ready\n":
            await self._end(worker)
            raise JudgeError(f"A judge process ended at its start (exit code {worker.returncode}).")
        return worker

    async def _end(self, worker: asyncio.subprocess.Process) -> None:
        self._all.discard(worker)
        if worker.returncode is None:
            worker.kill()
        await worker.communicate()


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


async def _ask(worker: asyncio.subprocess.Process, golds: Sequence[str], answer: str) -> bool | None:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(json.dumps({"golds": list(golds), "answer": answer}).encode() + b"\n")
    await worker.stdin.drain()
    line = await worker.stdout.readline()
    if not line:
        raise EOFError("the judge process ended")
    verdict: bool | None = json.loads(line)
    return verdict
