"""A service as a process: its address, its token, and an application served until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from aster_env.errors import UsageError

BEGINNING = 15.0
"""Seconds that a connection may be without a whole request."""
STUCK = 60
"""Seconds that a connection may leave what was sent unacknowledged, or its window closed."""


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        UsageError: the address is not this machine's, or the port is taken or not allowed.
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"--port={port} is not allowed. Fix: 1 to 65535, or 0 for a free one.")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise UsageError(
            f"--host={host!r} --port={port} cannot be listened on: {error}. Fix: --port 0 takes a free one."
        ) from error
    # Accepted connections inherit both. Event loops set the first only where a socket names its protocol, which this
    # one does not; without it, an answer's second packet waits 40 ms for the client's acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STUCK * 1000)
    return listener


def address(listener: socket.socket) -> str:
    """Return the URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def announce(listener: socket.socket, after: str = "") -> None:
    """Print the line that says where a service is; whoever started it waits for that."""
    sys.stdout.write(f"Listening on {address(listener)}{after}\n")
    sys.stdout.flush()


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine's alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_private(listener: socket.socket) -> bool:
    """Whether only this machine can reach a listening socket."""
    return is_loopback(listener.getsockname()[0])


def check_reach(listener: socket.socket, token: str | None) -> bool:
    """Return ``is_private`` for a service that runs code.

    Raises:
        UsageError: other machines can reach it, and it asks them for no token.
    """
    private = is_private(listener)
    if not private and token is None:
        raise UsageError(
            f"--host={listener.getsockname()[0]!r} lets other machines run code here, and asks for no token. "
            "Fix: --token-variable NAME, the name of an environment variable that holds one."
        )
    return private


def read_token(variable: str | None) -> str | None:
    """Return the token that an environment variable holds, or None where none is named.

    Raises:
        UsageError: the variable is not set, or what it holds cannot be sent as a token; the text does not hold it.
    """
    if variable is None:
        return None
    token = os.environ.get(variable, "").strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError(
            f"--token-variable={variable!r}: this environment variable holds no token. Fix: set it to a secret of "
            "printable ASCII characters without spaces."
        )
    return token


class Waiting:
    """Finds the connections that have been waiting for a request to begin, or to be whole, for too long.

    uvicorn has no such bound: half a header would hold a connection for ever.
    """

    def __init__(self) -> None:
        self._since: dict[tuple[Any, int], float] = {}

    def overdue(self, connections: Iterable[Any], now: float) -> list[Any]:
        """Return those of a server's connections that wait since ``BEGINNING`` seconds."""
        waiting = {}
        for connection in connections:
            cycle = getattr(connection, "cycle", connection)
            if cycle is None or getattr(cycle, "response_complete", False):
                waiting[connection, id(cycle)] = self._since.get((connection, id(cycle)), now)
        self._since = waiting
        return [connection for (connection, _), since in waiting.items() if now - since > BEGINNING]


async def serve(
    app: Any,
    listener: socket.socket,
    started: Callable[[], None],
    *,
    graceful: int,
    stopped: asyncio.Event | None = None,
    **options: Any,
) -> None:
    """Serve an ASGI application until SIGTERM or SIGINT; a second one does not wait for requests under way.

    Args:
        app: the application; its lifespan is opened and closed.
        listener: see ``listen``; it is closed.
        started: called once the application has started, unless that failed.
        graceful: seconds that requests under way have.
        stopped: ends the service like SIGTERM.
        **options: further ones of uvicorn's.
    """
    import uvicorn

    waiting = Waiting()

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            # Its own raises SIGTERM again once all is closed: the process would end as if it had been killed.
            yield

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if not self.should_exit:
                started()

        async def on_tick(self, counter: int) -> bool:
            for connection in waiting.overdue(self.server_state.connections, time.monotonic()):
                connection.transport.abort()
            return await super().on_tick(counter) or (stopped is not None and stopped.is_set())

    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="on", timeout_graceful_shutdown=graceful, **options
    )
    server = Server(config)

    def stop() -> None:
        server.force_exit = server.should_exit
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    await server.serve(sockets=[listener])
