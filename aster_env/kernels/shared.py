"""One pool for many environments: opened by the first that needs it, closed by the last that leaves."""

from __future__ import annotations

import asyncio
from typing import Any

from aster_env.kernels import open_pool
from aster_env.kernels.base import KernelPool

_Key = tuple[int, str, tuple[tuple[str, Any], ...]]
_pools: dict[_Key, tuple[KernelPool, int]] = {}


def lease_pool(name: str, **options: Any) -> KernelPool:
    """Return the running loop's pool with this name and these options; give it back with ``release_pool``.

    Raises:
        UsageError: the name or an option is unknown, or the pool does not isolate and that was not allowed.
    """
    key = (id(asyncio.get_running_loop()), name, tuple(sorted(options.items())))
    pool, users = _pools.get(key) or (open_pool(name, **options), 0)
    _pools[key] = (pool, users + 1)
    return pool


async def release_pool(pool: KernelPool) -> None:
    """Give a leased pool back; the last user's return closes it. An unknown pool is ignored."""
    for key, (leased, users) in list(_pools.items()):
        if leased is pool:
            if users > 1:
                _pools[key] = (pool, users - 1)
                return
            del _pools[key]
            await pool.close()


async def close_all() -> None:
    """Close every pool of the running loop, leased or not."""
    mine = id(asyncio.get_running_loop())
    for key, (pool, _) in list(_pools.items()):
        if key[0] == mine:
            del _pools[key]
            await pool.close()
