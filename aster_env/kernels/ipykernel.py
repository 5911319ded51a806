"""A pool of stock ipykernel processes: persistent sessions, no isolation."""

from __future__ import annotations

import asyncio
import contextlib
import time
from types import TracebackType
from typing import Self

import zmq.asyncio

from aster_env.errors import KernelError, UsageError
from aster_env.kernels.base import Cell
from aster_env.kernels.process import Died, KernelProcess, Output
from aster_env.kernels.recycle import is_contained

_RENEW = """\
import sys as _sys
for _name in ("last_type", "last_value", "last_traceback", "last_exc"):
    _sys.__dict__.pop(_name, None)
get_ipython().reset(new_session=True)
get_ipython().user_ns.update(_="", __="", ___="", __doc__=None, __loader__=None, __package__=None, __spec__=None)
"""


class IPyKernelPool:
    """Sessions in ipykernel processes of the calling user.

    It does **not** isolate: a cell can read and write the user's files, use the network, and start processes. What it
    does give: a stripped environment, a scratch folder as working directory, an output limit at the source, and an
    end to every process of the kernel's process group on close, on a crash, and when the parent is killed. A process
    that a cell moves into a session of its own escapes.

    A process that ran only cells that provably changed nothing but their own names (``recycle.is_contained``) is
    reset and serves the next session; any other is killed when its session closes.

    Args:
        allow_unsandboxed: must be True: the caller knows that nothing is isolated.
        max_kernels: sessions that live at once; ``start`` waits for a free place. None sets no bound.
        max_output: characters a cell may print before it is stopped.
        grace: seconds between the interrupt of a cell that ran out of time and the kill.
        start_timeout: seconds a process may take to answer.
        reuse: whether processes may serve one session after another.

    Raises:
        UsageError: an argument is not allowed.
    """

    def __init__(
        self,
        *,
        allow_unsandboxed: bool = False,
        max_kernels: int | None = None,
        max_output: int = 1 << 20,
        grace: float = 1.0,
        start_timeout: float = 60.0,
        reuse: bool = True,
    ) -> None:
        if not allow_unsandboxed:
            raise UsageError(
                "The pool 'ipykernel' does not isolate: code runs as your user, with your files and network. "
                "Fix: pass allow_unsandboxed=True if that is meant."
            )
        if max_kernels is not None and max_kernels < 1:
            raise UsageError(f"max_kernels={max_kernels} is not allowed. Allowed: at least 1, or None.")
        self.max_output, self.grace, self.start_timeout, self.reuse = max_output, grace, start_timeout, reuse
        self._places = asyncio.Semaphore(max_kernels) if max_kernels else None
        self._context: zmq.asyncio.Context | None = None
        self._idle: list[KernelProcess] = []
        self._all: set[KernelProcess] = set()
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> IPyKernel:
        """Return a fresh session; waits for a place if ``max_kernels`` are in use.

        Raises:
            KernelError: the process could not be started, or the pool is closed.
        """
        if self._places is not None:
            await self._places.acquire()
        try:
            return IPyKernel(self, await self.take())
        except BaseException:
            self.free()
            raise

    async def close(self) -> None:
        """End every session; calling it twice is harmless."""
        self._closed = True
        ending, self._all, self._idle = list(self._all), set(), []
        for process in ending:
            process.kill()
        for process in ending:
            await process.wait()
        if self._context is not None:
            self._context.destroy(linger=0)
            self._context = None

    async def take(self) -> KernelProcess:
        """Return a process without names of a former session."""
        while self._idle:
            process = self._idle.pop()
            if process.alive:
                return process
            await self.discard(process)
        if self._closed:
            raise KernelError("The kernel pool is closed.")
        if self._context is None:
            self._context = zmq.asyncio.Context()
            self._context.set(zmq.MAX_SOCKETS, 65_536)
        process = KernelProcess(self._context, self.max_output)
        self._all.add(process)
        try:
            await process.launch(self.start_timeout)
        except BaseException:
            await self.discard(process)
            raise
        return process

    async def discard(self, process: KernelProcess) -> str:
        """End a process and say how it ended."""
        process.kill()
        self._all.discard(process)
        return await process.wait()

    async def give_back(self, process: KernelProcess, contained: bool) -> None:
        """Take a process back from a session that closed."""
        if not (contained and self.reuse and process.alive) or self._closed:
            await self.discard(process)
            return
        try:
            renewed = await asyncio.wait_for(process.run(_RENEW, silent=True), self.grace + 1)
        except (TimeoutError, Died):
            await self.discard(process)
            return
        if renewed.ok:
            self._idle.append(process)
        else:
            await self.discard(process)

    def free(self) -> None:
        """Give a session's place back."""
        if self._places is not None:
            self._places.release()


class IPyKernel:
    """One session of an ``IPyKernelPool``; see ``aster_env.kernels.base.Kernel``."""

    def __init__(self, pool: IPyKernelPool, process: KernelProcess) -> None:
        self._pool = pool
        self._process: KernelProcess | None = process
        self._contained = True
        self._closed = False

    async def execute(self, code: str, timeout: float = 30.0) -> Cell:
        """Run ``code`` as a notebook cell; see ``Kernel.execute``.

        A cell out of time is interrupted; if it does not stop within the pool's grace, the process is killed and
        replaced, and ``state`` is ``"lost"``. A cancelled ``execute`` replaces the process likewise.
        """
        if self._closed:
            raise KernelError("The session is closed.")
        if self._process is None:
            self._process, self._contained = await self._pool.take(), True
        started = time.perf_counter()
        self._contained = self._contained and is_contained(code)
        running = asyncio.ensure_future(self._process.run(code))
        try:
            await asyncio.wait({running}, timeout=timeout)
            timed_out = not running.done()
            if timed_out:
                self._contained = False
                self._process.interrupt()
                await asyncio.wait({running}, timeout=self._pool.grace)
            if not running.done():
                await self._replace(running)
                return Cell(state="lost", seconds=time.perf_counter() - started, timed_out=True)
            return _cell(running.result(), time.perf_counter() - started, timed_out)
        except Died:
            how = await self._replace(running)
            text = f"The Python process ended while the code ran ({how})."
            return Cell(error=text, state="lost", seconds=time.perf_counter() - started, died=True)
        except asyncio.CancelledError:
            await asyncio.shield(self._replace(running))
            raise

    async def close(self) -> None:
        """End the session; calling it twice is harmless."""
        if self._closed:
            return
        self._closed = True
        process, self._process = self._process, None
        try:
            if process is not None:
                await self._pool.give_back(process, self._contained)
        finally:
            self._pool.free()

    async def _replace(self, running: asyncio.Future[Output]) -> str:
        """End the process and say how it ended; the next cell gets a new one."""
        process, self._process = self._process, None
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError, Died):
            await running
        return await self._pool.discard(process) if process is not None else "closed"


def _cell(output: Output, seconds: float, timed_out: bool) -> Cell:
    return Cell(
        stdout="".join(output.stdout),
        stderr="".join(output.stderr),
        value=output.value,
        error=output.error,
        seconds=seconds,
        timed_out=timed_out,
    )
