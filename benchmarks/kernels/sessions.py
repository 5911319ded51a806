"""The measures of aster's own pool."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from aster_env.kernels import Kernel, open_pool

from .measure import Profile, Times, below, private_of, private_parts, pss_mb

Row = dict[str, Any]
_SPARES = 4


@dataclass(frozen=True, slots=True)
class Counts:
    """How often each thing is done."""

    starts: int = 60
    sustained: float = 6.0
    calls: int = 3000
    busy: int = 200
    cells: int = 20_000
    many: int = 1000
    one_line: int = 45_000


QUICK = Counts(starts=6, sustained=0.5, calls=100, busy=8, cells=200, many=20, one_line=200)


async def expect(kernel: Kernel, code: str, value: str) -> None:
    """Run a cell and check its value: a wrong answer has no speed."""
    cell = await kernel.execute(code, timeout=120)
    if cell.value != value:
        raise AssertionError(f"{code!r} gave {cell!r}, not the value {value!r}")


class Measures:
    """Measures of ``open_pool("zygote")``.

    Args:
        isolation: the pool's option.
        counts: how often each thing is done.
    """

    def __init__(self, isolation: str, counts: Counts) -> None:
        self._isolation, self._n = isolation, counts

    @contextlib.asynccontextmanager
    async def pool(self, **options: Any) -> AsyncIterator[Any]:
        """Open a pool that is warm: one session came and went."""
        async with open_pool("zygote", isolation=self._isolation, **options) as pool:
            await self._cycle(pool)
            yield pool

    async def layers(self) -> dict[str, bool]:
        """Return which layers are on."""
        async with self.pool(spares=0) as pool:
            return {name: on for name, (on, _) in (await pool.layers()).items()}

    async def starts(self, spares: int) -> Row:
        """Time one start after another, with time between them to fork spares: until ready, and until a first reply."""
        ready, first, profile = Times(), Times(), Profile()
        async with self.pool(spares=spares) as pool:
            with profile.watch():
                for _ in range(self._n.starts):
                    await asyncio.sleep(0.15 if spares else 0.0)
                    began = time.perf_counter()
                    with ready.one():
                        kernel = await pool.start()
                    await expect(kernel, "1+1", "2")
                    first.seconds.append(time.perf_counter() - began)
                    await kernel.close()
            kernels = [await pool.start() for _ in range(4)]
            for kernel in kernels:
                await expect(kernel, "1+1", "2")
            row = {"ready": ready.ms(), "first": first.ms(), **_told(profile)}
            if not spares:  # else sessions that never ran a cell would count
                await asyncio.sleep(0.3)
                row |= {"private_mb": private_of(_sessions()), "private": _parts(_sessions()[:1])}
            return row

    async def sustained(self, at_once: int = 8) -> Row:
        """Start, use and close sessions without pause, ``at_once`` side by side."""
        profile, done = Profile(), 0

        async def worker(end: float) -> None:
            nonlocal done
            while time.perf_counter() < end:
                await self._cycle(pool)
                done += 1

        async with self.pool(spares=0) as pool:
            with profile.watch():
                end = time.perf_counter() + self._n.sustained
                await asyncio.gather(*(worker(end) for _ in range(at_once)))
        return {"per_second": round(done / profile.wall, 1), "count": done, **_told(profile)}

    async def round_trip(self) -> Row:
        """Time `1+1` on one idle session, one call after another."""
        times, profile = Times(), Profile()
        async with self.pool() as pool:
            kernel = await pool.start()
            await _repeat(kernel, min(200, self._n.calls), Times())
            await asyncio.sleep(0.2)
            with profile.watch():
                await _repeat(kernel, self._n.calls, times)
        return {**times.ms(), **_told(profile)}

    async def busy(self) -> Row:
        """Run cells on many live sessions, each session one after another."""
        profile = Profile()
        async with self.pool() as pool:
            kernels = await asyncio.gather(*(pool.start() for _ in range(self._n.busy)))
            await asyncio.gather(*(expect(kernel, "1+1", "2") for kernel in kernels))
            each = self._n.cells // len(kernels)
            with profile.watch():
                await asyncio.gather(*(_repeat(kernel, each, Times()) for kernel in kernels))
        count = each * len(kernels)
        return {"sessions": len(kernels), "cells": count, "per_second": round(count / profile.wall), **_told(profile)}

    async def many(self) -> Row:
        """Hold many sessions at once, use all of them for a training step's calls, and close them."""
        starting, calling, closing, times = Profile(), Profile(), Profile(), Times()
        async with self.pool(spares=_SPARES) as pool:
            with starting.watch():
                kernels = await asyncio.gather(*(pool.start() for _ in range(self._n.many)))
                await asyncio.gather(*(expect(kernel, f"x = {i}; x", str(i)) for i, kernel in enumerate(kernels)))
            memory = self._memory()
            each = self._n.one_line // len(kernels)
            with calling.watch():
                await asyncio.gather(*(_count_up(kernel, i, each, times) for i, kernel in enumerate(kernels)))
            with closing.watch():
                await asyncio.gather(*(kernel.close() for kernel in kernels))
                while len(_sessions()) > _SPARES:
                    await asyncio.sleep(0.02)
        return {
            "sessions": len(kernels),
            "start_seconds": round(starting.wall, 2),
            "start": _told(starting),
            **memory,
            "calls": each * len(kernels),
            "call_seconds": round(calling.wall, 2),
            "call_ms": times.ms(),
            "call": _told(calling),
            "close_seconds": round(closing.wall, 2),
            "close": _told(closing),
            "left_after_close": await _left(),
        }

    def _memory(self) -> Row:
        generations = below(os.getpid())[:3]
        shares = [pss_mb(pid) for pid in itertools.chain(*generations)]
        known = [share for share in shares if share is not None]
        row: Row = {"live": len(generations[2]) if len(generations) > 2 else 0, "pss_mb": None}
        if len(known) == len(shares):
            row |= {"pss_mb": round(sum(known)), "host_pss_mb": round(pss_mb(os.getpid()) or 0)}
        return row

    async def _cycle(self, pool: Any) -> None:
        kernel = await pool.start()
        await expect(kernel, "1+1", "2")
        await kernel.close()


async def _repeat(kernel: Kernel, count: int, times: Times) -> None:
    for _ in range(count):
        with times.one():
            await expect(kernel, "1+1", "2")


async def _count_up(kernel: Kernel, start: int, count: int, times: Times) -> None:
    for step in range(1, count + 1):
        with times.one():
            await expect(kernel, "x += 1; x", str(start + step))


async def _left(seconds: float = 10.0) -> int:
    """Return how many processes of the pools remain; those that are just ending get a moment."""
    end = time.perf_counter() + seconds
    while (count := sum(map(len, below(os.getpid())))) and time.perf_counter() < end:
        await asyncio.sleep(0.02)
    return count


def _sessions() -> list[int]:
    generations = below(os.getpid())
    return generations[2] if len(generations) > 2 else []


def _parts(pids: list[int]) -> Row:
    parts = [private_parts(pid) for pid in pids]
    return {"bound": f"private MB by mapping: {parts[0]}"} if parts else {}


def _told(profile: Profile) -> Row:
    return {"processors": profile.used, "bound": profile.bound()}
