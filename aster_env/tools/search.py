"""The tool ``search``: finds passages of a corpus."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from aster_env.errors import UsageError
from aster_env.retrieval.base import Passage, Retriever
from aster_env.tools.python import bound
from aster_env.tools.queries import read_queries, search_schema
from aster_env.types import ToolResult

_NOTHING = "(nothing found: try other words)"
_MARK = 40
"""Characters of the mark that stands where some are missing, at most."""


class SearchTool:
    """Returns the passages that fit a query best, each under its title.

    Several queries may come in one call, as a list or one a line; each is then answered under its own heading. The
    result is bounded: where all is too long, every passage gets an equal share of the characters, and one longer than
    its share is cut in the middle, with the count of characters that are missing.

    Args:
        retriever: where passages come from; it is shared, and not closed here.
        top_n: passages a query.
        max_output: characters of a result that the model is shown.
        max_queries: queries a call may hold.

    Raises:
        UsageError: a limit is not allowed.
    """

    name = "search"
    aliases: tuple[str, ...] = ("wikipedia_search", "wiki_search", "retrieve")
    schema: ClassVar[Mapping[str, Any]] = search_schema(
        "Searches an encyclopedia and returns the passages that fit a query best."
    )

    def __init__(self, retriever: Retriever, top_n: int = 5, max_output: int = 8192, max_queries: int = 5) -> None:
        check_search_limits(top_n, max_output, max_queries)
        self._retriever, self._top_n, self._max_output, self._max_queries = retriever, top_n, max_output, max_queries

    async def __call__(self, **arguments: Any) -> ToolResult:
        """Search for ``arguments["query"]``.

        Raises:
            RetrieverError: the search itself failed.
        """
        started = time.perf_counter()
        queries = read_queries(arguments["query"], self._max_queries)
        if isinstance(queries, str):
            return ToolResult(f"Error: {queries}", ok=False)
        found = await self._retriever.search(queries, self._top_n)
        text, dropped = self._text(queries, found)
        return ToolResult(text, True, "kept", time.perf_counter() - started, dropped)

    async def reset(self) -> None:
        """Do nothing: a search leaves no state."""

    async def close(self) -> None:
        """Do nothing: the retriever is its owner's to close."""

    def _text(self, queries: Sequence[str], found: Sequence[Sequence[Passage]]) -> tuple[str, int]:
        """Return what the model reads, and how many characters of it are missing."""
        headings = [f"Query: {bound(query, 200)[0]}" for query in queries] if len(queries) > 1 else [""]
        texts = [[f"[{n}] {p.title}\n{p.text}".rstrip() for n, p in enumerate(passages, 1)] for passages in found]
        whole = _join(headings, texts)
        if len(whole) <= self._max_output:
            return whole, 0
        lengths = [len(text) for passages in texts for text in passages]
        share = _share(lengths, self._max_output - (len(whole) - sum(lengths)) - _MARK * len(lengths))
        cut = [[bound(text, share) for text in passages] for passages in texts]
        dropped = sum(missing for passages in cut for _, missing in passages)
        # So small a bound that headings and marks exceed it cuts them too.
        text, missing = bound(_join(headings, [[text for text, _ in passages] for passages in cut]), self._max_output)
        return text, dropped + missing


def _join(headings: Sequence[str], texts: Sequence[Sequence[str]]) -> str:
    blocks = [
        block
        for heading, passages in zip(headings, texts, strict=True)
        for block in (heading, *(passages or (_NOTHING,)))
        if block
    ]
    return "\n\n".join(blocks)


def _share(lengths: Sequence[int], room: int) -> int:
    """Return the most characters that each text may keep, so that all fit: what short ones leave goes to long ones."""
    rest = sorted(lengths)
    while rest and rest[0] * len(rest) <= room:
        room -= rest.pop(0)
    return max(1, room // max(1, len(rest)))


def check_search_limits(top_n: Any, max_output: Any, max_queries: Any = 5) -> None:
    """Raise ``UsageError`` for a limit of the search tool that is not allowed."""
    limits = {"top_n": (top_n, 1000), "max_output": (max_output, None), "max_queries": (max_queries, 1000)}
    for name, (value, most) in limits.items():
        integer = isinstance(value, int) and not isinstance(value, bool)
        if not integer or value < 1 or (most is not None and value > most):
            allowed = "at least 1" if most is None else f"1 to {most}"
            raise UsageError(f"{name}={value!r} is not allowed. Allowed: an integer, {allowed}.")
