"""Judge processes: math-verify behind a wall-clock bound, shared by the rewards of one event loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

from aster_env.errors import JudgeError
from aster_env.workers import Worker

_WORKER = str(Path(__file__).with_name("worker.py"))
_START_TIMEOUT = 60.0


class Judges:
    """Worker processes that judge one answer at a time; they start when first needed.

    It belongs to the event loop it is first used on. The processes end with the thread that started them, so the
    loop has to stay on its thread.

    Args:
        workers: processes at most.
    """

    def __init__(self, workers: int) -> None:
        self._places = asyncio.Semaphore(workers)
        self._idle: list[Worker] = []
        self._all: set[Worker] = set()
        self._closed = False

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers."""
        return [worker.pid for worker in self._all]

    async def judge(self, golds: Sequence[str], answer: str, timeout: float) -> bool | None:
        """Whether ``answer`` is equivalent to any of ``golds``; None if that cannot be judged in ``timeout`` seconds.

        A worker that dies is not the answer's fault at once (it may have died while idle): a fresh one tries again.

        Raises:
            JudgeError: no worker could be started, two in a row died, or the judges are closed.
        """
        async with self._places:
            worker = self._idle.pop() if self._idle else await self._start()
            try:
                return await self._ask(worker, golds, answer, timeout)
            except (EOFError, ConnectionError):
                worker = await self._start()
            try:
                return await self._ask(worker, golds, answer, timeout)
            except (EOFError, ConnectionError) as error:
                raise JudgeError(f"Two judge processes in a row ended while they judged {answer!r:.200}.") from error

    async def close(self) -> None:
        """End the worker processes; calling it twice is harmless."""
        self._closed, self._idle = True, []
        for worker in list(self._all):
            await self._end(worker)

    async def _ask(self, worker: Worker, golds: Sequence[str], answer: str, timeout: float) -> bool | None:
        request = json.dumps({"golds": list(golds), "answer": answer}).encode() + b"\n"
        try:
            verdict: bool | None = json.loads(await asyncio.wait_for(worker.ask(request), timeout))
        except TimeoutError:
            await self._end(worker)
            return None
        except BaseException:
            await self._end(worker)
            raise
        self._idle.append(worker)
        return verdict

    async def _start(self) -> Worker:
        if self._closed:
            raise JudgeError("The judge processes are closed.")
        try:
            worker = await Worker.start(_WORKER)
        except OSError as error:
            raise JudgeError(f"A judge process could not be started: {error}.") from error
        self._all.add(worker)
        try:
            await asyncio.wait_for(worker.line(), _START_TIMEOUT)
        except BaseException as error:
            await self._end(worker)
            if isinstance(error, TimeoutError):
                raise JudgeError(f"A judge process did not start within {_START_TIMEOUT:g} s.") from error
            if isinstance(error, EOFError):
                raise JudgeError(f"A judge process ended at its start (exit code {worker.exit_code}).") from error
            raise
        return worker

    async def _end(self, worker: Worker) -> None:
        await worker.end()
        self._all.discard(worker)
