"""What a site's robots.txt says (RFC 9309), remembered for a while."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from aster_env.errors import MissingExtraError
from aster_env.web.base import PageError

MAX_ROBOTS = 500 * 1024
"""Bytes of a robots.txt that are read; the least that RFC 9309 asks for."""

_MOST_SITES = 1000
_KEPT, _KEPT_FAILURE = 24 * 3600.0, 60.0

Fetch = Callable[[str], Awaitable[tuple[int, bytes]]]
"""``url -> (status, body)``, redirects followed; raises ``PageError``."""


class Robots:
    """Asks each site once a day; where its answer is a 4xx everything is allowed, where there is none nothing is.

    Args:
        fetch: how the file is got.
        agent: the name that rules are looked up by.

    Raises:
        MissingExtraError: protego is not installed.
    """

    def __init__(self, fetch: Fetch, agent: str) -> None:
        try:
            from protego import Protego
        except ImportError as error:
            raise MissingExtraError("protego", "web", "Reading robots.txt") from error
        self._parse = Protego.parse
        self._fetch, self._agent = fetch, agent
        self._sites: OrderedDict[str, tuple[float, Any]] = OrderedDict()
        self._asking: dict[str, asyncio.Lock] = {}

    async def check(self, site: str, url: str) -> None:
        """See that a page may be visited.

        Args:
            site: scheme, host and port, without a slash at the end.
            url: of the page.

        Raises:
            PageError: the site does not want it, or does not say.
        """
        lock = self._asking.setdefault(site, asyncio.Lock())
        try:
            async with lock:
                until, rules = self._sites.get(site, (0.0, None))
                if until < time.monotonic():
                    until, rules = await self._ask(site)
                    self._sites[site] = until, rules
        finally:
            if not lock.locked():
                self._asking.pop(site, None)
        if site in self._sites:
            self._sites.move_to_end(site)
        while len(self._sites) > _MOST_SITES:
            self._sites.popitem(last=False)
        if isinstance(rules, str):
            raise PageError(f"The site may not be visited: its robots.txt could not be read ({rules}).", lasting=False)
        if rules is not None and not await asyncio.to_thread(rules.can_fetch, url, self._agent):
            raise PageError("The site does not allow programs to visit this page (robots.txt).")

    async def _ask(self, site: str) -> tuple[float, Any]:
        """Return until when an answer holds, and the rules: None for no rules, a text for why nobody knows them."""
        now = time.monotonic()
        try:
            status, body = await self._fetch(f"{site}/robots.txt")
        except PageError as error:
            return now + _KEPT_FAILURE, str(error)
        if 400 <= status < 500:
            return now + _KEPT, None
        if status >= 500:
            return now + _KEPT_FAILURE, f"status {status}"
        text = body[:MAX_ROBOTS].decode("utf-8", "replace").lstrip("\ufeff")
        return now + _KEPT, await asyncio.to_thread(self._parse, text)
