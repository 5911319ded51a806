"""Persistent Python sessions behind one protocol."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from aster_env.errors import check_name
from aster_env.kernels.base import Cell, Kernel, KernelPool

__all__ = ["POOLS", "Cell", "Kernel", "KernelPool", "open_pool"]

POOLS = {"ipykernel": "aster_env.kernels.ipykernel:IPyKernelPool"}
"""Pools by name; imported when they are opened."""


def open_pool(name: str = "ipykernel", **options: Any) -> KernelPool:
    """Return the pool called ``name``, an async context manager.

    Args:
        name: ``"ipykernel"``: stock kernels, not isolated; needs ``allow_unsandboxed=True``.
        **options: the pool's own arguments, see its class.

    Raises:
        UnknownNameError: there is no such pool, or it has no such option.
        UsageError: an option's value is not allowed.
    """
    module, _, attribute = POOLS[check_name("kernel pool", name, POOLS)].partition(":")
    pool: type[Any] = getattr(importlib.import_module(module), attribute)
    allowed = inspect.signature(pool).parameters
    for option in options:
        check_name(f"option of the kernel pool {name!r}", option, allowed)
    made: KernelPool = pool(**options)
    return made
