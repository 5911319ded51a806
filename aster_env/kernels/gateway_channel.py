"""The websocket to one kernel of a Jupyter gateway (``/api/kernels/ID/channels``, JSON messages)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import WebSocketClientConnection, WebSocketClosedError, WebSocketError, websocket_connect

from aster_env.errors import KernelError
from aster_env.kernels.http import Answer, Service
from aster_env.kernels.messages import Output, execute_content, parse_json

Reason = Literal["restarted", "closed", "too long"]
_TOO_BIG = 1009
"""The close code for a message beyond the bound (RFC 6455, 7.4.1)."""


class Ended(Exception):
    """The channel ended while something was awaited from it.

    Args:
        reason: ``"restarted"``: the gateway says that the kernel's process ended; ``"closed"``: the connection did;
            ``"too long"``: this side closed it, because of a message beyond the bound.
    """

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the protocol; ``session`` names the process that sent it."""

    kind: str
    channel: str
    parent: str
    session: str
    content: Mapping[str, Any]


def parse_message(data: str | bytes) -> Message | None:
    """Return the message in ``data``, or None if it is not of the protocol's form: the sender may be hostile."""
    if isinstance(data, bytes):
        return None  # Binary frames carry buffers of widgets, and no cell awaits them.
    try:
        raw = parse_json(data)
    except ValueError:
        return None
    if not isinstance(raw, dict):
        return None
    header, parent, content = raw.get("header"), raw.get("parent_header"), raw.get("content")
    if not (isinstance(header, dict) and isinstance(parent, dict) and isinstance(content, dict)):
        return None
    texts = [header.get("msg_type"), raw.get("channel"), parent.get("msg_id", ""), header.get("session", "")]
    kind, channel, origin, session = (text if isinstance(text, str) else None for text in texts)
    if kind is None or channel is None or origin is None or session is None:
        return None
    return Message(kind, channel, origin, session, content)


@dataclass(slots=True)
class Run:
    """One execution as far as it got.

    Args:
        output: what the cell sent.
        flooded: set once the cell sent more than may be kept, or more than the gateway passes on.
        heard: whether the kernel answered anything.
    """

    output: Output
    flooded: asyncio.Event = field(default_factory=asyncio.Event)
    heard: bool = False
    reply: Mapping[str, Any] | None = None
    idle: bool = False


