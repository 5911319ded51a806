"""The tools ``visit`` and ``search`` over the web: pages and results, with links numbered for the episode."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any, ClassVar, Protocol

from aster_env.errors import UsageError
from aster_env.tools.links import Links, listed
from aster_env.tools.queries import read_queries, search_schema
from aster_env.types import ToolResult
from aster_env.web.base import Fetched, Link, Page, PageError, Source, shown
from aster_env.web.providers.base import Hit, Provider

LEAST_OUTPUT = 1000
"""Characters of a result that its head always has room in."""

_MORE = "more"
_LAST = "That was the last part of the page."
_NOTHING = "(nothing found: try other words)"
_LABEL = "\n\nLinks:\n"
_TITLE, _URL, _SNIPPET = 150, 300, 500


class Reader(Protocol):
    """Makes a page to read of what was fetched; an ``aster_env.web.Extractor``."""

    async def page(self, fetched: Fetched) -> Page:
        """Return the page; see ``Extractor.page``."""
        ...


class BrowseTool:
    """Shows a page: its title and address, its text, and its links under numbers that hold for the whole episode.

    A page that is too long comes in parts, each with its share of the links; the target ``"more"`` shows the next
    part of the page that was visited last. A page that cannot be had (status 404, an address that is refused, a
    time-out) is told to the model.

    Args:
        source: where pages come from; it is shared, and not closed here.
        reader: makes them to text; shared likewise.
        links: the episode's, shared with its search.
        max_output: characters of a result that the model is shown.

    Raises:
        UsageError: the limit is not allowed.
    """

    name = "visit"
    aliases: tuple[str, ...] = ("browse", "visit_page", "open", "fetch")
    schema: ClassVar[Mapping[str, Any]] = {
        "name": "visit",
        "description": (
            "Opens a page and returns its text and its numbered links. Give the number of a link that was shown "
            "before, its exact text, or an address; 'more' shows the next part of a long page."
        ),
        "parameters": {
            "type": "object",
            "properties": {
                "target": {
                    "type": ["string", "integer"],
                    "description": "The number or the exact text of a link, an address with http://, or 'more'.",
                }
            },
            "required": ["target"],
        },
    }

    def __init__(self, source: Source, reader: Reader, links: Links, max_output: int = 8192) -> None:
        check_web_limits(max_output=max_output)
        self._source, self._reader, self._links, self._max_output = source, reader, links, max_output
        self._rest: list[str] = []
        self._visited = False

    async def __call__(self, **arguments: Any) -> ToolResult:
        """Visit ``arguments["target"]``.

        Raises:
            WebError: the machinery failed, not the page.
        """
        started = time.perf_counter()
        target = arguments["target"]
        if isinstance(target, str) and target.strip().casefold() == _MORE:
            if self._rest:
                return self._next(started)
            if self._visited and not self._links.has(_MORE):
                return ToolResult(f"Error: {_LAST}", False, "kept", time.perf_counter() - started)
        try:
            page = await self._reader.page(await self._source.get(self._links.find(target)))
        except PageError as error:
            return ToolResult(f"Error: {error}", False, "kept", time.perf_counter() - started)
        numbers = self._links.see(page.links, page.url)
        self._rest = parts(page, listed(page.links, numbers, page.url), self._max_output)
        self._visited = True
        return self._next(started)

    async def reset(self) -> None:
        """Forget the episode's pages and links."""
        self._rest, self._visited = [], False
        self._links.clear()

    async def close(self) -> None:
        """Do nothing: what pages come from is its owner's to close."""

    def _next(self, started: float) -> ToolResult:
        text = self._rest.pop(0)
        return ToolResult(text, True, "kept", time.perf_counter() - started, sum(map(len, self._rest)))


