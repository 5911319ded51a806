"""A pool over the nodes of a Ray cluster: one inner pool a node, sessions placed where there is room.

Ray's part is small: it knows the nodes, keeps one actor (``KernelHost``) on each, and carries calls. What isolates and
ends sessions is the inner pool. https://docs.ray.io/en/latest/ray-core/actors/async_api.html
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import inspect
import itertools
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from aster_env.errors import KernelError, MissingExtraError, UsageError, check_name
from aster_env.kernels import POOLS
from aster_env.kernels.base import Cell
from aster_env.kernels.raynode import Connection, Lost, Node, check_address

_REFRESH = 1.0
"""Seconds between two looks at the cluster while sessions are asked for."""
_TRIES = 3
"""Nodes that may be lost under one ``start``."""


class RayPool:
    """Sessions on the nodes of a Ray cluster, isolated by the pool that each node holds.

    A session starts on the node that has the fewest sessions for its CPUs; nodes without CPUs (a head kept free with
    ``--num-cpus=0``) get none. Nodes that join are used for the next sessions. A node that is lost, or whose host
    process dies, ends only its own sessions: their ``execute`` raises ``KernelError`` with the node's name. A node that
    falls silent without closing its connections is noticed when Ray's health check gives it up (about half a minute).

    The host processes are actors of the caller's Ray job, without restarts: ``close`` ends sessions, inner pools and
    actors. If the caller's process is killed (SIGKILL), Ray ends the actors within seconds and each inner pool's
    processes end as if their own manager had been killed: no process stays, scratch files may. Ray's traffic is not
    encrypted by default, and whoever reaches a node's ports with the cluster's token (or without one, under
    ``RAY_AUTH_MODE=disabled``) runs code outside of any sandbox: keep ports and ``~/.ray`` out of the sessions' reach.

    Args:
        address: ``"host:port"`` of a cluster, ``"auto"`` for the one that runs on this machine, or ``"local"`` for a
            new one of one node. None: ``RAY_ADDRESS``, else ``"local"``. Not used if the process is already connected
            (``ray.is_initialized()``); only a connection that the pool made is ended by ``close``.
        inner: the pool on each node; ``aster_env`` has to be installed there.
        max_kernels_per_node: sessions that live at once on a node; ``start`` waits while all nodes are full.
        inner_options: the arguments of the inner pool.
        start_timeout: seconds that a node's host, and then a session on it, may take to answer; also how long
            ``start`` waits while the cluster has no usable node at all, and how much later than its own time limit a
            cell may be answered.

    Raises:
        UsageError: an argument is not allowed; what only a node can tell (an inner option's value, a sandbox that is
            not available there) is raised by ``start``.
        MissingExtraError: ray is not installed.
    """

    def __init__(
        self,
        *,
        address: str | None = None,
        inner: str = "zygote",
        max_kernels_per_node: int = 1000,
        inner_options: Mapping[str, Any] | None = None,
        start_timeout: float = 120.0,
    ) -> None:
        self.inner_options = dict(inner_options or {})
        _check_inner(inner, self.inner_options)
        if address is not None:
            check_address(address)
        if max_kernels_per_node < 1:
            raise UsageError(f"max_kernels_per_node={max_kernels_per_node} is not allowed. Allowed: at least 1.")
        if not start_timeout > 0:
            raise UsageError(f"start_timeout={start_timeout} is not allowed. Allowed: seconds, above 0.")
        if importlib.util.find_spec("ray") is None:
            raise MissingExtraError("ray", "ray", "The kernel pool 'ray'")
        self.inner, self.max_kernels_per_node, self.start_timeout = inner, max_kernels_per_node, start_timeout
        self._connection = Connection(address)
        self._nodes: dict[str, Node] = {}
        self._numbers = itertools.count(1)
        self._queue = asyncio.Lock()
        self._room = asyncio.Event()
        self._seen = 0.0
        self._closed = False

    async def __aenter__(self) -> Self:
        await self._connection.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> RayKernel:
        """Return a fresh session; waits, in turn, for a place if every node is full.

        Raises:
            KernelError: no node could start it, or the pool is closed.
            UsageError: the inner pool refuses on its node.
        """
        for tried in range(1, _TRIES + 1):
            node = await self._place()
            number = next(self._numbers)
            try:
                await node.opened(self.start_timeout)
                await node.call("start", number, within=self.start_timeout)
                return RayKernel(self, node, number)
            except Lost:
                self._free(node)
                if tried == _TRIES or self._closed:
                    raise
            except BaseException:
                node.send("end", number)
                self._free(node)
                raise
        raise AssertionError("unreachable")

    async def close(self) -> None:
        """End every session, inner pool and actor; calling it twice is harmless."""
        if self._closed:
            return
        self._closed = True
        self._room.set()
        nodes, self._nodes = list(self._nodes.values()), {}
        try:
            await asyncio.gather(*(node.close() for node in nodes))
        finally:
            await self._connection.close()

    def _free(self, node: Node) -> None:
        """Give a session's place back."""
        node.live -= 1
        self._room.set()

    async def _place(self) -> Node:
        """Take a place on the node with the most room; the callers wait in line."""
        async with self._queue:
            deadline = time.monotonic() + self.start_timeout
            while True:
                if self._closed:
                    raise KernelError("The kernel pool is closed.")
                await self._look()
                self._room.clear()
                nodes = [node for node in self._nodes.values() if node.lost is None]
                if not nodes and time.monotonic() > deadline:
                    raise KernelError(f"The Ray cluster had no live node with CPUs for {self.start_timeout:g} s.")
                free = [node for node in nodes if node.live < self.max_kernels_per_node]
                if free and not self._closed:
                    node = min(free, key=lambda node: (node.live + 1) / node.cpus)
                    node.live += 1
                    return node
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._room.wait(), _REFRESH)

    async def _look(self) -> None:
        """Learn which nodes joined and which were lost, unless that is fresh."""
        lost = [name for name, node in self._nodes.items() if node.lost is not None]
        if not lost and time.monotonic() - self._seen < _REFRESH:
            return
        await self._connection.open()
        found = await self._connection.nodes()
        self._seen = time.monotonic()
        for name, node in list(self._nodes.items()):
            if name not in found:
                node.lose("Ray lists it as dead")
            if node.lost is not None:
                del self._nodes[name]
        for name, (address, cpus) in found.items():
            if name not in self._nodes and not self._closed:
                options = {"max_concurrency": 3 * self.max_kernels_per_node + 16}
                self._nodes[name] = Node(name, address, cpus, self.inner, self.inner_options, options)


