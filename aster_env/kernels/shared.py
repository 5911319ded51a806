"""One pool for many environments: opened by the first that needs it, closed by the last that leaves."""

from __future__ import annotations

from typing import Any

from aster_env import loops
from aster_env.kernels import open_pool
from aster_env.kernels.base import KernelPool


def lease_pool(name: str, **options: Any) -> KernelPool:
    """Return the running loop's pool with this name and these options; give it back with ``release_pool``.

    Raises:
        UsageError: the name or an option is unknown, or the pool does not isolate and that was not allowed.
    """
    # By the options' text: a value may be a dictionary, which cannot be part of a key.
    key = ("kernel pool", name, repr(sorted(options.items())))
    return loops.lease(key, lambda: open_pool(name, **options))


async def release_pool(pool: KernelPool) -> None:
    """Give a leased pool back; the last user's return closes it. An unknown pool is ignored."""
    await loops.release(pool)
