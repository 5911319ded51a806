"""What runs on each node of a Ray cluster: one inner pool of sessions, driven by a ``RayPool`` elsewhere.

Calls may overtake one another on their way (Ray promises asynchronous actors no order), so an ``abort`` or ``end`` that
arrives before what it ends is remembered. Errors go back as values: an exception that Ray carries changes its class.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aster_env.errors import AsterError, KernelError, MissingExtraError, UsageError
from aster_env.kernels import open_pool
from aster_env.kernels.base import Cell, Kernel, KernelPool

Reply = tuple[str, Any]
"""``("ok", value)``, or the kind of an error (``ERRORS``) and its text."""

ERRORS: dict[str, type[AsterError]] = {"usage": UsageError, "kernel": KernelError}
"""The errors that cross from a node to the pool. A missing package of a node is a usage error: retries cannot help."""


@dataclass(slots=True)
class _Session:
    """A session of this node: its start, its running cells by turn, and the last turn that was aborted."""

    starting: asyncio.Task[Kernel]
    running: dict[int, asyncio.Task[Cell]] = field(default_factory=dict)
    aborted: int = 0


class KernelHost:
    """The actor of one node.

    Args:
        inner: the name of the node's own pool.
        options: that pool's arguments.
    """

    def __init__(self, inner: str, options: Mapping[str, Any]) -> None:
        self._inner, self._options = inner, dict(options)
        self._pool: KernelPool | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sessions: dict[int, _Session] = {}
        self._ended_early: set[int] = set()

    async def open(self) -> Reply:
        """Open the inner pool."""
        return await _reply(self._open())

    async def ping(self) -> Reply:
        """Answer, if the event loop still turns."""
        return "ok", None

    async def count(self) -> Reply:
        """Return how many sessions there are."""
        return "ok", len(self._sessions)

    async def start(self, number: int) -> Reply:
        """Start the session ``number``."""
        if number in self._ended_early or self._pool is None:
            self._ended_early.discard(number)
            return "kernel", "The session was ended before it started."
        session = _Session(asyncio.ensure_future(self._pool.start()))
        self._sessions[number] = session
        status, value = await _reply(session.starting)
        if status == "ok":
            return "ok", None
        self._sessions.pop(number, None)
        return status, value

    async def execute(self, number: int, turn: int, code: str, timeout: float) -> Reply:
        """Run a cell; ``turn`` names it for ``abort``."""
        session = self._sessions.get(number)
        if session is None or turn <= session.aborted:
            return "kernel", "The session is closed." if session is None else "The cell was cancelled."
        kernel = session.starting.result()
        session.running[turn] = asyncio.ensure_future(kernel.execute(code, timeout))
        try:
            return await _reply(session.running[turn])
        finally:
            session.running.pop(turn, None)

    async def abort(self, number: int, turn: int) -> Reply:
        """Cancel a cell; its session is usable when this returns, as the inner pool leaves it."""
        session = self._sessions.get(number)
        if session is not None:
            session.aborted = max(turn, session.aborted)
            await _cancel(session.running.get(turn))
        return "ok", None

    async def end(self, number: int) -> Reply:
        """Close a session, whatever it is doing."""
        session = self._sessions.pop(number, None)
        if session is None:
            self._ended_early.add(number)
            return "ok", None
        return await _reply(self._end(session))

    async def close(self) -> Reply:
        """Close the inner pool and so every session."""
        pool, self._pool = self._pool, None
        sessions, self._sessions = list(self._sessions.values()), {}
        for session in sessions:
            await _cancel(session.starting, *session.running.values())
        return await _reply(pool.close()) if pool is not None else ("ok", None)

    def __ray_shutdown__(self) -> None:
        """Close the inner pool when Ray ends the actor in order: its loop has stopped then, its pool has not."""
        loop = self._loop
        if loop is not None and self._pool is not None and not loop.is_running() and not loop.is_closed():
            with contextlib.suppress(TimeoutError):
                loop.run_until_complete(asyncio.wait_for(self.close(), 10))

    async def _open(self) -> None:
        self._loop = asyncio.get_running_loop()
        # Ray may start its processes with SIGINT blocked; the sessions would inherit that and ignore an interrupt.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        self._pool = open_pool(self._inner, **self._options)
        await self._pool.__aenter__()

    async def _end(self, session: _Session) -> None:
        await _cancel(session.starting, *session.running.values())
        if not session.starting.cancelled() and session.starting.exception() is None:
            await session.starting.result().close()


async def _cancel(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel what has not ended and wait for its end."""
    pending = [task for task in tasks if task is not None and not task.done()]
    for task in pending:
        task.cancel()
    if pending:
        await asyncio.wait(pending)


async def _reply(work: Awaitable[Any]) -> Reply:
    """Await ``work``; its errors, where they are this project's own, become values."""
    try:
        return "ok", await work
    except (UsageError, MissingExtraError) as error:
        return "usage", str(error)
    except AsterError as error:
        return "kernel", str(error)
    except asyncio.CancelledError:
        return "kernel", "The call was cancelled on its node."
