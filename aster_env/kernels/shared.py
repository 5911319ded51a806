"""One pool for many environments: opened by the first that needs it, closed by the last that leaves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aster_env import loops
from aster_env.errors import UsageError
from aster_env.kernels import check_pool, open_pool, pool_options
from aster_env.kernels.base import KernelPool


def read_pool(pool: Any, options: Any, allow_unsandboxed: Any) -> dict[str, Any]:
    """Return the options that ``open_pool`` gets for an environment's pool, checked; nothing is opened.

    Args:
        pool: a name, or a KernelPool.
        options: for ``open_pool``, or None.
        allow_unsandboxed: whether code may run without isolation, which some pools ask.

    Raises:
        UsageError: something is not allowed.
    """
    if not isinstance(allow_unsandboxed, bool):
        raise UsageError(f"allow_unsandboxed={allow_unsandboxed!r} is not allowed. Allowed: True or False.")
    if options is not None and not isinstance(options, Mapping):
        raise UsageError(f"pool_options={options!r} is a {type(options).__name__}. Allowed: a mapping of options.")
    if not isinstance(pool, str):
        if not isinstance(pool, KernelPool):
            raise UsageError(f"pool={pool!r} is a {type(pool).__name__}. Allowed: a name, or a KernelPool.")
        if options:
            raise UsageError(f"pool_options={options!r} do not apply to a pool that is open. Fix: leave them out.")
        return {}
    known = {"allow_unsandboxed": allow_unsandboxed} if "allow_unsandboxed" in pool_options(pool) else {}
    chosen = {**known, **(options or {})}
    check_pool(pool, chosen)
    return chosen


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