class RayKernel:
    """One session of a ``RayPool``; see ``aster_env.kernels.base.Kernel``."""

    def __init__(self, pool: RayPool, node: Node, number: int) -> None:
        self._pool, self._node, self._number = pool, node, number
        self._turn = 0
        self._closed = False

    @property
    def node(self) -> str:
        """The id of the Ray node that holds the session."""
        return self._node.name

    async def execute(self, code: str, timeout: float = 30.0) -> Cell:
        """Run ``code`` as a notebook cell; see ``Kernel.execute``.

        A cancelled ``execute`` cancels the cell on its node, where the inner pool interrupts or replaces the session.

        Raises:
            KernelError: the session's node was lost, did not answer, or could not replace the session.
        """
        if self._closed:
            raise KernelError("The session is closed.")
        self._turn += 1
        within = timeout + self._pool.start_timeout
        try:
            cell: Cell = await self._node.call("execute", self._number, self._turn, code, timeout, within=within)
            return cell
        except asyncio.CancelledError:
            await asyncio.shield(self._quietly("abort", self._number, self._turn))
            raise

    async def close(self) -> None:
        """End the session; calling it twice is harmless."""
        if self._closed:
            return
        self._closed = True
        try:
            await asyncio.shield(self._quietly("end", self._number))
        finally:
            self._pool._free(self._node)

    async def _quietly(self, method: str, *args: Any) -> None:
        """Call; a node that is lost has nothing left to end."""
        with contextlib.suppress(KernelError):
            await self._node.call(method, *args, within=self._pool.start_timeout)


def _check_inner(inner: str, options: Mapping[str, Any]) -> None:
    """Check the names of the inner pool and its options before any node is asked."""
    module, _, attribute = POOLS[check_name("inner kernel pool", inner, set(POOLS) - {"ray"})].partition(":")
    allowed = inspect.signature(getattr(importlib.import_module(module), attribute)).parameters
    for option in options:
        check_name(f"option of the kernel pool {inner!r}", option, allowed)
