"""One session in a kernel of a Jupyter gateway."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from aster_env.errors import KernelError
from aster_env.kernels.base import Cell
from aster_env.kernels.gateway_channel import Channel, Ended, Run
from aster_env.kernels.messages import Output

if TYPE_CHECKING:
    from aster_env.kernels.gateway import GatewayPool

_PATIENCE = 5.0
"""Seconds without a sign of the kernel after which the gateway is asked whether it still has it."""


@dataclass(eq=False, slots=True)
class Link:
    """A kernel of the gateway and the channel to it."""

    kernel_id: str
    channel: Channel


class GatewayKernel:
    """One session of a ``GatewayPool``; see ``aster_env.kernels.base.Kernel``."""

    def __init__(self, pool: GatewayPool, link: Link) -> None:
        self._pool = pool
        self._link: Link | None = link
        self._ending: asyncio.Task[None] | None = None
        self._closed = False

    async def execute(self, code: str, timeout: float = 30.0) -> Cell:
        """Run ``code`` as a notebook cell; see ``Kernel.execute``.

        A cell out of time is interrupted; if it does not stop within the pool's grace, its kernel is deleted and
        ``state`` is ``"lost"``. If the kernel ended before the cell could start, the code is not run, and the Cell
        says so. A cancelled ``execute`` loses the state likewise.

        Raises:
            KernelError: the gateway cannot be reached, refuses, or lost the connection to a kernel that still runs.
        """
        if self._closed:
            raise KernelError("The session is closed.")
        started = time.perf_counter()
        fresh = self._link is None
        await self._settle()
        link = self._link = self._link or await self._pool.take()
        run = Run(Output(self._pool.max_output))
        try:
            if not fresh and link.channel.ended and not await self._joined(link):
                text = "The Python process ended before this code could start; the code was not run."
                return self._lost(started, text, died=True)
            return await self._run(link, code, run, timeout, started)
        except Ended as end:
            return await self._after(end, link, run, started)
        except (KernelError, asyncio.CancelledError):
            await self._drop()
            raise

    async def close(self) -> None:
        """Delete the session's kernel; calling it twice is harmless.

        Raises:
            KernelError: the gateway could not be told.
        """
        if self._closed:
            return
        self._closed = True
        try:
            if self._link is not None:
                await self._pool.discard(self._link)
            await self._settle()
        finally:
            self._link = None
            self._pool.free()

    async def _run(self, link: Link, code: str, run: Run, timeout: float, started: float) -> Cell:
        running = asyncio.create_task(link.channel.run(code, run))
        flooded = asyncio.create_task(run.flooded.wait())
        either: tuple[asyncio.Task[Any], ...] = (running, flooded)
        try:
            first = min(timeout, _PATIENCE)
            done, _ = await asyncio.wait(either, timeout=first, return_when=asyncio.FIRST_COMPLETED)
            if not done and not run.heard and not await self._pool.exists(link):
                raise Ended("restarted")
            if not done:
                await asyncio.wait(either, timeout=timeout - first, return_when=asyncio.FIRST_COMPLETED)
            timed_out = not running.done() and not run.flooded.is_set()
            if not running.done():
                await self._pool.interrupt(link)
                await link.channel.wake()
                await asyncio.wait({running}, timeout=self._pool.grace)
            if not running.done():
                error = None if timed_out else self._flood
                return self._lost(started, error, run=run, timed_out=timed_out)
            await running
            cell = run.output.cell(time.perf_counter() - started, timed_out=timed_out)
            return replace(cell, error=self._flood) if run.flooded.is_set() else cell
        finally:
            for task in either:
                task.cancel()
            await asyncio.gather(*either, return_exceptions=True)

    @property
    def _flood(self) -> str:
        return f"The cell printed more than {self._pool.max_output} characters, or too fast, and was stopped."

    async def _joined(self, link: Link) -> bool:
        """Whether the kernel of an ended channel is as it was, and connected again."""
        if link.channel.ended == "restarted" or not await self._pool.exists(link):
            return False
        return await self._pool.rejoin(link, self._pool.start_timeout)

    async def _after(self, end: Ended, link: Link, run: Run, started: float) -> Cell:
        """Return the Cell of a run whose channel ended."""
        try:
            alive = end.reason != "restarted" and await self._pool.exists(link)
            if alive and end.reason == "too long":
                await self._pool.interrupt(link)
                with contextlib.suppress(KernelError):
                    if await self._pool.rejoin(link, self._pool.grace + _PATIENCE):
                        cell = run.output.cell(time.perf_counter() - started)
                        return replace(cell, error=self._flood, value=None)
                return self._lost(started, self._flood, run=run)
        except (KernelError, asyncio.CancelledError):
            await self._drop()
            raise
        if alive:
            await self._drop()
            raise KernelError("The connection to a kernel of the gateway was lost while its code ran.")
        text = "The Python process ended while the code ran (the gateway gave no reason; out of memory?)."
        return self._lost(started, text, run=run, died=True)

    def _lost(
        self, started: float, error: str | None, *, run: Run | None = None, timed_out: bool = False, died: bool = False
    ) -> Cell:
        """End the kernel; the next cell gets a new one."""
        link, self._link = self._link, None
        if link is not None:
            self._ending = self._pool.abandon(link)
        cell = run.output.cell(0.0) if run is not None else Cell()
        seconds = time.perf_counter() - started
        cell = replace(cell, timed_out=timed_out, died=died, state="lost", seconds=seconds)
        return replace(cell, error=error, value=None)

    async def _settle(self) -> None:
        """Wait for the end of a kernel that was lost: a gateway may bound how many there are."""
        ending, self._ending = self._ending, None
        if ending is not None:
            await asyncio.shield(ending)

    async def _drop(self) -> None:
        """End the kernel as far as the gateway can be reached."""
        link, self._link = self._link, None
        if link is not None:
            with contextlib.suppress(KernelError):
                await self._pool.discard(link)
