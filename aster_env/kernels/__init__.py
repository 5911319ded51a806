"""Persistent Python sessions behind one protocol."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Mapping
from typing import Any

from aster_env.errors import UsageError, check_name
from aster_env.kernels.base import Cell, Kernel, KernelPool

__all__ = ["POOLS", "Cell", "Kernel", "KernelPool", "check_pool", "open_pool", "pool_options"]

POOLS = {
    "gateway": "aster_env.kernels.gateway:GatewayPool",
    "ipykernel": "aster_env.kernels.ipykernel:IPyKernelPool",
    "ray": "aster_env.kernels.ray:RayPool",
    "zygote": "aster_env.kernels.zygote:ZygotePool",
    "sandboxfusion": "aster_env.kernels.sandboxfusion:SandboxFusionPool",
}
"""Pools by name; imported when they are opened."""
_LINUX = ("ipykernel", "zygote")
"""Pools whose sessions are processes of this machine, by means that only Linux has."""


def open_pool(name: str = "zygote", **options: Any) -> KernelPool:
    """Return the pool called ``name``, an async context manager.

    Args:
        name: ``"zygote"``: isolated sessions forked from a warm parent.
            ``"ipykernel"``: stock kernels, not isolated; needs ``allow_unsandboxed=True``.
            ``"ray"``: one pool on each node of a Ray cluster.
            ``"gateway"``: kernels behind a Jupyter Kernel Gateway or Enterprise Gateway.
            ``"sandboxfusion"``: the sessions of a SandboxFusion service.
        **options: the pool's own arguments, see its class.

    Raises:
        UnknownNameError: there is no such pool, or it has no such option.
        UsageError: an option's value is not allowed, or the pool does not work on this system.
    """
    pool = _pool_class(name)
    for option in options:
        check_name(f"option of the kernel pool {name!r}", option, inspect.signature(pool).parameters)
    made: KernelPool = pool(**options)
    return made


def check_pool(name: str, options: Mapping[str, Any]) -> None:
    """Raise for a name or options that ``open_pool`` would refuse, before anything starts.

    It makes a pool and forgets it: a pool's constructor checks its arguments and takes nothing that has to be closed.

    Raises:
        UnknownNameError: there is no such pool, or it has no such option.
        UsageError: an option's value is not allowed, or the pool does not work on this system.
    """
    open_pool(name, **options)


def pool_options(name: str) -> tuple[str, ...]:
    """Return the names of the options that ``open_pool(name)`` takes.

    Raises:
        UnknownNameError: there is no such pool.
        UsageError: the pool does not work on this system.
    """
    return tuple(inspect.signature(_pool_class(name)).parameters)


def _pool_class(name: str) -> type[Any]:
    module, _, attribute = POOLS[check_name("kernel pool", name, POOLS)].partition(":")
    # Before the import, which fails elsewhere for the want of Linux's own modules.
    if name in _LINUX and sys.platform != "linux":
        raise UsageError(
            f"The kernel pool {name!r} needs Linux, and this is {sys.platform}. Fix: run on Linux (a container will "
            "do), or take sessions from elsewhere: pool 'gateway' or 'sandboxfusion' with the option 'url', or 'ray'."
        )
    pool: type[Any] = getattr(importlib.import_module(module), attribute)
    return pool
