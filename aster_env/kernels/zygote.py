"""The default pool: isolated sessions forked from a warm parent."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import resource
import time
from collections.abc import Sequence
from typing import Any

from aster_env.errors import KernelError, UsageError, check_name
from aster_env.kernels.base import Cell, ClosingPool
from aster_env.kernels.forkserver import PRELOAD, ForkServer, hidden, possible, refusal
from aster_env.kernels.inside.settings import MODES, MiB, Settings
from aster_env.kernels.session import Died, Session
from aster_env.kernels.shard import Shard


class ZygotePool(ClosingPool):
    """Sessions forked from a warm parent, each confined by every layer that this machine has.

    What a session cannot do: read the host's files or environment, write outside its scratch folder, use the network,
    start programs, see or signal other processes, or use more than its limits. What the sandbox does **not** protect
    against is in ``docs/security.md``: bugs of the Linux kernel above all, and side channels; use a virtual machine
    for code that is hostile on purpose.

    Args:
        isolation: ``"best"``: as root with all layers, else through user namespaces, else Landlock and seccomp alone;
            or one of ``"privileged"``, ``"userns"``, ``"confined"``.
        allow_unsandboxed: whether to start where Landlock or seccomp is missing.
        max_kernels: sessions that live at once; ``start`` waits for a free place. None sets no bound.
        spares: sessions forked ahead of demand.
        shards: fork servers. None: one for each four processors, at most 8.
        memory: MiB that a session may allocate.
        pool_memory: MiB of all sessions together, where control groups are writable; each shard has its part. None:
            80 % of the machine's.
        disk: MiB of a session's scratch folder; also the most that one file may have.
        cpu_seconds: CPU time of a session's whole life.
        threads: of a session, where sessions have users of their own.
        max_output: characters a cell may print before it is stopped.
        grace: seconds between the interrupt of a cell that ran out of time and the kill.
        start_timeout: seconds a fork server may take to start, or a session to answer.
        preload: modules that every session finds loaded.

    Raises:
        UsageError: an argument is not allowed, or the system is not Linux.
    """

    def __init__(
        self,
        *,
        isolation: str = "best",
        allow_unsandboxed: bool = False,
        max_kernels: int | None = None,
        spares: int = 4,
        shards: int | None = None,
        memory: int = 1024,
        pool_memory: int | None = None,
        disk: int = 64,
        cpu_seconds: int = 3600,
        threads: int = 64,
        max_output: int = 1 << 20,
        grace: float = 1.0,
        start_timeout: float = 60.0,
        preload: Sequence[str] = PRELOAD,
    ) -> None:
        check_name("isolation", isolation, ("best", *MODES))
        shards = shards if shards is not None else min(8, max(1, (os.cpu_count() or 1) // 4))
        counts = {"memory": memory, "disk": disk, "cpu_seconds": cpu_seconds, "threads": threads, "shards": shards}
        _check(
            {**counts, "max_output": max_output, "max_kernels": 1 if max_kernels is None else max_kernels},
            least=1,
            kind=int,
        )
        _check({"spares": spares, "pool_memory": pool_memory or 0}, least=0, kind=int)
        _check({"grace": grace, "start_timeout": start_timeout}, least=0, kind=int | float)
        if isinstance(preload, str):
            raise UsageError(f"preload={preload!r} is not allowed. Allowed: a sequence of module names.")
        self.grace, self.start_timeout = grace, start_timeout
        self._modes = MODES if isolation == "best" else (isolation,)
        limits: dict[str, Any] = {"cpu_seconds": cpu_seconds, "threads": threads, "max_output": max_output}
        sizes: dict[str, Any] = {
            "memory": memory,
            "disk": disk,
            "file_size": disk,
            "pool_memory": max(1, (pool_memory or _most_memory()) // shards),
        }
        limits |= {name: size * MiB for name, size in sizes.items()}
        self.settings = Settings(
            folder="", preload=tuple(preload), hidden=hidden(), unsandboxed=allow_unsandboxed, **limits
        )
        self._places = asyncio.Semaphore(max_kernels) if max_kernels else None
        self._servers: list[Shard | None] = [None] * shards
        self._opening = [asyncio.Lock() for _ in range(shards)]
        self._turn = 0
        self._spares: collections.deque[tuple[Shard, Session]] = collections.deque()
        self._wanted = spares
        self._refilling: asyncio.Task[None] | None = None
        self._closed = False

    async def start(self) -> ZygoteKernel:
        """Return a fresh session; waits for a place if ``max_kernels`` are in use.

        Raises:
            KernelError: no session could be started, sessions cannot be isolated here, or the pool is closed.
        """
        if self._places is not None:
            await self._places.acquire()
        try:
            return ZygoteKernel(self, *await self.take())
        except BaseException:
            self.free()
            raise

    async def layers(self) -> dict[str, tuple[bool, str]]:
        """Return the layers around the sessions: ``name: (on, reason)``."""
        return dict((await self._server(0)).handle.layers)

    async def close(self) -> None:
        """End every session and every process of the pool; calling it twice is harmless."""
        self._closed = True
        if self._refilling is not None:
            self._refilling.cancel()
            await asyncio.gather(self._refilling, return_exceptions=True)
        servers, self._servers = self._servers, [None] * len(self._servers)
        self._spares.clear()
        await asyncio.gather(*(server.close() for server in servers if server is not None))

    async def take(self) -> tuple[Shard, Session]:
        """Return a fresh session, a spare one if there is one."""
        if self._closed:
            raise KernelError("The kernel pool is closed.")
        taken = None
        while self._spares and taken is None:
            server, session = self._spares.popleft()
            taken = (server, session) if session.alive else None
        taken = taken or await self._fork()
        if len(self._spares) < self._wanted and (self._refilling is None or self._refilling.done()):
            self._refilling = asyncio.create_task(self._refill())
        return taken

    def free(self) -> None:
        """Give a session's place back."""
        if self._places is not None:
            self._places.release()

    async def _refill(self) -> None:
        # A start that finds no spare forks one itself, and raises what went wrong.
        with contextlib.suppress(KernelError):
            while len(self._spares) < self._wanted:
                self._spares.append(await self._fork())

    async def _fork(self) -> tuple[Shard, Session]:
        self._turn += 1
        server = await self._server(self._turn % len(self._servers))
        return server, await server.fork(self.start_timeout)

    async def _server(self, shard: int) -> Shard:
        server = self._servers[shard]
        if server is not None and not server.lost:
            return server
        async with self._opening[shard]:
            server = self._servers[shard]
            if server is None or server.lost:
                if server is not None:
                    await server.close()
                server = self._servers[shard] = await self._open()
        if self._closed:
            await server.close()
            raise KernelError("The kernel pool is closed.")
        return server

    async def _open(self) -> Shard:
        raise_open_files()
        reasons = []
        for mode in possible(self._modes):
            server = Shard(ForkServer(self.settings, mode))
            try:
                reason = await asyncio.wait_for(asyncio.shield(server.opened), self.start_timeout)
            except TimeoutError:
                reason = f"no answer within {self.start_timeout:g} s"
            except asyncio.CancelledError:
                await server.close()
                raise
            if reason is None:
                return server
            await server.close()
            reasons.append(f"{mode}: {reason}")
        raise KernelError(refusal(reasons))


