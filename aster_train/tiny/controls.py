"""Controls of the demo: the same sessions, with the property that is claimed to matter taken away."""

from __future__ import annotations

from aster_env.kernels.base import Cell, ClosingPool, Kernel, KernelPool


class _Pool(ClosingPool):
    async def close(self) -> None:
        """Do nothing: there is nothing to end."""


class ForgetfulPool(_Pool):
    """Sessions whose variables do not persist: each cell runs in a new one.

    Args:
        pool: where the sessions come from.
    """

    def __init__(self, pool: KernelPool) -> None:
        self._pool = pool

    async def start(self) -> Kernel:
        """Return a session that forgets."""
        return _Forgetful(self._pool)

    async def close(self) -> None:
        """Close the pool."""
        await self._pool.close()


class _Forgetful:
    def __init__(self, pool: KernelPool) -> None:
        self._pool = pool

    async def execute(self, code: str, timeout: float = 30.0) -> Cell:
        kernel = await self._pool.start()
        try:
            return await kernel.execute(code, timeout)
        finally:
            await kernel.close()

    async def close(self) -> None:
        pass


class InertPool(_Pool):
    """Sessions that run nothing: each cell gives the empty result."""

    async def start(self) -> Kernel:
        """Return a session that runs nothing."""
        return _Inert()


class _Inert:
    async def execute(self, code: str, timeout: float = 30.0) -> Cell:
        return Cell()

    async def close(self) -> None:
        pass
