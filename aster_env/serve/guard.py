"""What stands before a service: who may ask, how much, and for how long."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from aster_env.listening import is_loopback
from aster_env.serve.sessions import CONNECTION, Connection

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

MAX_BODY = 2 << 20
"""Bytes of a frame or a body: 90,000 token ids take 0.6 MB."""
READING = 10.0
"""Seconds that a client has to send a body."""
SENDING = 30.0
"""Seconds that a client has to take an answer."""
AHEAD = 8
"""Frames that a client may send before the first is answered."""


class Guard:
    """An ASGI application around another one.

    - With a token, everything but ``/health`` needs ``Authorization: Bearer …`` (else 401).
    - A page of another origin may ask nothing, nor, of a service on loopback, may one that reached it by another name,
      nor another machine (else 403): a browser on the same machine is no way in.
    - A frame or body is bounded; one that does not arrive, or an answer that is not taken, ends the connection.
    - A WebSocket without a message for ``idle`` seconds is closed (1001), and one that sends many without waiting for
      answers (1008).
    - Whoever answers learns at once that a client has left: see ``aster_env.serve.sessions.while_present``.

    Args:
        app: the application.
        token: what clients must know; None asks for nothing.
        idle: seconds that a WebSocket may be silent.
        loopback: whether the service is for this machine alone.
    """

    def __init__(self, app: App, *, token: str | None = None, idle: float = 1800.0, loopback: bool = False) -> None:
        self._app, self._idle, self._loopback = app, idle, loopback
        self._token = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        refused = self._refusal(scope)
        if refused is not None:
            await _refuse(scope, receive, send, *refused)
            return
        connection = Connection(str((scope.get("client") or ("",))[0]))
        context = CONNECTION.set(connection)
        try:
            answer = self._websocket if scope["type"] == "websocket" else self._request
            await answer(scope, receive, send, connection)
        finally:
            CONNECTION.reset(context)

    def _refusal(self, scope: MutableMapping[str, Any]) -> tuple[int, str] | None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        client = (scope.get("client") or ("localhost",))[0]
        if self._loopback and not (is_loopback(client) and is_loopback(_name(host))):
            return 403, "The service is this machine's alone, and the client or the Host header is another's."
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1").partition("://")[2] != host:
            return 403, "Pages of another origin may not use this service."
        if self._token is not None and scope["path"] != "/health":
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, self._token):
                return 401, "The token is missing or wrong. Fix: send the header Authorization: Bearer <token>."
        return None

    async def _request(self, scope: Any, receive: Receive, send: Send, connection: Connection) -> None:
        try:
            async with asyncio.timeout(READING):
                body = await _read(scope, receive)
        except TimeoutError:
            await _refuse(scope, receive, send, 408, f"The body did not arrive within {READING:.0f} s.")
            return
        if body is None:
            await _refuse(scope, receive, send, 413, f"The body is longer than {MAX_BODY} bytes.")
            return
        watching: asyncio.Task[None] | None = None
        replayed = False

        async def replay() -> Message:
            nonlocal replayed
            if replayed:
                await connection.gone.wait()
                return {"type": "http.disconnect"}
            replayed = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            connection.gone.set()

        watching = asyncio.create_task(watch())
        try:
            await self._app(scope, replay, _bounded(send))
        finally:
            watching.cancel()

    async def _websocket(self, scope: Any, receive: Receive, send: Send, connection: Connection) -> None:
        frames: asyncio.Queue[Message] = asyncio.Queue()
        ended = False

        async def read() -> None:
            # Ahead of the application: else nobody would see a client leave while a step runs.
            while True:
                message = await receive()
                if message["type"] == "websocket.disconnect" or frames.qsize() > AHEAD:
                    connection.gone.set()
                    while not frames.empty():
                        frames.get_nowait()
                    if message["type"] != "websocket.disconnect":
                        await close(1008, "too many messages before an answer")
                    frames.put_nowait({"type": "websocket.disconnect", "code": message.get("code", 1008)})
                    return
                frames.put_nowait(message)

        async def close(code: int, reason: str) -> None:
            nonlocal ended
            ended = True
            with contextlib.suppress(Exception):  # whatever it is, the connection is not there to be closed
                await bounded({"type": "websocket.close", "code": code, "reason": reason})

        async def next_frame() -> Message:
            try:
                async with asyncio.timeout(self._idle):
                    return await frames.get()
            except TimeoutError:
                connection.gone.set()
                await close(1001, f"idle for {self._idle:g} s")
                return {"type": "websocket.disconnect", "code": 1001}

        bounded = _bounded(send)

        async def answer(message: Message) -> None:
            if ended:
                raise OSError("The connection is closed.")
            await bounded(message)

        reading = asyncio.create_task(read())
        try:
            await self._app(scope, next_frame, answer)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


def _name(host: str) -> str:
    """Return a Host header without its port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def _bounded(send: Send) -> Send:
    async def answer(message: Message) -> None:
        try:
            async with asyncio.timeout(SENDING):
                await send(message)
        except TimeoutError as error:
            # What an ASGI server raises for a client that has left.
            raise OSError(f"The client did not take its answer within {SENDING:.0f} s.") from error

    return answer


async def _read(scope: Any, receive: Receive) -> bytes | None:
    """Return a request's body; None if it is too long.

    Some of what is too long is taken nevertheless: a client that is refused while it sends may not see why.
    """
    declared = dict(scope["headers"]).get(b"content-length", b"0")
    body, size = bytearray(), 0
    too_long = declared.isdigit() and int(declared[:20]) > MAX_BODY
    while True:
        message = await receive()
        part = message.get("body", b"")
        size += len(part)
        too_long = too_long or size > MAX_BODY
        if not too_long:
            body += part
        if message["type"] == "http.disconnect" or not message.get("more_body") or size > 8 * MAX_BODY:
            return None if too_long else bytes(body)


async def _refuse(scope: Any, receive: Receive, send: Send, status: int, text: str) -> None:
    """Answer with an error, before a WebSocket is accepted or a body is read."""
    kind = "http.response"
    if scope["type"] == "websocket":
        await receive()
        kind = "websocket.http.response"
        if kind not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008, "reason": text})
            return
    body = json.dumps({"detail": text}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers.append((b"connection", b"close"))
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": f"{kind}.start", "status": status, "headers": headers})
    await send({"type": f"{kind}.body", "body": body})
    if scope["type"] == "websocket":
        # uvicorn logs an error for a refusal whose connection is still there when the application returns: it tells
        # of the refusal's end first, then of the connection's.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await receive()
                await receive()