class ZygoteKernel:
    """One session of a ``ZygotePool``; see ``aster_env.kernels.base.Kernel``."""

    def __init__(self, pool: ZygotePool, server: Shard, session: Session) -> None:
        self._pool, self._server = pool, server
        self._session: Session | None = session
        self._one = asyncio.Lock()
        self._closed = False

    async def execute(self, code: str, timeout: float = 30.0) -> Cell:
        """Run ``code`` as a notebook cell; see ``Kernel.execute``.

        A cell out of time is interrupted; if it does not stop within the pool's grace, its process is killed, and
        ``state`` is ``"lost"``. So it is for the next cell after a cancelled one.
        """
        async with self._one:
            return await self._execute(code, timeout)

    async def _execute(self, code: str, timeout: float) -> Cell:
        if not self._closed and self._session is None:
            self._server, self._session = await self._pool.take()
        session, started = self._session, time.perf_counter()
        if self._closed or session is None:
            if session is not None:
                session.close()
            raise KernelError("The session is closed.")
        when = "while the code ran" if session.alive else "before the code ran"
        ladder = _Ladder(session, timeout, self._pool.grace)
        try:
            output = await session.run(code)
            return output.cell(time.perf_counter() - started, timed_out=ladder.timed_out)
        except Died as died:
            if self._closed:
                raise KernelError("The session was closed while its cell ran.") from died
            how = await self._lost(str(died))
            error = None if ladder.timed_out else f"The Python process ended {when}: {how}."
            seconds = time.perf_counter() - started
            return Cell(error=error, state="lost", seconds=seconds, timed_out=ladder.timed_out, died=error is not None)
        except asyncio.CancelledError:
            session.close("cancelled")
            self._session = None
            raise
        finally:
            ladder.cancel()

    async def close(self) -> None:
        """End the session; calling it twice is harmless."""
        if self._closed:
            return
        self._closed = True
        session, self._session = self._session, None
        if session is not None:
            session.close()
        self._pool.free()

    async def _lost(self, why: str) -> str:
        """Say how the session ended; the next cell gets a new one."""
        session, self._session = self._session, None
        if session is None:
            return "it was closed"
        try:
            status, cpu = await asyncio.wait_for(asyncio.shield(session.ended), self._pool.start_timeout)
        except (TimeoutError, Died) as error:
            raise KernelError(f"A Python session was lost with its fork server ({error or why}).") from error
        return self._server.describe(status, cpu, why)


class _Ladder:
    """Interrupt, grace, kill."""

    def __init__(self, session: Session, timeout: float, grace: float) -> None:
        self.timed_out = False
        self._session, self._grace = session, grace
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(timeout, self._interrupt)

    def cancel(self) -> None:
        self._timer.cancel()

    def _interrupt(self) -> None:
        self.timed_out = True
        self._session.interrupt()
        self._timer = self._loop.call_later(self._grace, self._session.kill)


def _check(values: dict[str, Any], least: int, kind: Any) -> None:
    for name, value in values.items():
        if not isinstance(value, kind) or isinstance(value, bool) or not value >= least:
            what = "an integer" if kind is int else "a number"
            raise UsageError(f"{name}={value!r} is not allowed. Allowed: {what} of at least {least}.")


def _most_memory() -> int:
    """Return 80 % of the machine's memory, in MiB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 4 // 5 // MiB


def raise_open_files(wanted: int = 1 << 16) -> None:
    """Raise this process's soft limit of open files: each session takes two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
