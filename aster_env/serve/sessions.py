"""The environments behind a service: made on demand, closed with their sessions, counted by client."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import contextvars
from collections.abc import Coroutine, Iterator, Mapping
from typing import Any, TypeVar

from aster_env.env import ToolEnv
from aster_env.errors import InfrastructureError, UsageError
from aster_env.making import make_envs
from aster_env.rewards.math import MathReward
from aster_env.tasks import TaskSet, share_tasks

T = TypeVar("T")


class Connection:
    """Who a request came from, and whether they are still there.

    Args:
        client: the address that limits are counted by.
    """

    def __init__(self, client: str) -> None:
        self.client = client
        self.gone = asyncio.Event()


CONNECTION: contextvars.ContextVar[Connection | None] = contextvars.ContextVar("connection", default=None)
"""The connection whose request is being answered; set by whatever accepts connections."""


class ClientGoneError(InfrastructureError):
    """The client left while its request was answered."""


class ClientLimitError(UsageError):
    """A client has as many sessions as it may have."""


class Sessions:
    """Makes the environments of a service, and sees to it that none outlives it.

    They share their tasks and what their tools run on (the kernel pool, the retriever), which stays open in between.

    Args:
        env_id: the environment.
        env_kwargs: passed to ``gymnasium.make``.
        per_client: sessions that one client may have; None sets no bound.

    Raises:
        UsageError: an argument is not allowed.
    """

    def __init__(self, env_id: str, env_kwargs: Mapping[str, Any] | None = None, per_client: int | None = None) -> None:
        if per_client is not None and per_client < 1:
            raise UsageError(f"per_client={per_client} is not allowed. Allowed: at least 1, or None.")
        for name in ("view", "render_mode"):
            if name in (env_kwargs or {}):
                raise UsageError(f"{name!r} is not for a service, which takes text and ids. Fix: leave it out.")
        self.env_id = env_id
        self._kwargs, self._per_client = dict(env_kwargs or {}), per_client
        self._loop: asyncio.AbstractEventLoop | None = None
        self._first: ToolEnv | None = None
        self._taken: set[ToolEnv] = set()
        self._warming: asyncio.Task[Any] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._held: collections.Counter[str] = collections.Counter()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that the environments live on."""
        if self._loop is None:
            raise UsageError("The service is not open. Fix: await open() first.")
        return self._loop

    @property
    def tasks(self) -> TaskSet:
        """What can be asked."""
        if self._first is None:
            raise UsageError("The service is not open. Fix: await open() first.")
        return self._first.tasks

    @property
    def open_environments(self) -> int:
        """How many are in use, or still being closed."""
        return len(self._taken) + len(self._closing)

    async def open(self) -> None:
        """Load the tasks and open what the environments share; calling it twice is harmless.

        Raises:
            UsageError: the environment cannot be made from these arguments.
        """
        if self._first is not None:
            return
        self._loop = asyncio.get_running_loop()
        (first,) = await asyncio.to_thread(make_envs, self.env_id, 1, self._kwargs)
        try:
            await first.acheck_tasks(())
        except BaseException:
            await first.aclose()
            raise
        self._kwargs, self._first = share_tasks(self._kwargs, first.tasks), first
        if isinstance(first.reward, MathReward):
            # Else its judges would take seconds to start with the first answer, and end in every lull.
            self._warming = asyncio.create_task(first.reward.grade(["1"], "x + 1"))

    async def take(self) -> ToolEnv:
        """Return a new environment; give it back with ``give_back``."""
        if self._first is None:
            raise UsageError("The service is not open. Fix: await open() first.")
        (env,) = await asyncio.to_thread(make_envs, self.env_id, 1, self._kwargs)
        self._taken.add(env)
        return env

    def give_back(self, env: ToolEnv) -> None:
        """Close an environment in the background; safe from any thread, and harmless twice."""
        with contextlib.suppress(RuntimeError):  # the loop has ended, and all with it
            self.loop.call_soon_threadsafe(self._begin_closing, env)

    @contextlib.contextmanager
    def charge(self) -> Iterator[None]:
        """Count a session for the client of the running request.

        Raises:
            ClientLimitError: it has as many as it may have.
        """
        connection = CONNECTION.get()
        if connection is None or self._per_client is None:
            yield
            return
        client = connection.client
        if self._held[client] >= self._per_client:
            raise ClientLimitError(
                f"This client has {self._held[client]} sessions. Allowed: {self._per_client}. Fix: close one."
            )
        self._held[client] += 1
        try:
            yield
        finally:
            self._held[client] -= 1
            if not self._held[client]:
                del self._held[client]

    async def close(self) -> None:
        """Close every environment and what they share; calling it twice is harmless."""
        for env in list(self._taken):
            self._begin_closing(env)
        while self._closing:
            await asyncio.gather(*self._closing, return_exceptions=True)
        first, self._first = self._first, None
        if self._warming is not None:
            self._warming.cancel()
            await asyncio.gather(self._warming, return_exceptions=True)
        if first is not None:
            await first.aclose()

    def _begin_closing(self, env: ToolEnv) -> None:
        if env in self._taken:
            self._taken.remove(env)
            task = self.loop.create_task(_close(env))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


async def while_present(work: Coroutine[Any, Any, T]) -> T:
    """Return the result of ``work``, which is cancelled if the client of the running request leaves.

    Raises:
        ClientGoneError: it left.
    """
    connection = CONNECTION.get()
    if connection is None:
        return await work
    doing = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(connection.gone.wait())
    try:
        await asyncio.wait({doing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        raise ClientGoneError("The client left before its answer.")
    finally:
        leaving.cancel()
        if not doing.done():
            doing.cancel()
            await asyncio.gather(doing, return_exceptions=True)


async def _close(env: ToolEnv) -> None:
    # Its tools' servers may be what failed; what they ran has ended with them.
    with contextlib.suppress(InfrastructureError):
        await env.aclose()
