"""`aster serve openenv`: an environment as a process that OpenEnv's clients speak to."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
from collections.abc import Sequence
from typing import Any

from aster_env.errors import MissingExtraError, UsageError
from aster_env.listening import announce, check_reach, listen, read_token, serve
from aster_env.serve.guard import MAX_BODY

STOPPING = 10
"""Seconds that requests under way have after SIGTERM."""


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
        loopback = check_reach(listener, token)
        service = Service(
            options.env_id,
            read_arguments(options.env_kwargs),
            max_sessions=options.max_sessions,
            per_client=options.per_client,
            idle_seconds=options.idle_seconds,
            token=token,
            loopback=loopback,
        )
        asyncio.run(_serve(service, listener, options.max_sessions))
        return 0


def main(env_id: str, arguments: Sequence[str] | None = None) -> int:
    """Serve one environment with default arguments: what an environment's ``server/app.py`` runs."""
    parser = argparse.ArgumentParser(description=f"Serve {env_id} over OpenEnv.")
    add_options(parser)
    parser.set_defaults(env_id=env_id, env_kwargs="{}")
    return run(parser.parse_args(arguments))


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


async def _serve(service: Any, listener: socket.socket, max_sessions: int) -> None:
    # Before uvicorn, which would log what is wrong with the environment's arguments, and raise nothing.
    await service.sessions.open()
    try:
        await serve(
            service,
            listener,
            lambda: announce(listener),
            graceful=STOPPING,
            proxy_headers=False,  # else a client names the address that it is counted by
            limit_concurrency=2 * max_sessions + 64,
            ws_max_size=MAX_BODY,
            ws_per_message_deflate=False,
        )
    finally:
        await service.sessions.close()
