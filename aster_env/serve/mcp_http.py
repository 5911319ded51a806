"""The Model Context Protocol over streamable HTTP: who may call, how many, for how long."""

from __future__ import annotations

from typing import Any

from mcp.server.lowlevel import Server
from mcp.server.transport_security import TransportSecuritySettings
from mcp_types import UNSUPPORTED_PROTOCOL_VERSION
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from aster_env.serve.guard import Guard

STOPPING = 2
"""Seconds that requests under way have after SIGTERM."""


class Sessions:
    """Refuses what knows no session that a kernel could belong to.

    - ``GET``, the stream of a server's own messages, of which there are none: 405. A session is then idle when it has
      no call, even if its client stays.
    - Versions of the protocol from 2026-07-28 on, which know no sessions over HTTP: without one there is no kernel
      that keeps its state. The error names the versions that have them, to which clients fall back.

    Args:
        app: the application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the application's lifespan."""
        refusal = _refusal(scope) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)


def application(server: Server[Any], loopback: bool, token: str | None, max_sessions: int, idle: float) -> ASGIApp:
    """Return the application, at ``/mcp``, behind a ``Guard``.

    Args:
        server: see ``ToolServer.server``; opened and closed with the application.
        loopback: whether it listens on this machine alone.
        token: what clients must know; what is not loopback must have one, which no web page has.
        max_sessions: at once; one more is refused with 503.
        idle: seconds without a call after which a session ends, and its kernel with it.
    """
    app = server.streamable_http_app(
        # The guard's are stricter.
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        max_sessions=max_sessions,
        session_idle_timeout=idle,
        streamable_http_path="/mcp",
    )
    return Guard(Sessions(app), token=token, loopback=loopback)


def _refusal(scope: Scope) -> Response | None:
    if scope["method"] == "GET":
        return JSONResponse({"detail": "This server sends no messages of its own."}, 405, {"allow": "POST, DELETE"})
    version = Headers(scope=scope).get("mcp-protocol-version")
    if version is None or version in HANDSHAKE_PROTOCOL_VERSIONS:
        return None
    error = {
        "code": UNSUPPORTED_PROTOCOL_VERSION,
        "message": "Over HTTP this server needs sessions, which this version of the protocol does not have.",
        "data": {"supported": list(HANDSHAKE_PROTOCOL_VERSIONS), "requested": version},
    }
    return JSONResponse({"jsonrpc": "2.0", "id": None, "error": error}, 400)
