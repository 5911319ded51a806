"""A fork server on an event loop: sessions are asked of it, and it tells how they ended."""

from __future__ import annotations

import asyncio
import signal
import socket

from aster_env.errors import KernelError
from aster_env.kernels.forkserver import ForkServer
from aster_env.kernels.inside import UNUSABLE
from aster_env.kernels.inside.cgroup import out_of_memory_kills
from aster_env.kernels.session import ENDED, Died, Session

_FORKS_AT_ONCE = 32
_POLL = 0.002
_CLOSE_SECONDS = 5.0


class Shard:
    """A fork server on the running event loop.

    Args:
        handle: a fork server that was just started.

    Attributes:
        opened: None once it is ready; or why it is not.
        lost: whether it is gone.
    """

    def __init__(self, handle: ForkServer) -> None:
        self.handle = handle
        self.lost = False
        self._loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[str | None] = self._loop.create_future()
        self._sessions: dict[int, Session] = {}
        self._count = self._kills = self._unclaimed = 0
        self._gate = asyncio.Semaphore(_FORKS_AT_ONCE)
        handle.control.setblocking(False)
        self._loop.add_reader(handle.control, self._read)

    async def fork(self, timeout: float) -> Session:
        """Return a new session, ready for its first cell."""
        async with self._gate:
            try:
                ours, theirs = socket.socketpair()
            except OSError as error:
                raise KernelError(f"A Python session could not be started: {error}.") from error
            self._count += 1
            session = Session(self._count, ours, self.handle.settings.max_output)
            self._sessions[session.number] = session
            try:
                self.handle.send({"fork": session.number, "transport": "pipe"}, [theirs.fileno()])
                for awaited in (session.attached, session.ready):
                    await asyncio.wait_for(asyncio.shield(awaited), timeout)
            except BaseException as error:
                session.close("it could not be started")
                if isinstance(error, KernelError):
                    del self._sessions[session.number]
                if isinstance(error, Died):
                    raise KernelError(f"A Python session could not be started: {error}.") from error
                if isinstance(error, TimeoutError):
                    raise KernelError(f"A Python session did not answer within {timeout:g} s.") from error
                raise
            finally:
                theirs.close()
        return session

    def describe(self, status: int, cpu: float, why: str) -> str:
        """Say how a session ended, from its exit status, its CPU seconds and what its connection showed."""
        settings, before = self.handle.settings, self._kills
        counted = bool(self.handle.groups)
        self._kills = out_of_memory_kills(self.handle.groups)
        self._unclaimed += self._kills - before
        if status == -signal.SIGKILL and cpu >= settings.cpu_seconds - 1:
            return f"it used up its {settings.cpu_seconds} seconds of CPU time"
        if status == -signal.SIGKILL and self._unclaimed > 0:
            self._unclaimed -= 1
            return "it was killed because memory ran out"
        if why not in (ENDED, "it closed its connection"):
            return why
        if status == -signal.SIGKILL and not counted:
            return "it was killed by SIGKILL, most likely because memory ran out"
        if status == UNUSABLE:
            return "the code broke what the session needs to answer"
        return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit code {status}"

    async def close(self) -> None:
        """End the fork server and with it every session."""
        self._lose()
        self.handle.hang_up()
        end = self._loop.time() + _CLOSE_SECONDS
        try:
            while self.handle.process.poll() is None:
                if self._loop.time() > end:
                    self.handle.process.kill()
                await asyncio.sleep(_POLL)
        finally:
            self.handle.clean()

    def _read(self) -> None:
        # One message a wake-up: other sockets get their turn.
        try:
            received = self.handle.receive()
        except BlockingIOError:
            return
        if received is None:
            self._lose()
            return
        message, fds = received
        if not self.opened.done():
            self.opened.set_result(self.handle.accept(message))
        elif "forked" in message:
            forked = self._sessions[message["forked"]]
            if fds:
                forked.attach(fds[0])
            else:
                forked.close("no file descriptor was left for it")
        elif "refused" in message:
            self._sessions.pop(message["refused"]).close(f"the system refused: {message['why']}")
        elif (session := self._sessions.pop(message["ended"], None)) is not None:
            session.ended.set_result((message["status"], message["cpu"]))
            session.finish()

    def _lose(self) -> None:
        if self.lost:
            return
        self.lost = True
        self._loop.remove_reader(self.handle.control)
        if not self.opened.done():
            self.opened.set_result("it ended while it started")
        for session in self._sessions.values():
            session.close("its fork server is gone")
            session.ended.set_exception(Died("the fork server is gone"))
            session.ended.exception()
        self._sessions.clear()
