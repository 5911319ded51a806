"""Controls of the demos: the same sessions and searches, with the property that is claimed to matter taken away."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

from aster_env.kernels.base import Cell, ClosingPool, Kernel, KernelPool
from aster_env.retrieval import Passage, Retriever


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


class EmptyRetriever:
    """A search that finds nothing."""

    @property
    def source(self) -> Mapping[str, str]:
        """What the passages come from: nothing."""
        return {"retriever": "nothing"}

    async def search(self, queries: Sequence[str], n: int = 5) -> list[list[Passage]]:
        """Return no passage for any query."""
        return [[] for _ in queries]

    async def close(self) -> None:
        """Do nothing: there is nothing to end."""


class ElsewhereRetriever:
    """A search that finds what was not asked for: each query is replaced by another, always the same one.

    Args:
        retriever: where the passages come from; it is closed with this one.
        queries: what is searched for instead.
    """

    def __init__(self, retriever: Retriever, queries: Sequence[str]) -> None:
        self._retriever, self._queries = retriever, list(queries)

    @property
    def source(self) -> Mapping[str, str]:
        """What the passages come from."""
        return self._retriever.source

    async def search(self, queries: Sequence[str], n: int = 5) -> list[list[Passage]]:
        """Return the passages of other queries."""
        return await self._retriever.search([self._replace(query) for query in queries], n)

    async def close(self) -> None:
        """Close the retriever."""
        await self._retriever.close()

    def _replace(self, query: str) -> str:
        # Not hash(): Python draws that anew in every process.
        first = zlib.crc32(query.encode()) % len(self._queries)
        others = (self._queries[(first + n) % len(self._queries)] for n in range(len(self._queries)))
        return next(other for other in others if other != query)
