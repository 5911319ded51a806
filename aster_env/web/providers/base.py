"""The protocol of a web search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Hit:
    """One result of a search: plain texts of bounded length, and an http or https address."""

    title: str
    url: str
    snippet: str


@runtime_checkable
class Provider(Protocol):
    """What searches the web, or a site."""

    async def search(self, query: str, n: int) -> list[Hit]:
        """Return at most ``n`` results, the best first; an empty list where nothing is found.

        Raises:
            WebError: the search itself failed.
        """
        ...

    async def close(self) -> None:
        """Release everything; calling it twice is harmless."""
        ...
