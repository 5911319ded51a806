"""The host's end of one session: requests out, bounded messages in, and its death noticed at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import struct
from typing import Any

from aster_env.kernels.messages import Output, execute_content, parse_json

_encode = json.JSONEncoder(separators=(",", ":")).encode
_CHUNK = 1 << 18
ENDED = "its process ended"
"""How a session ended whose connection closed."""


class Died(Exception):
    """The session ended while something was awaited from it; ``str`` says how, if the host knows."""


class Session:
    """A connection to a session's process.

    The process runs foreign code, which can send whatever it likes: a message too long, too many bytes for one cell,
    or one that is no Jupyter message ends it.

    Args:
        number: tells it from the others of its fork server.
        connection: a connected stream socket; it is closed with the session.
        max_output: characters that a cell may print.
    """

    def __init__(self, number: int, connection: socket.socket, max_output: int) -> None:
        self.number, self._connection = number, connection
        self._loop = asyncio.get_running_loop()
        self._limit = max_output
        # A character takes up to 12 bytes of JSON; an error is sent twice.
        self._most = 48 * max_output + (1 << 20)
        self._longest = 13 * max_output + (1 << 16)
        self._received = 0
        self._buffer = bytearray()
        self._count = 0
        self._output: Output | None = None
        self._done: asyncio.Future[Output] | None = None
        self.attached: asyncio.Future[None] = self._loop.create_future()
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self.ended: asyncio.Future[tuple[int, float]] = self._loop.create_future()
        """Exit status and CPU seconds, as the fork server tells them."""
        self._pidfd = -1
        self.alive = True
        self.why = ""
        connection.setblocking(False)
        self._loop.add_reader(connection, self._read)

    async def run(self, code: str) -> Output:
        """Run a cell and return what it sent.

        Raises:
            Died: the session ended first.
        """
        if not self.alive:
            raise Died(self.why)
        self._count += 1
        request = {
            "channel": "shell",
            "header": {"msg_type": "execute_request", "msg_id": str(self._count)},
            "content": execute_content(code),
        }
        data = _encode(request).encode()
        self._received, self._output = 0, Output(4 * self._limit)
        self._done = self._loop.create_future()
        await self._send(struct.pack(">I", len(data)) + data)
        return await self._done

    def attach(self, pidfd: int) -> None:
        """Take over the descriptor of the session's process."""
        self._pidfd = pidfd
        if not self.alive:
            self.kill()
            self._pidfd = -1
            os.close(pidfd)
        elif not self.attached.done():
            self.attached.set_result(None)

    def interrupt(self) -> None:
        """Send SIGINT."""
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        """End the process; ``run`` then raises ``Died``."""
        self._signal(signal.SIGKILL)

    def close(self, why: str = "closed") -> None:
        """End the process and forget it; calling it twice is harmless."""
        if not self.alive:
            return
        self.alive, self.why = False, why
        self.kill()
        self._loop.remove_reader(self._connection)
        self._loop.remove_writer(self._connection)
        self._connection.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        for waiting in (self.attached, self.ready, self._done):
            if waiting is not None and not waiting.done():
                waiting.set_exception(Died(why))
                # Nobody may be waiting any more, after a cancellation.
                waiting.exception()

    async def _send(self, data: bytes) -> None:
        try:
            sent = self._connection.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close("it closed its connection")
            return
        if sent < len(data):
            sending = asyncio.ensure_future(self._loop.sock_sendall(self._connection, memoryview(data)[sent:]))
            assert self._done is not None
            both: set[asyncio.Future[Any]] = {sending, self._done}
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)

    def _signal(self, number: signal.Signals) -> None:
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def finish(self) -> None:
        """Take what the ended process had sent, and close: its connection may be held open by nobody in reach."""
        while self.alive and self._read():
            continue
        self.close(ENDED)

    def _read(self) -> bool:
        """Take what has arrived; False when nothing has."""
        try:
            data = self._connection.recv(_CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self.close(ENDED)
            return False
        self._received += len(data)
        if self._received > self._most:
            self.close(f"it sent more than {self._most} bytes for one cell")
            return False
        self._buffer += data
        try:
            self._take_messages()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self.close(f"it broke the kernel's protocol: {error}")
        return self.alive

    def _take_messages(self) -> None:
        buffer, start = self._buffer, 0
        while len(buffer) - start >= 4 and self.alive:
            size = int.from_bytes(buffer[start : start + 4], "big")
            if size > self._longest:
                raise ValueError(f"a message of {size} bytes")
            if len(buffer) - start < 4 + size:
                break
            message = parse_json(bytes(buffer[start + 4 : start + 4 + size]))
            start += 4 + size
            self._take(message["header"]["msg_type"], message)
        del buffer[:start]

    def _take(self, kind: str, message: dict[str, Any]) -> None:
        if not self.ready.done():
            self._take_first(kind, message["content"])
            return
        output, done = self._output, self._done
        mine = message["parent_header"]["msg_id"] == str(self._count)
        if mine and output is not None and done is not None and output.add(kind, message["content"]):
            self._output = None
            if not done.done():
                done.set_result(output)

    def _take_first(self, kind: str, content: dict[str, Any]) -> None:
        if kind == "aster_failed":
            self.close(f"its sandbox could not be laid: {content['why']}")
        else:
            self.ready.set_result(None)
