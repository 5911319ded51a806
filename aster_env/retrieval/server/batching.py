"""Many small requests become few searches: a bounded queue, batches, one search for equal queries, and a cache."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aster_env.errors import RetrieverError, UsageError
from aster_env.retrieval.base import Passage, Retriever
from aster_env.retrieval.server.meters import Meters

T = TypeVar("T")

CLOSING = 5.0
"""Seconds that a retriever has for its close."""


class Busy(Exception):
    """The queue is full.

    Args:
        seconds: after which it is worth asking again.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"The queue is full. Fix: ask again in {seconds:.0f} s.")
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class Limits:
    """How requests are gathered.

    Args:
        window: seconds that the first query of a batch waits for others.
        batch: most queries in a search.
        queue: most queries that wait, and so the most in a request.
        cache: most passages that are kept of earlier answers; 0 keeps none.

    Raises:
        UsageError: a value is not allowed.
    """

    window: float = 0.005
    batch: int = 64
    queue: int = 4096
    cache: int = 100_000

    def __post_init__(self) -> None:
        if not 0 <= self.window <= 1:
            raise UsageError(f"The window is {self.window} s. Allowed: 0 to 1. Fix: the usual 0.005.")
        for name, least in (("batch", 1), ("queue", self.batch), ("cache", 0)):
            if getattr(self, name) < least:
                raise UsageError(
                    f"The {name} is {getattr(self, name)}. Allowed: {least} and more. Fix: the usual "
                    f"{getattr(type(self)(), name)}."
                )


Key = tuple[str, int]


@dataclass(slots=True)
class _Entry:
    """A query that is waited for, with how many wait."""

    arrived: float
    done: asyncio.Future[list[Passage] | Exception]
    users: int = field(default=0)


class Worker:
    """A thread with an event loop of its own, so that no retriever can hold up the service's loop."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="aster-retriever", daemon=True)
        self._thread.start()

    async def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there and wait for it here."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self._loop))

    async def close(self) -> None:
        """Stop it; a thread that is stuck in a search is left to the end of the process."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join, CLOSING)
        if not self._thread.is_alive():
            self._loop.close()


