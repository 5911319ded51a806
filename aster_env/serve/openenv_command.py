"""`aster serve openenv`: an environment as a process that OpenEnv's clients speak to."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from aster_env.errors import MissingExtraError, UsageError
from aster_env.retrieval.server.command import listen
from aster_env.serve.guard import MAX_BODY

STOPPING = 10
"""Seconds that requests under way have after SIGTERM."""
BEGINNING = 15.0
"""Seconds that a connection may be without a whole request."""
STUCK = 60
"""Seconds that a connection may leave what was sent unacknowledged, or its window closed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `aster serve openenv`."""
    parser.add_argument("env_id", help="the environment, such as ASTER/PythonMath-v0")
    add_options(parser)
    parser.add_argument("--env-kwargs", default="{}", help="its arguments as JSON, such as '{\"max_tool_calls\": 8}'")
    parser.set_defaults(run=run)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that do not say what is served."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--max-sessions", type=int, default=256, help="sessions at once (default: %(default)s)")
    parser.add_argument("--per-client", type=int, help="sessions at once of one address (default: no bound)")
    parser.add_argument("--idle-seconds", type=float, default=1800.0, help="a silent session's life (default: 1800)")
    parser.add_argument(
        "--token-variable", metavar="NAME", help="environment variable with the token clients must send"
    )


def run(options: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT."""
    try:
        import uvicorn  # noqa: F401

        from aster_env.serve.openenv_app import Service
    except ImportError as error:
        raise MissingExtraError(error.name or "openenv", "openenv", "`aster serve openenv`") from error
    token = read_token(options.token_variable)
    with contextlib.closing(listen(options.host, options.port)) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STUCK * 1000)
        address = ipaddress.ip_address(listener.getsockname()[0])
        service = Service(
            options.env_id,
            read_arguments(options.env_kwargs),
            max_sessions=options.max_sessions,
            per_client=options.per_client,
            idle_seconds=options.idle_seconds,
            token=token,
            loopback=address.is_loopback,
        )
        if not address.is_loopback and token is None:
            sys.stderr.write("aster: whoever can reach this address can run code here. Fix: --token-variable NAME\n")
        return asyncio.run(_serve(service, listener, options.max_sessions))


def main(env_id: str, arguments: Sequence[str] | None = None) -> int:
    """Serve one environment with default arguments: what an environment's ``server/app.py`` runs."""
    parser = argparse.ArgumentParser(description=f"Serve {env_id} over OpenEnv.")
    add_options(parser)
    parser.set_defaults(env_id=env_id, env_kwargs="{}")
    return run(parser.parse_args(arguments))


def read_token(variable: str | None) -> str | None:
    """Return the token in an environment variable; None where no variable is named.

    Raises:
        UsageError: the variable holds none; the text does not hold it.
    """
    if variable is None:
        return None
    token = os.environ.get(variable, "").strip()
    if not token or not (token.isascii() and token.isprintable()) or " " in token:
        raise UsageError(f"The environment variable {variable} holds no token. Fix: set it to one word of ASCII.")
    return token


def read_arguments(text: str) -> dict[str, Any]:
    """Return an environment's arguments.

    Raises:
        UsageError: the text is not a JSON object.
    """
    try:
        arguments = json.loads(text)
    except ValueError as error:
        raise UsageError(f"--env-kwargs={text!r:.200} is not JSON: {error}.") from error
    if not isinstance(arguments, dict):
        raise UsageError(f"--env-kwargs={text!r:.200} is not allowed. Allowed: a JSON object.")
    return arguments


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


async def _serve(service: Any, listener: socket.socket, max_sessions: int) -> int:
    import uvicorn

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            # Its own raises SIGTERM again once all is closed: the process would end as if it had been killed.
            yield

        async def on_tick(self, counter: int) -> bool:
            for connection in waiting.overdue(self.server_state.connections, time.monotonic()):
                connection.transport.abort()
            return await super().on_tick(counter)

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if not self.should_exit:
                _announce(listener)

    config = uvicorn.Config(
        service,
        log_level="warning",
        access_log=False,
        lifespan="on",
        proxy_headers=False,  # else a client names the address that it is counted by
        limit_concurrency=2 * max_sessions + 64,
        timeout_graceful_shutdown=STOPPING,
        ws_max_size=MAX_BODY,
        ws_per_message_deflate=False,
    )
    server, waiting = Server(config), Waiting()

    def stop() -> None:
        server.force_exit = server.should_exit
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    await service.sessions.open()
    try:
        await server.serve(sockets=[listener])
    finally:
        await service.sessions.close()
    return 0


def _announce(listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    sys.stdout.write(f"Listening on http://{shown}:{port}\n")
    sys.stdout.flush()
