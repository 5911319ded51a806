"""Pages to text, in processes that a page may break."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import time
from collections import OrderedDict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from aster_env.errors import MissingExtraError, UsageError, WebError
from aster_env.web.base import Fetched, Link, Page, PageError, shown
from aster_env.workers import Worker

_WORKER = str(Path(__file__).with_name("worker.py"))
_START_SECONDS = 60.0
_PATIENCE = 4
"""Wall time that a worker has for each second of CPU time."""
_OUTSIDE = {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP}
"""How workers end that somebody else ended: by hand, or because the machine's memory was full."""
_MOST_UNREADABLE = 1000
_NEEDED = {"trafilatura": "trafilatura", "resiliparse": "resiliparse", "pypdf": "pypdf"}


class _OutsideError(Exception):
    """A worker ended, or got no time, for a reason that is not the page's."""


class Extractor:
    """Reads pages in worker processes, which start when first needed and are replaced after ``recycle`` pages.

    A page that a process does not survive, or that takes all its CPU time, is read once more in a simpler way by a
    fresh one; only if that fails too it is a ``PageError``, at once where the same bytes come again. What is not its
    fault (a process that was killed, or a machine that gave it no time) is tried again in the same way, and then a
    ``WebError``, so that what a model reads does not depend on the machine.

    It belongs to the event loop it is first used on. The processes end with the thread that started them, so the loop
    has to stay on its thread.

    Args:
        workers: processes at most; default: the cores, four at most.
        seconds: of CPU time for a page, each of the two ways; of wall time it may take four times as much.
        recycle: pages of a process.
        max_chars: characters of a page's text.
        max_links: links of a page.

    Raises:
        UsageError: a value is not allowed.
        MissingExtraError: what reads pages is not installed.
    """

    def __init__(
        self,
        workers: int | None = None,
        seconds: float = 10.0,
        recycle: int = 500,
        max_chars: int = 200_000,
        max_links: int = 200,
    ) -> None:
        workers = workers or min(4, len(os.sched_getaffinity(0)))
        if min(workers, recycle, max_chars) < 1 or max_links < 0 or not seconds > 0:
            raise UsageError(
                f"workers={workers!r}, seconds={seconds!r}, recycle={recycle!r}, max_chars={max_chars!r} and "
                f"max_links={max_links!r} are not all allowed. Fix: each above 0, such as 2, 10, 500, 200000 and 200."
            )
        for module, package in _NEEDED.items():
            if find_spec(module) is None:
                raise MissingExtraError(package, "web", "Reading pages")
        self._seconds, self._recycle = seconds, recycle
        self._bounds = {"max_chars": max_chars, "max_links": max_links, "seconds": seconds}
        self._unreadable: OrderedDict[bytes, None] = OrderedDict()
        self._places = asyncio.Semaphore(workers)
        self._idle: list[Worker] = []
        self._read: dict[Worker, int] = {}
        self._closed = False

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers."""
        return [worker.pid for worker in self._read]

    async def page(self, fetched: Fetched) -> Page:
        """Return a page to read.

        Raises:
            PageError: it has no text that can be read.
            WebError: no worker could be started or stayed alive, or the extractor is closed.
        """
        started = time.perf_counter()
        answer = await self._answer(fetched)
        if answer is None:
            raise PageError(f"The page at {shown(fetched.url)!r} cannot be read.")
        if "error" in answer:
            raise PageError(answer["error"])
        return Page(
            url=fetched.url,
            title=answer["title"],
            text=answer["text"],
            links=tuple(Link(url, text) for url, text in answer["links"]),
            status=fetched.status,
            kind=answer["kind"],
            truncated=fetched.truncated or answer["truncated"],
            seconds=time.perf_counter() - started,
        )

    async def close(self) -> None:
        """End the worker processes; calling it twice is harmless."""
        self._closed, self._idle = True, []
        for worker in list(self._read):
            await self._end(worker)

    async def _answer(self, fetched: Fetched) -> dict[str, Any] | None:
        """Return the answer of a worker to a page, None where it was too much both ways, now or before."""
        digest = await asyncio.to_thread(_digest, fetched)
        async with self._places:
            if digest in self._unreadable:
                self._unreadable.move_to_end(digest)
                return None
            request = {"url": fetched.url, "content_type": fetched.content_type, **self._bounds}
            for plain in (False, True):
                if (answer := await self._twice({**request, "plain": plain}, fetched.body)) is not None:
                    return answer
            self._unreadable[digest] = None
            if len(self._unreadable) > _MOST_UNREADABLE:
                self._unreadable.popitem(last=False)
            return None

    async def _twice(self, request: dict[str, Any], body: bytes) -> dict[str, Any] | None:
        try:
            return await self._try(request, body)
        except _OutsideError:
            pass
        try:
            return await self._try(request, body)
        except _OutsideError as error:
            raise WebError(
                f"A process that reads pages {error}, twice for one page. Fix: more memory, fewer workers, or more "
                "seconds in reader_options."
            ) from error

    async def _try(self, request: dict[str, Any], body: bytes) -> dict[str, Any] | None:
        """Return a worker's answer, None where the page was too much for it; ``_OutsideError`` for other ends."""
        worker = await self._take()
        self._read[worker] += 1
        asked = json.dumps({**request, "size": len(body)}).encode() + b"\n" + body
        try:
            answer: dict[str, Any] = json.loads(await asyncio.wait_for(worker.ask(asked), _PATIENCE * self._seconds))
        except BaseException as error:
            how = await self._how_it_ended(worker) if isinstance(error, EOFError | ConnectionError) else None
            await self._end(worker)
            if not isinstance(error, TimeoutError | EOFError | ConnectionError):
                raise
            if self._closed:
                raise WebError("The extractor is closed.") from error
            if isinstance(error, TimeoutError):
                raise _OutsideError(f"did not come to use its {self._seconds:g} s of CPU time") from error
            if how in _OUTSIDE:
                raise _OutsideError(f"was ended from outside (exit code {how})") from error
            return None
        if self._read[worker] >= self._recycle:
            await self._end(worker)
        else:
            self._idle.append(worker)
        return None if "failed" in answer else answer

    async def _take(self) -> Worker:
        while self._idle:
            worker = self._idle.pop()
            if worker.exit_code is None:
                return worker
            await self._end(worker)
        return await self._start()

    async def _start(self) -> Worker:
        if self._closed:
            raise WebError("The extractor is closed. Fix: open another.")
        try:
            worker = await Worker.start(_WORKER, limit=2**26)
        except OSError as error:
            raise WebError(f"A process that reads pages could not be started: {error}.") from error
        self._read[worker] = 0
        try:
            await asyncio.wait_for(worker.line(), _START_SECONDS)
        except BaseException as error:
            await self._end(worker)
            if isinstance(error, TimeoutError):
                raise WebError(f"A process that reads pages did not start within {_START_SECONDS:g} s.") from error
            if isinstance(error, EOFError):
                how = f"exit code {worker.exit_code}"
                raise WebError(f"A process that reads pages ended at its start ({how}).") from error
            raise
        return worker

    async def _how_it_ended(self, worker: Worker) -> int | None:
        """Return the exit code of a process that closed its pipes, before it is killed to be sure."""
        for _ in range(100):
            if worker.exit_code is not None:
                break
            await asyncio.sleep(0.01)
        return worker.exit_code

    async def _end(self, worker: Worker) -> None:
        await worker.end()
        self._read.pop(worker, None)


def _digest(fetched: Fetched) -> bytes:
    return hashlib.sha256(fetched.content_type.encode() + b"\n" + fetched.body).digest()
