"""A pool of stock ipykernel processes: persistent sessions, no isolation."""

from __future__ import annotations

import asyncio
import math
import os
import sys
import time
from collections.abc import Awaitable
from typing import Any

import zmq
import zmq.asyncio

from aster_env.errors import KernelError, UsageError
from aster_env.kernels.base import Cell, ClosingPool
from aster_env.kernels.messages import Output
from aster_env.kernels.process import Died, KernelProcess


class IPyKernelPool(ClosingPool):
    """Sessions in ipykernel processes of the calling user.

    It does **not** isolate: a cell can read and write the user's files, use the network, and start processes. What it
    does give: a stripped environment, a scratch folder as working directory, an output limit at the source, and an
    end to every process of the kernel's process group on close, on a crash, and when the parent is killed (a small
    guard process leads the group). A process that a cell moves into a session of its own escapes.

    The same cells give the same output in every session: hashes are not randomised, and cells are named by their
    number.

    Each session has a process of its own, which is killed when the session closes.

    Args:
        allow_unsandboxed: must be True: the caller knows that nothing is isolated.
        max_kernels: sessions that live at once; ``start`` waits for a free place. None sets no bound.
        max_output: characters a cell may print before it is stopped; what its child processes and threads print past
            that is dropped and counted.
        grace: seconds between the interrupt of a cell that ran out of time and the kill.
        start_timeout: seconds a process may take to answer.

    Raises:
        UsageError: an argument is not allowed, or the system is not Linux.
    """

    def __init__(
        self,
        *,
        allow_unsandboxed: bool = False,
        max_kernels: int | None = None,
        max_output: int = 1 << 20,
        grace: float = 1.0,
        start_timeout: float = 60.0,
    ) -> None:
        if not allow_unsandboxed:
            raise UsageError(
                "The pool 'ipykernel' does not isolate: code runs as your user, with your files and network. "
                "Fix: pass allow_unsandboxed=True if that is meant."
            )
        if not hasattr(os, "pidfd_open"):
            raise UsageError(
                f"The pool 'ipykernel' needs Linux (pidfd_open), and this is {sys.platform!r}. "
                "Fix: run on Linux, or use a pool whose sessions live elsewhere."
            )
        check_number("max_kernels", max_kernels, 1, whole=True, optional=True)
        check_number("max_output", max_output, 1, whole=True)
        check_number("grace", grace, 0)
        check_number("start_timeout", start_timeout, 0.001)
        self.max_output, self.grace, self.start_timeout = max_output, grace, start_timeout
        self._places = asyncio.Semaphore(max_kernels) if max_kernels else None
        self._context: zmq.asyncio.Context | None = None
        self._all: set[KernelProcess] = set()
        self.closed = False

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
        self.closed = True
        ending, self._all = list(self._all), set()
        for process in ending:
            process.kill()
        for process in ending:
            await process.wait()
        if self._context is not None:
            self._context.destroy(linger=0)
            self._context = None

    async def take(self) -> KernelProcess:
        """Return a new process.

        Raises:
            KernelError: it could not be started, or the pool is closed.
        """
        if self.closed:
            raise KernelError("The kernel pool is closed.")
        if self._context is None:
            self._context = _make_context()
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
        how = await process.wait()
        self._all.discard(process)
        return how

    def free(self) -> None:
        """Give a session's place back."""
        if self._places is not None:
            self._places.release()


class IPyKernel:
    """One session of an ``IPyKernelPool``; see ``aster_env.kernels.base.Kernel``."""

    def __init__(self, pool: IPyKernelPool, process: KernelProcess) -> None:
        self._pool = pool
        self._process: KernelProcess | None = process
        self._closed = False

    async def execute(self, code: str, timeout: float = 30.0) -> Cell:
        """Run ``code`` as a notebook cell; see ``Kernel.execute``.

        A cell out of time is interrupted; if it does not stop within the pool's grace, the process is killed and
        replaced, and ``state`` is ``"lost"``. A cancelled ``execute`` replaces the process likewise.
        """
        if self._closed or self._pool.closed:
            raise KernelError(f"The {'session' if self._closed else 'kernel pool'} is closed.")
        if self._process is None:
            self._process = await self._pool.take()
        process, started = self._process, time.perf_counter()
        running = asyncio.ensure_future(process.run(code))
        try:
            await asyncio.wait({running}, timeout=timeout)
            timed_out = not running.done()
            if timed_out:
                process.interrupt()
                await asyncio.wait({running}, timeout=self._pool.grace)
            if not running.done():
                await self._replace(running)
                return Cell(state="lost", seconds=time.perf_counter() - started, timed_out=True)
            return running.result().cell(time.perf_counter() - started, timed_out=timed_out)
        except Died:
            how = await self._replace(running)
            if self._closed or self._pool.closed:
                raise KernelError("The session was closed while its code ran.") from None
            text = f"The Python process ended while the code ran ({how})."
            return Cell(error=text, state="lost", seconds=time.perf_counter() - started, died=True)
        except asyncio.CancelledError:
            await self._replace(running)
            raise

    async def close(self) -> None:
        """End the session; calling it twice is harmless."""
        if self._closed:
            return
        self._closed = True
        process, self._process = self._process, None
        try:
            if process is not None:
                await self._pool.discard(process)
        finally:
            self._pool.free()

    def _replace(self, running: asyncio.Future[Output]) -> Awaitable[str]:
        """End the process, also if the caller is cancelled, and say how it ended; the next cell gets a new one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
        return asyncio.shield(self._settle(process, running))

    async def _settle(self, process: KernelProcess | None, running: asyncio.Future[Output]) -> str:
        running.cancel()
        # Waited for, not awaited: what became of it is not what becomes of this.
        await asyncio.wait({running})
        if not running.cancelled():
            running.exception()
        return await self._pool.discard(process) if process is not None else "closed"


def check_number(name: str, value: Any, least: float, *, whole: bool = False, optional: bool = False) -> None:
    """Raise ``UsageError`` for an argument that is no number of at least ``least``."""
    if value is None and optional:
        return
    kinds = int if whole else int | float
    if not isinstance(value, kinds) or isinstance(value, bool) or not least <= value < math.inf:
        what = "a whole number" if whole else "a number"
        also = ", or None" if optional else ""
        raise UsageError(f"{name}={value!r} is not allowed. Allowed: {what} of at least {least:g}{also}.")


def _make_context() -> zmq.asyncio.Context:
    try:
        context = zmq.asyncio.Context()
        context.set(zmq.MAX_SOCKETS, 65_536)
    except zmq.ZMQError as error:
        raise KernelError(f"No sockets for a Python kernel: {error}.") from error
    return context
