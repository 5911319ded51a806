"""The Model Context Protocol over streamable HTTP: who may call, how many, for how long."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any

import uvicorn
from mcp.server.lowlevel import Server
from mcp.server.transport_security import TransportSecuritySettings
from mcp_types import UNSUPPORTED_PROTOCOL_VERSION
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

STOPPING = 2
"""Seconds that requests under way have after SIGTERM."""


class Guard:
    """Refuses what the application behind it must not see.

    - A request without the token, where there is one: 401.
    - ``GET``, the stream of a server's own messages, of which there are none: 405. A session is then idle when it has
      no call, even if its client stays.
    - Versions of the protocol from 2026-07-28 on, which know no sessions over HTTP: without one there is no kernel
      that keeps its state. The error names the versions that have them, to which clients fall back.

    Args:
        app: the application.
        token: what ``Authorization: Bearer …`` must hold; None asks for nothing.
    """

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app, self._expected = app, None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the application's lifespan."""
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        given = headers.get("authorization", "").encode("latin-1")
        if self._expected is not None and not hmac.compare_digest(given, self._expected):
            return JSONResponse({"detail": "A token is needed."}, 401, {"www-authenticate": "Bearer"})
        if scope["method"] == "GET":
            return JSONResponse({"detail": "This server sends no messages of its own."}, 405, {"allow": "POST, DELETE"})
        version = headers.get("mcp-protocol-version")
        if version is None or version in HANDSHAKE_PROTOCOL_VERSIONS:
            return None
        error = {
            "code": UNSUPPORTED_PROTOCOL_VERSION,
            "message": "Over HTTP this server needs sessions, which this version of the protocol does not have.",
            "data": {"supported": list(HANDSHAKE_PROTOCOL_VERSIONS), "requested": version},
        }
        return JSONResponse({"jsonrpc": "2.0", "id": None, "error": error}, 400)


def application(server: Server[Any], loopback: bool, token: str | None, max_sessions: int, idle: float) -> ASGIApp:
    """Return the application, at ``/mcp``.

    Args:
        server: see ``ToolServer.server``; opened and closed with the application.
        loopback: whether it listens on this machine alone. Then a web page that a browser here has open must not
            reach it by a name of its own (DNS rebinding): ``Host`` and ``Origin`` must be loopback's.
        token: see ``Guard``; what is not loopback must have one, which no web page has.
        max_sessions: at once; one more is refused with 503.
        idle: seconds without a call after which a session ends, and its kernel with it.
    """
    names = ["127.0.0.1", "localhost", "[::1]"]
    security = TransportSecuritySettings(
        enable_dns_rebinding_protection=loopback,
        allowed_hosts=[f"{name}{port}" for name in names for port in ("", ":*")],
        allowed_origins=[f"http://{name}{port}" for name in names for port in ("", ":*")],
    )
    app = server.streamable_http_app(
        transport_security=security, max_sessions=max_sessions, session_idle_timeout=idle, streamable_http_path="/mcp"
    )
    return Guard(app, token)


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine can reach a listening socket."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


async def serve(app: ASGIApp, listener: socket.socket) -> int:
    """Serve until SIGTERM or SIGINT; a second one does not wait for requests under way."""

    class Quiet(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            # Its own raises SIGTERM again once all is closed: the process would end as if it had been killed.
            yield

    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=STOPPING, lifespan="on"
    )
    server = Quiet(config)

    def stop() -> None:
        server.force_exit = server.should_exit
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    host, port = listener.getsockname()[:2]
    sys.stdout.write(f"Listening on http://{f'[{host}]' if ':' in host else host}:{port}/mcp\n")
    sys.stdout.flush()
    await server.serve(sockets=[listener])
    return 0
