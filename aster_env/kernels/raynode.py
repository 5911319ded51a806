"""The caller's side of a Ray cluster: the connection, and one object for each node that holds sessions."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from aster_env.errors import KernelError, MissingExtraError, UsageError
from aster_env.kernels.rayhost import ERRORS, KernelHost, Reply

T = TypeVar("T")
_SILENCE = 15.0
"""Seconds in which a host that is late has to answer a ping before it counts as lost."""
_REACH = 10.0
"""Seconds in which a cluster's address has to accept a connection."""
_STORE = 80 * 1024 * 1024
"""Bytes of shared memory for a cluster that the pool starts: Ray asks for 75 MiB at least; cells are small."""
_lock = threading.Lock()
_users = 0


class Lost(KernelError):
    """The node, or the process on it that holds the sessions, is gone, and its sessions with it."""


class Connection:
    """The process's connection to Ray, made when there is none and ended when its last user of this kind leaves.

    Args:
        address: see ``RayPool``.
    """

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._mine: bool | None = None

    async def open(self) -> None:
        """Connect; again and again is harmless.

        Raises:
            KernelError: there is no cluster at the address, or the connection was ended elsewhere.
            UsageError: ``RAY_ADDRESS`` is not an address that can be used.
        """
        if self._mine is None:
            await in_thread(self._open)
        elif not import_ray().is_initialized():
            raise KernelError("The connection to Ray was ended (ray.shutdown) while a kernel pool used it.")

    async def nodes(self) -> dict[str, tuple[str, float]]:
        """Return the address and the CPUs of each live node that has CPUs, by the node's id."""
        listed = await in_thread(import_ray().nodes)
        found = (
            (node["NodeID"], node["NodeManagerAddress"], node["Resources"].get("CPU", 0.0))
            for node in listed
            if node["Alive"]
        )
        return {name: (address, cpus) for name, address, cpus in found if cpus > 0}

    async def close(self) -> None:
        """Disconnect if the connection was made here and nobody else uses it."""
        if self._mine:
            await in_thread(self._close)
        self._mine = False

    def _open(self) -> None:
        global _users
        ray = import_ray()
        with _lock:
            if self._mine is None and ray.is_initialized():
                self._mine = _users > 0
            elif self._mine is None:
                self._connect(ray)
                self._mine = True
            _users += bool(self._mine)

    def _connect(self, ray: Any) -> None:
        address = check_address(self._address or os.environ.get("RAY_ADDRESS") or "local")
        local = {"include_dashboard": False, "object_store_memory": _STORE} if address == "local" else {}
        host, _, port = address.rpartition(":")
        try:
            if port.isdigit():
                # Ray itself tries for minutes where nothing listens.
                socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH).close()
            ray.init(address=address, namespace="aster", log_to_driver=False, logging_level=logging.ERROR, **local)
        except SystemExit as error:
            raise KernelError(f"Ray gave up connecting to the cluster at {address!r}.") from error
        except (RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
            raise KernelError(f"No connection to the Ray cluster at {address!r}: {error}") from error

    def _close(self) -> None:
        global _users
        with _lock:
            _users -= 1
            if _users == 0:
                import_ray().shutdown()


class Node:
    """One node: its host actor, and the sessions placed on it.

    Args:
        name: Ray's id of the node.
        address: its network address, for messages.
        cpus: the CPUs that Ray counts there.
        inner: the name of the inner pool.
        inner_options: its arguments.
        actor_options: further options of the actor.
    """

    def __init__(
        self,
        name: str,
        address: str,
        cpus: float,
        inner: str,
        inner_options: Mapping[str, Any],
        actor_options: Mapping[str, Any],
    ) -> None:
        self.name, self.address, self.cpus = name, address, cpus
        self.live = 0
        self.lost: str | None = None
        self._gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._opening: asyncio.Task[Any] | None = None
        self._actor: Any = None
        self._settings = inner, inner_options, actor_options

    async def opened(self, within: float) -> None:
        """Wait until the node's inner pool is open; the first caller opens it.

        Raises:
            KernelError, UsageError: it cannot be opened; ``Lost`` if the node is gone.
        """
        if self._opening is None:
            self._actor = _create(self.name, *self._settings)
            self._opening = asyncio.ensure_future(self.call("open", within=within))
            self._opening.add_done_callback(self._forget_failure)
        await asyncio.shield(self._opening)

    async def call(self, method: str, *args: Any, within: float) -> Any:
        """Call the host and return its value.

        Args:
            method: a method of ``KernelHost``.
            *args: its arguments.
            within: seconds it may take.

        Raises:
            Lost: the node or the host is gone, or became so while this waited.
            KernelError, UsageError: what the inner pool raised, or no answer in time.
        """
        status, value = await self._ask(method, args, within)
        if status != "ok":
            raise ERRORS[status](f"{value} (Ray node {self.name[:12]}, {self.address})")
        return value

    def send(self, method: str, *args: Any) -> None:
        """Call the host without waiting for the answer."""
        if self.lost is None and self._actor is not None and import_ray().is_initialized():
            getattr(self._actor, method).remote(*args)

    def lose(self, why: str) -> None:
        """Count the node as lost: every call that waits for it fails, and its host is killed if it still runs."""
        if self.lost is not None:
            return
        self.lost = f"The Ray node {self.name[:12]} ({self.address}) was lost and its sessions with it: {why}."
        if not self._gone.done():
            self._gone.set_result(None)
        self._kill()

    async def close(self) -> None:
        """Close the inner pool, then end the actor; calls that wait fail."""
        if self.lost is None and self._actor is not None:
            with contextlib.suppress(KernelError):
                await self._ask("close", (), _SILENCE)
        if self.lost is None:
            self.lost = "The kernel pool is closed."
            if not self._gone.done():
                self._gone.set_result(None)
            self._kill()

    async def _ask(self, method: str, args: tuple[Any, ...], within: float) -> Reply:
        """Call, and race the answer against the loss of the node and the time."""
        ray = import_ray()
        if self.lost is None and not ray.is_initialized():
            self.lose("the connection to Ray was ended")
        if self.lost is not None:
            raise Lost(self.lost)
        reference = getattr(self._actor, method).remote(*args)
        answer: asyncio.Future[Reply] = asyncio.wrap_future(reference.future())
        try:
            await asyncio.wait((answer, self._gone), timeout=within, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
        except ray.exceptions.RayTaskError:
            raise
        except ray.exceptions.RayError as error:
            self.lose(_summary(error))
        finally:
            answer.cancel()
        if self.lost is None:
            await self._check(method)
        if self.lost is None:
            what = f"The Ray node {self.name[:12]} ({self.address})"
            raise KernelError(f"{what} did not answer {method!r} in {within:g} s.")
        raise Lost(self.lost)

    async def _check(self, method: str) -> None:
        """Count a host that does not even answer a ping as lost."""
        if method != "ping":
            try:
                await self._ask("ping", (), _SILENCE)
            except Lost:
                raise
            except KernelError:
                self.lose("its host process does not answer")

    def _forget_failure(self, opening: asyncio.Task[Any]) -> None:
        """Let the next session try again on a node whose inner pool did not open."""
        if not opening.cancelled() and opening.exception() is not None:
            self._kill()
            self._opening = None

    def _kill(self) -> None:
        actor, self._actor = self._actor, None
        ray = import_ray()
        if actor is not None and ray.is_initialized():
            with contextlib.suppress(ray.exceptions.RayError, ValueError):
                ray.kill(actor, no_restart=True)


def check_address(address: str) -> str:
    """Return ``address``.

    Raises:
        UsageError: it is none that the pool can use.
    """
    host, _, port = address.rpartition(":")
    if address in ("auto", "local") or (host and port.isdigit() and "/" not in host):
        return address
    raise UsageError(
        f"The Ray address {address!r} is not allowed. Allowed: 'host:port', 'auto', 'local'. "
        "Fix: Ray Client addresses (ray://) are not supported; run the caller on a node of the cluster."
    )


def import_ray() -> Any:
    """Return the library.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise MissingExtraError("ray", "ray", "The kernel pool 'ray'") from error
    return ray


async def in_thread(work: Callable[[], T]) -> T:
    """Run what blocks beside the event loop; on it when the interpreter ends and starts no thread any more."""
    try:
        return await asyncio.to_thread(work)
    except RuntimeError as error:
        if "shutdown" not in str(error):
            raise
        return work()


def _create(name: str, inner: str, inner_options: Mapping[str, Any], actor_options: Mapping[str, Any]) -> Any:
    """Make the host actor of a node, owned by this process's job; returns at once."""
    ray = import_ray()
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    strategy = NodeAffinitySchedulingStrategy(node_id=name, soft=False)
    # Left on, Ray kills the host's children, and only them, before they can end the processes that cells started.
    environment = {"env_vars": {"RAY_kill_child_processes_on_worker_exit": "0"}}
    settings = {"num_cpus": 0, "max_restarts": 0, "max_task_retries": 0, "scheduling_strategy": strategy}
    settings["runtime_env"] = environment
    return ray.remote(KernelHost).options(**settings, **actor_options).remote(inner, dict(inner_options))


def _summary(error: Exception) -> str:
    """Return the error's class and the first and last line of its text."""
    lines = [line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()] or ["no text"]
    return f"{type(error).__name__}: {' … '.join(dict.fromkeys((lines[0], lines[-1])))}"[:500]