class Channel:
    """An open websocket; it is read all the time, so that pings are answered and a death is noticed at once.

    Attributes:
        identity: what the kernel's process calls itself; a restarted one has another.
        ended: why the channel ended, or None while it is open.
    """

    def __init__(self, connection: WebSocketClientConnection) -> None:
        self.identity = ""
        self.ended: Reason | None = None
        self._connection = connection
        self._too_long = False
        self._session = uuid.uuid4().hex
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._hear: Callable[[Message], None] | None = None
        self._notice_long_messages()
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, service: Service, kernel_id: str, *, limit: int, timeout: float) -> Channel:
        """Connect to a kernel and wait until it answers.

        Args:
            service: the gateway.
            kernel_id: the kernel's id there.
            limit: bytes that one message may have.
            timeout: seconds for all of it.

        Raises:
            KernelError: it could not be reached, or did not answer.
        """
        started = time.perf_counter()
        request = HTTPRequest(
            f"ws{service.url.removeprefix('http')}/api/kernels/{kernel_id}/channels",
            headers=service.headers,
            connect_timeout=timeout,
            request_timeout=timeout,
        )
        try:
            connection = await websocket_connect(request, ping_interval=30, max_message_size=limit)
        except HTTPClientError as error:
            raise service.refused(Answer(error.code, b""), "open a channel to a kernel") from error
        except (OSError, WebSocketError) as error:
            raise service.unreachable(error) from error
        channel = cls(connection)
        try:
            await asyncio.wait_for(channel._greet(), max(0.1, timeout - (time.perf_counter() - started)))
        except BaseException as error:
            await channel.close()
            if isinstance(error, TimeoutError | Ended):
                raise KernelError(
                    f"A kernel of the {service.name} at {service.url} did not answer within {timeout:g} s."
                ) from error
            raise
        return channel

    async def run(self, code: str, run: Run) -> None:
        """Execute ``code``, filling ``run``; raises ``Ended`` if the channel ends first."""

        def hear(message: Message) -> bool:
            run.heard = True
            if message.channel == "iopub":
                run.idle = run.output.add(message.kind, message.content) or run.idle
                if run.output.truncated or self._is_complaint(message):
                    run.flooded.set()
            elif message.kind == "execute_reply":
                run.reply = message.content
            return run.idle and run.reply is not None

        await self._ask("execute_request", execute_content(code), hear)
        if run.output.ok and run.reply is not None and run.reply.get("status") == "error":
            run.output.add("error", run.reply)  # The gateway drops messages of a cell that sends many.

    async def wake(self) -> None:
        """Send a request whose answer nobody awaits: ipykernel sees an interrupt of a cell that awaits only then."""
        await self._send(uuid.uuid4().hex, "kernel_info_request", {})

    async def close(self) -> None:
        """Close the connection; calling it twice is harmless."""
        self._connection.close()
        done, _ = await asyncio.wait({self._reader}, timeout=1.0)
        if not done:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader

    async def _greet(self) -> None:
        """Wait until the kernel answers on both ways a cell needs, and learn who it is."""
        seen = {"shell": False, "iopub": False}

        def hear(message: Message) -> bool:
            if message.kind == "kernel_info_reply":
                seen["shell"], self.identity = True, message.session
            elif message.kind == "status" and message.content.get("execution_state") == "idle":
                seen["iopub"] = True
            return all(seen.values())

        await self._ask("kernel_info_request", {}, hear)

    async def _ask(self, kind: str, content: Mapping[str, Any], hear: Callable[[Message], bool]) -> None:
        """Send a request and hand what answers it to ``hear`` until that returns True."""
        message_id = uuid.uuid4().hex
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def listen(message: Message) -> None:
            if message.parent == message_id and hear(message) and not done.done():
                done.set_result(None)

        self._hear = listen
        try:
            await self._send(message_id, kind, content)
            await asyncio.wait({done, self._end}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._hear = None
        if not done.done():
            raise Ended(self.ended or "closed")

    async def _send(self, message_id: str, kind: str, content: Mapping[str, Any]) -> None:
        header = {"msg_id": message_id, "msg_type": kind, "session": self._session, "username": "", "version": "5.4"}
        request = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
        if self.ended is None:
            with contextlib.suppress(WebSocketClosedError):  # `ended` says so.
                await self._connection.write_message(json.dumps(request))

    async def _read(self) -> None:
        while (data := await self._connection.read_message()) is not None:
            message = parse_message(data)
            if message is None:
                continue
            if message.kind == "status" and message.content.get("execution_state") in ("restarting", "dead"):
                self._finish("restarted")
            elif self._hear is not None:
                # Content nested almost too deep to parse can be too deep to print; it is ignored likewise.
                with contextlib.suppress(RecursionError):
                    self._hear(message)
        self._finish("too long" if self._too_long else "closed")

    def _finish(self, reason: Reason) -> None:
        if self.ended is None:
            self.ended = reason
            self._end.set_result(None)

    def _is_complaint(self, message: Message) -> bool:
        """Whether the gateway, not the kernel, says that it dropped output (its ``iopub_data_rate_limit``)."""
        text = message.content.get("text")
        ours = message.kind == "stream" and message.session != self.identity and isinstance(text, str)
        return ours and str(text).startswith("IOPub ") and "rate exceeded" in str(text)[:40]

    def _notice_long_messages(self) -> None:
        """Make this side's close for a long message known: tornado tells it to the peer alone."""
        protocol = self._connection.protocol
        if protocol is None:
            return
        close = protocol.close

        def noting(code: int | None = None, reason: str | None = None) -> None:
            self._too_long = self._too_long or code == _TOO_BIG
            close(code, reason)

        vars(protocol)["close"] = noting