class WebSearchTool:
    """Searches the web, or a site, and shows titles, addresses and snippets under numbers that ``visit`` takes.

    Several queries may come in one call, as a list or one a line; each is then answered under its own heading. Where
    all is too long, the last results are left out.

    Args:
        provider: what searches; it is shared, and not closed here.
        links: the episode's, shared with ``visit``.
        top_n: results a query.
        max_output: characters of a result that the model is shown.
        max_queries: queries a call may hold.

    Raises:
        UsageError: a limit is not allowed.
    """

    name = "search"
    aliases: tuple[str, ...] = ("web_search",)
    schema: ClassVar[Mapping[str, Any]] = search_schema(
        "Searches the web and returns titles, addresses and the beginnings of pages, under numbers that 'visit' takes."
    )

    def __init__(
        self, provider: Provider, links: Links, top_n: int = 8, max_output: int = 8192, max_queries: int = 5
    ) -> None:
        check_web_limits(max_output=max_output, top_n=top_n, max_queries=max_queries)
        self._provider, self._links = provider, links
        self._top_n, self._max_output, self._max_queries = top_n, max_output, max_queries

    async def __call__(self, **arguments: Any) -> ToolResult:
        """Search for ``arguments["query"]``.

        Raises:
            WebError: the search itself failed.
        """
        started = time.perf_counter()
        queries = read_queries(arguments["query"], self._max_queries)
        if isinstance(queries, str):
            return ToolResult(f"Error: {queries}", ok=False)
        asked = (self._provider.search(query, self._top_n) for query in queries)
        # One that fails does not leave the others running alone.
        answers = await asyncio.gather(*asked, return_exceptions=True)
        found: list[list[Hit]] = []
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            found.append(answer[: self._top_n])
        text, dropped = self._text(queries, found)
        return ToolResult(text, True, "kept", time.perf_counter() - started, dropped)

    async def reset(self) -> None:
        """Forget the episode's links."""
        self._links.clear()

    async def close(self) -> None:
        """Do nothing: the provider is its owner's to close."""

    def _text(self, queries: Sequence[str], found: Sequence[Sequence[Hit]]) -> tuple[str, int]:
        """Return what the model reads, and how many characters of it are missing."""
        links = [[Link(hit.url, shown(hit.title, _TITLE)) for hit in hits] for hits in found]
        numbers = iter(self._links.see([link for group in links for link in group]))
        blocks = []
        for query, hits, group in zip(queries, found, links, strict=True):
            blocks += [f"Query: {shown(query)}"] * (len(queries) > 1)
            for hit, link in zip(hits, group, strict=True):
                rows = (f"[{next(numbers)}] {link.text}", shown(link.url, _URL), shown(hit.snippet, _SNIPPET))
                blocks.append("\n".join(row.rstrip() for row in rows if row))
            blocks += [] if hits else [_NOTHING]
        text = "\n\n".join(blocks)
        if len(text) <= self._max_output:
            return text, 0
        kept, _ = cut(text, self._max_output - 60, "\n\n")
        return f"{kept}\n\n(further results are left out: search for less at once)", len(text) - len(kept)


def parts(page: Page, lines: Sequence[str], most: int) -> list[str]:
    """Return a page as the model reads it, in parts of at most ``most`` characters.

    Args:
        page: its title, address and text are shown.
        lines: its links.
        most: at least ``LEAST_OUTPUT``.
    """
    head = "\n".join(filter(None, (shown(page.title, _TITLE), shown(page.url, _URL))))
    end = "\n\n(The page goes on, but only this much of it can be read.)" if page.truncated else ""
    text, links = page.text or "(no text)", "\n".join(lines)
    room = most - len(head) - 2 - len(end)
    if len(text) + (len(_LABEL) + len(links)) * bool(links) <= room:
        return [f"{head}\n\n{text}{_LABEL * bool(links)}{links}{end}"]
    room -= len(_LABEL) + 80
    for_links = min(len(links), max(room // 3, room - len(text)))
    texts, listings = split(text, room - for_links), split(links, for_links) if links else []
    count, shown_parts = max(len(texts), len(listings)), []
    for n, (piece, listing) in enumerate(zip_longest(texts, listings, fillvalue=""), 1):
        more = f" The target '{_MORE}' shows the next." if n < count else ""
        body = f"\n\n{piece}" * bool(piece) + f"{_LABEL}{listing}" * bool(listing)
        shown_parts.append(f"{head}\n(Part {n} of {count}.{more}){body}{end if n == count else ''}")
    return shown_parts


def split(text: str, most: int) -> list[str]:
    """Return a text in pieces of at most ``most`` characters, ended at a line or a word where that is possible."""
    pieces = []
    while len(text) > most:
        piece, text = cut(text, most, "\n", " ")
        pieces.append(piece)
    return [*pieces, text] if text or not pieces else pieces


def cut(text: str, most: int, *ends: str) -> tuple[str, str]:
    """Return the beginning of a text that is too long, up to one of ``ends`` in its second half, and the rest."""
    for end in ends:
        at = text.rfind(end, most // 2, most)
        if at > 0:
            return text[:at], text[at + len(end) :]
    return text[:most], text[most:]


def check_web_limits(max_output: Any = 8192, top_n: Any = 8, max_queries: Any = 5) -> None:
    """Raise ``UsageError`` for a limit of these tools that is not allowed."""
    limits = {
        "top_n": (top_n, 1, 100),
        "max_output": (max_output, LEAST_OUTPUT, 10**9),
        "max_queries": (max_queries, 1, 100),
    }
    for name, (value, least, most) in limits.items():
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise UsageError(f"{name}={value!r} is not allowed. Allowed: an integer, {least} to {most}.")
