"""Many pages at once, and a fetcher's end."""

from __future__ import annotations

import asyncio
import time

import pytest

from aster_env.errors import UsageError, WebError
from aster_env.web import Fetcher, PageError
from tests.web.test_hostile_site import silence
from tests.web.world import GOOD, world


def test_slow_servers_hold_up_no_other_page():
    async def run():
        async with world({"/slow": silence}) as made:
            fetcher = made.fetcher(seconds=1.5)
            slow = [asyncio.create_task(fetcher.get("http://site.test/slow")) for _ in range(40)]
            await asyncio.sleep(0.1)
            started = time.monotonic()
            assert (await fetcher.get("http://site.test/good")).body == GOOD
            assert time.monotonic() - started < 1
            found = await asyncio.gather(*slow, return_exceptions=True)
            assert all(isinstance(error, PageError) for error in found)
            await fetcher.close()

    asyncio.run(run())


def test_a_page_that_waits_for_its_turn_loses_no_time():
    async def run():
        async with world({"/slow": silence}) as made:
            fetcher = made.fetcher(seconds=0.4, concurrency=1)
            pages = [fetcher.get(f"http://site.test/{name}") for name in ("slow", "slow", "good")]
            *_, good = await asyncio.gather(*pages, return_exceptions=True)
            assert good.body == GOOD
            await fetcher.close()

    asyncio.run(run())


def test_a_page_given_up_leaves_no_connection():
    async def run():
        async with world({"/slow": silence}) as made:
            fetcher = made.fetcher(seconds=60)
            task = asyncio.create_task(fetcher.get("http://site.test/slow"))
            while not made.site.requests:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert fetcher._pool.connections == []
            assert (await fetcher.get("http://site.test/good")).body == GOOD
            await fetcher.close()
            await fetcher.close()
            with pytest.raises(WebError, match="closed"):
                await fetcher.get("http://site.test/good")

    asyncio.run(run())


@pytest.mark.parametrize("options", [{"seconds": 0}, {"max_bytes": 0}, {"concurrency": 0}, {"seconds": float("nan")}])
def test_bounds_that_cannot_be_are_errors_of_usage(options):
    with pytest.raises(UsageError, match="Fix:"):
        Fetcher(**options)
