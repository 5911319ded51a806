"""Walkers over the generated site, each with the tool ``visit`` of an episode of its own.

A page goes the whole way: name, guard, robots.txt, HTTP over loopback, decompression, a worker process that makes text
and links of it, and the numbered text that the model reads. The site is served by this process too, so that it takes
its share of the cores.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import statistics
import time
from collections import Counter
from typing import Any

from aster_env.envs.web_walker.site import Site, SiteServer, build_site, site_guard
from aster_env.errors import InfrastructureError
from aster_env.tools.browse import BrowseTool
from aster_env.tools.links import Links
from aster_env.web import Extractor, Fetched, Fetcher, Page

WALKERS, VISITS, CORES = 200, 10, 2
_LOST = ("did not arrive", "could not be reached", "cannot be read")
"""What a walker is told of a page that is there: the tools gave way, not the site."""
_LINK = re.compile(r"^\[(\d+)\] (.*)$", re.MULTILINE)


def measure(quick: bool, walkers: int = WALKERS) -> dict[str, Any]:
    """Walk alone, then with all walkers at once, on two cores.

    Args:
        quick: few walkers and visits.
        walkers: at once.
    """
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:CORES])
    try:
        site = build_site(0, 150 if quick else 400)
        alone = asyncio.run(_walk(site, 1, 10 if quick else 60))
        many = asyncio.run(_walk(site, 20 if quick else walkers, 3 if quick else VISITS))
    finally:
        os.sched_setaffinity(0, cores)
    return {
        "cores": min(CORES, len(cores)),
        "load": os.getloadavg()[0],
        "pages": len(site.pages),
        "rows": [alone, many],
    }


def table(result: dict[str, Any]) -> str:
    """Return the rows as Markdown."""
    lines = [
        f"| walkers, {result['cores']} cores | visits | pages a second | p50 / p99, ms | fetch / extraction, mean ms "
        "| dead links and the like | failures |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in result["rows"]:
        lines.append(
            f"| {row['walkers']} | {row['visits']:,} | {row['per_second']:.1f} | {row['p50_ms']:,.0f} / "
            f"{row['p99_ms']:,.0f} | {row['fetch_ms']:.1f} / {row['extraction_ms']:.1f} | {row['told']} "
            f"| {row['failures']} |"
        )
    return "\n".join(lines)


class _Timed:
    """A source and a reader that count the seconds in the fetcher, and in a worker process."""

    def __init__(self, fetcher: Fetcher, extractor: Extractor) -> None:
        self._fetcher, self._extractor = fetcher, extractor
        self.fetching, self.extracting = list[float](), list[float]()

    async def get(self, url: str) -> Fetched:
        """Return a page, as the fetcher does."""
        started = time.perf_counter()
        try:
            return await self._fetcher.get(url)
        finally:
            self.fetching.append(time.perf_counter() - started)

    async def page(self, fetched: Fetched) -> Page:
        """Return a page to read, as the extractor does."""
        page = await self._extractor.page(fetched)
        self.extracting.append(page.seconds)
        return page

    async def close(self) -> None:
        """Close both."""
        await self._fetcher.close()
        await self._extractor.close()


async def _walk(site: Site, walkers: int, visits: int) -> dict[str, Any]:
    async with SiteServer(site) as server:
        timed = _Timed(Fetcher(guard=site_guard(server), seconds=60), Extractor(workers=CORES, seconds=60))
        try:
            # The start of the worker processes is not counted.
            await asyncio.gather(*(_visits(site, timed, -n - 1, 1) for n in range(CORES)))
            timed.fetching.clear()
            timed.extracting.clear()
            started = time.perf_counter()
            found = await asyncio.gather(*(_visits(site, timed, n, visits) for n in range(walkers)))
            elapsed = time.perf_counter() - started
        finally:
            await timed.close()
    took = sorted(seconds for walked, _ in found for seconds in walked)
    outcomes = sum((counts for _, counts in found), Counter[str]())
    cuts = statistics.quantiles(took, n=100)
    return {
        "walkers": walkers,
        "visits": len(took),
        "seconds": round(elapsed, 2),
        "per_second": round(len(took) / elapsed, 2),
        "p50_ms": round(1000 * cuts[49], 1),
        "p99_ms": round(1000 * cuts[98], 1),
        "fetch_ms": round(1000 * statistics.fmean(timed.fetching), 2),
        "extraction_ms": round(1000 * statistics.fmean(timed.extracting), 2),
        "told": outcomes["told"],
        "failures": outcomes["failure"],
    }


async def _visits(site: Site, timed: _Timed, number: int, visits: int) -> tuple[list[float], Counter[str]]:
    """Walk from the home page along links by their numbers; start anew where a page has none."""
    generator, tool = random.Random(number), BrowseTool(timed, timed, Links())
    took, outcomes, target = list[float](), Counter[str](), str(site.url)
    for _ in range(visits):
        started = time.perf_counter()
        try:
            result = await tool(target=target)
            text = result.text
            lost = not result.ok and any(words in text for words in _LOST)
            outcomes["shown" if result.ok else "failure" if lost else "told"] += 1
        except InfrastructureError:
            outcomes["failure"] += 1
            text = ""
        took.append(time.perf_counter() - started)
        links = _LINK.findall(text)
        target = generator.choice(links)[0] if links else str(site.url)
    return took, outcomes
