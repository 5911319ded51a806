"""The protocol that every retriever follows, and what it returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a corpus.

    Args:
        id: unique within its corpus.
        title: of the article it is from; may be empty.
        text: without the title.
        score: how well it fits a query; larger is better. None where the retriever gives none.
    """

    id: str
    title: str
    text: str
    score: float | None = None

    @property
    def contents(self) -> str:
        """The passage as FlashRAG's corpora write it: the title in quotes, a line break, the text."""
        return f'"{self.title}"\n{self.text}' if self.title else self.text

    @classmethod
    def from_contents(cls, name: str, contents: str, score: float | None = None) -> Passage:
        """Read what ``contents`` wrote; a first line that is not in quotes belongs to the text."""
        first, line_break, rest = contents.partition("\n")
        if line_break and len(first) > 2 and first[0] == first[-1] == '"':
            return cls(name, first[1:-1], rest, score)
        return cls(name, "", contents, score)


@runtime_checkable
class Retriever(Protocol):
    """Finds passages; one serves many episodes at once, on the event loop that it is first used on.

    A constructor checks its arguments and takes nothing that has to be closed; what is expensive is opened by the first
    search.
    """

    @property
    def source(self) -> Mapping[str, str]:
        """What the passages come from, as trajectories record it.

        ``retriever`` is always there; ``corpus``, ``licence`` and ``sha256`` where they are known.
        """
        ...

    async def search(self, queries: Sequence[str], n: int = 5) -> list[list[Passage]]:
        """Return at most ``n`` passages for each query, best first; the same order every time.

        A query without a word that the index knows finds nothing: an empty list.

        Raises:
            RetrieverError: the search itself failed; no query is at fault.
        """
        ...

    async def close(self) -> None:
        """Release everything; calling it twice is harmless."""
        ...
