"""The application: OpenEnv's own, over sessions of this gym, behind a guard."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, MutableMapping
from typing import Any

from openenv.core.env_server.http_server import create_app
from openenv.core.env_server.types import ConcurrencyConfig
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from aster_env.errors import InfrastructureError, UsageError
from aster_env.listening import read_token
from aster_env.serve.guard import Guard, Message, Receive, Send
from aster_env.serve.openenv_environment import AsterEnvironment
from aster_env.serve.openenv_models import AsterAction, AsterObservation, AsterState
from aster_env.serve.sessions import Sessions

TOKEN = "ASTER_TOKEN"
"""The environment variable with the token of a folder's service."""


class Service:
    """An ASGI application that serves one environment over OpenEnv; it opens and closes with its server.

    Args:
        env_id: the environment.
        env_kwargs: passed to ``gymnasium.make``.
        max_sessions: sessions at once; a further client is told ``CAPACITY_REACHED``.
        per_client: sessions at once that one address may have; None sets no bound.
        idle_seconds: how long a session without a message is kept.
        token: what clients must know; None asks for nothing.
        loopback: whether the service listens on this machine alone.

    Raises:
        UsageError: an argument is not allowed.
    """

    def __init__(
        self,
        env_id: str,
        env_kwargs: Mapping[str, Any] | None = None,
        *,
        max_sessions: int = 256,
        per_client: int | None = None,
        idle_seconds: float = 1800.0,
        token: str | None = None,
        loopback: bool = False,
    ) -> None:
        if max_sessions < 1 or not 0 < idle_seconds < 1e9:
            raise UsageError(
                f"max_sessions={max_sessions}, idle_seconds={idle_seconds} are not allowed. Allowed: at least 1 "
                "session, and seconds above 0."
            )
        self.sessions = Sessions(env_id, env_kwargs, per_client)
        app = create_app(
            functools.partial(AsterEnvironment, self.sessions),
            AsterAction,
            AsterObservation,
            env_name=env_id.rpartition("/")[2],
            concurrency_config=ConcurrencyConfig(max_concurrent_envs=max_sessions, session_timeout=idle_seconds),
            state_cls=AsterState,
        )
        app.add_exception_handler(UsageError, _usage)
        app.add_exception_handler(InfrastructureError, _failure)
        self._guarded = Guard(app, token=token, idle=idle_seconds, loopback=loopback)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request, or a server that starts or stops."""
        await self._guarded(scope, receive, self._lifespan(send) if scope["type"] == "lifespan" else send)

    def _lifespan(self, send: Send) -> Send:
        async def told(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                await self.sessions.open()
            elif message["type"] == "lifespan.shutdown.complete":
                await self.sessions.close()
            await send(message)

        return told


def folder_app(env_id: str) -> Service:
    """Return the application of an environment's folder, for a server that takes one (``uvicorn server.app:app``).

    Clients must know the token in the environment variable ``ASTER_TOKEN``; without one it answers this machine
    alone, whatever address the server listens on.

    Raises:
        UsageError: what the variable holds is no token.
    """
    token = read_token(TOKEN) if os.environ.get(TOKEN) else None
    return Service(env_id, token=token, loopback=token is None)


async def _usage(_: Request, error: Exception) -> Response:
    return JSONResponse({"detail": str(error)}, 422)


async def _failure(_: Request, error: Exception) -> Response:
    return JSONResponse({"detail": str(error)}, 503)