class Batcher:
    """Searches in a worker thread, one batch at a time; queries of a batch ask for equally many passages.

    Queries that ask for different numbers are not searched together: what one asks for would change what another finds,
    where the retriever approximates.

    Args:
        retriever: used on the worker's loop alone; closed with this.
        limits: see there.
        meters: what is counted.
    """

    def __init__(self, retriever: Retriever, limits: Limits, meters: Meters) -> None:
        self.retriever, self.limits, self._meters = retriever, limits, meters
        self._worker = Worker()
        self._waiting: OrderedDict[Key, _Entry] = OrderedDict()
        self._searched: dict[Key, _Entry] = {}
        self._cache: OrderedDict[Key, list[Passage]] = OrderedDict()
        self._cached = 0
        self._arrived, self._full = asyncio.Event(), asyncio.Event()
        self._seconds = 0.001
        self._task = asyncio.create_task(self._serve())

    @property
    def depth(self) -> int:
        """How many queries wait."""
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Whether one more query would be refused."""
        return self.depth >= self.limits.queue

    async def load(self) -> None:
        """Open what the retriever opens with its first search."""
        await self._worker.run(self.retriever.search(["load"], 1))

    async def search(self, queries: Sequence[str], n: int) -> list[list[Passage]]:
        """Return at most ``n`` passages for each query; a blank query finds nothing.

        Raises:
            Busy: the queue has no room for them.
            UsageError: it could never have.
            RetrieverError: the search failed, whatever the retriever raised.
        """
        found: dict[str, list[Passage]] = {}
        awaited: dict[str, _Entry] = {}
        new = []
        for query in dict.fromkeys(queries):
            if not query.strip():
                found[query] = []
            elif (hit := self._recall((query, n))) is not None:
                found[query] = hit
            elif entry := self._waiting.get((query, n)) or self._searched.get((query, n)):
                awaited[query] = entry
            else:
                new.append(query)
        awaited |= self._enqueue(new, n)
        self._meters.count(cache=len(found), shared=len(awaited) - len(new), searched=len(new))
        await self._settle(awaited, n)
        for query, entry in awaited.items():
            outcome = entry.done.result()
            if isinstance(outcome, Exception):
                raise outcome
            found[query] = outcome
        return [found[query] for query in queries]

    async def close(self) -> None:
        """Stop searching and close the retriever; bounded in time."""
        self._task.cancel()
        await asyncio.wait([self._task])
        for entry in [*self._waiting.values(), *self._searched.values()]:
            if not entry.done.done():
                entry.done.set_result(RetrieverError("The service was stopped."))
        closing = asyncio.ensure_future(self._worker.run(self.retriever.close()))
        await asyncio.wait([closing], timeout=CLOSING)
        stuck = closing.cancel()
        await self._worker.close()
        if not stuck:
            closing.result()

    def _enqueue(self, queries: Sequence[str], n: int) -> dict[str, _Entry]:
        limit = self.limits.queue
        if len(queries) > limit:
            raise UsageError(
                f"The request has {len(queries)} queries. Allowed: {limit}. Fix: send several requests, or serve with "
                "a larger --queue."
            )
        if queries and self.depth + len(queries) > limit:
            raise Busy(min(30.0, max(1.0, self.depth * self._seconds)))
        now, loop = time.monotonic(), asyncio.get_running_loop()
        entries = {query: _Entry(now, loop.create_future()) for query in queries}
        self._waiting.update({(query, n): entry for query, entry in entries.items()})
        if queries:
            self._arrived.set()
        if self.depth >= self.limits.batch:
            self._full.set()
        return entries

    async def _settle(self, awaited: dict[str, _Entry], n: int) -> None:
        """Wait for entries; one that nobody waits for any more leaves the queue."""
        for entry in awaited.values():
            entry.users += 1
        try:
            if pending := [entry.done for entry in awaited.values() if not entry.done.done()]:
                await asyncio.wait(pending)
        finally:
            for query, entry in awaited.items():
                entry.users -= 1
                if not entry.users and self._waiting.get((query, n)) is entry:
                    del self._waiting[(query, n)]

    async def _serve(self) -> None:
        while True:
            self._arrived.clear()
            if not self._waiting:
                await self._arrived.wait()
            await self._gather()
            if batch := self._take():
                await self._search(batch)

    async def _gather(self) -> None:
        """Wait until the first query's window is over or a batch is full."""
        self._full.clear()
        first = next(iter(self._waiting.values()), None)
        if first is None or self.depth >= self.limits.batch:
            return
        left = first.arrived + self.limits.window - time.monotonic()
        if left > 0:
            waiter = asyncio.ensure_future(self._full.wait())
            try:
                await asyncio.wait([waiter], timeout=left)
            finally:
                waiter.cancel()

    def _take(self) -> dict[Key, _Entry]:
        if not self._waiting:
            return {}
        n = next(iter(self._waiting))[1]
        keys = []
        for key in self._waiting:
            if key[1] == n:
                keys.append(key)
                if len(keys) == self.limits.batch:
                    break
        return {key: self._waiting.pop(key) for key in keys}

    async def _search(self, batch: dict[Key, _Entry]) -> None:
        self._searched = batch
        queries, n = [query for query, _ in batch], next(iter(batch))[1]
        self._meters.batch(len(queries))
        started = time.monotonic()
        try:
            found = await self._worker.run(self.retriever.search(queries, n))
            if len(found) != len(queries):
                raise RetrieverError(f"The retriever gave {len(found)} results for {len(queries)} queries.")
        # Whatever a retriever raises is the answer to those who asked; the service goes on.
        except Exception as error:  # noqa: BLE001
            failure = error if isinstance(error, RetrieverError) else RetrieverError(f"{type(error).__name__}: {error}")
            outcomes: list[list[Passage] | Exception] = [failure] * len(queries)
        else:
            outcomes = [passages[:n] for passages in found]
        self._seconds = 0.8 * self._seconds + 0.2 * (time.monotonic() - started) / len(queries)
        self._searched = {}
        for (key, entry), outcome in zip(batch.items(), outcomes, strict=True):
            if not isinstance(outcome, Exception):
                self._remember(key, outcome)
            entry.done.set_result(outcome)

    def _recall(self, key: Key) -> list[Passage] | None:
        passages = self._cache.get(key)
        if passages is not None:
            self._cache.move_to_end(key)
        return passages

    def _remember(self, key: Key, passages: list[Passage]) -> None:
        # An empty answer takes room too.
        if self.limits.cache:
            self._cache[key] = passages
            self._cached += len(passages) + 1
        while self._cached > self.limits.cache and self._cache:
            self._cached -= len(self._cache.popitem(last=False)[1]) + 1
