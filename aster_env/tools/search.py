"""The tool ``search``: finds passages of a corpus."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from aster_env.errors import UsageError
from aster_env.retrieval.base import Passage, Retriever
from aster_env.tools.python import bound
from aster_env.types import ToolResult

_NOTHING = "(nothing found: try other words)"


class SearchTool:
    """Returns the passages that fit a query best, each under its title.

    Several queries may come in one call, as a list or one a line; each is then answered under its own heading. The
    result is bounded: every passage gets an equal share of the characters, and one longer than its share is cut in the
    middle, with the count of characters that are missing.

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
    schema: ClassVar[Mapping[str, Any]] = {
        "name": "search",
        "description": (
            "Searches an encyclopedia and returns the passages that fit a query best. Several queries can be sent at "
            "once, one a line."
        ),
        "parameters": {
            "type": "object",
            "properties": {
                "query": {
                    "type": ["string", "array"],
                    "items": {"type": "string"},
                    "description": "What to search for: a few words, or several queries, one a line.",
                }
            },
            "required": ["query"],
        },
    }

    def __init__(self, retriever: Retriever, top_n: int = 5, max_output: int = 8192, max_queries: int = 5) -> None:
        check_search_limits(top_n, max_output, max_queries)
        self._retriever, self._top_n, self._max_output, self._max_queries = retriever, top_n, max_output, max_queries

    async def __call__(self, **arguments: Any) -> ToolResult:
        """Search for ``arguments["query"]``.

        Raises:
            RetrieverError: the search itself failed.
        """
        started = time.perf_counter()
        given = arguments["query"]
        queries = given.splitlines() if isinstance(given, str) else given
        if not all(isinstance(query, str) for query in queries):
            return ToolResult("Error: 'query' must be a text, or a list of texts.", ok=False)
        queries = list(dict.fromkeys(query.strip() for query in queries if query.strip()))
        if not queries:
            return ToolResult("Error: the query is empty. Write what to search for.", ok=False)
        if len(queries) > self._max_queries:
            problem = f"Error: {len(queries)} queries in one call. At most {self._max_queries} are allowed."
            return ToolResult(problem, ok=False)
        found = await self._retriever.search(queries, self._top_n)
        text, dropped = self._text(queries, found)
        return ToolResult(text, True, "kept", time.perf_counter() - started, dropped)

    async def reset(self) -> None:
        """Do nothing: a search leaves no state."""

    async def close(self) -> None:
        """Do nothing: the retriever is its owner's to close."""

    def _text(self, queries: Sequence[str], found: Sequence[Sequence[Passage]]) -> tuple[str, int]:
        """Return what the model reads, and how many characters of passages it does not."""
        share = self._max_output // max(1, sum(map(len, found)))
        blocks, dropped = [], 0
        for query, passages in zip(queries, found, strict=True):
            if len(queries) > 1:
                blocks.append(f"Query: {bound(query, 200)[0]}")
            shown = []
            for number, passage in enumerate(passages, 1):
                text, missing = bound(f"[{number}] {passage.title}\n{passage.text}".rstrip(), max(1, share))
                shown.append(text)
                dropped += missing
            blocks.append("\n\n".join(shown) or _NOTHING)
        return "\n\n".join(blocks), dropped


def check_search_limits(top_n: Any, max_output: Any, max_queries: Any = 5) -> None:
    """Raise ``UsageError`` for a limit of the search tool that is not allowed."""
    for name, value in (("top_n", top_n), ("max_output", max_output), ("max_queries", max_queries)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UsageError(f"{name}={value!r} is not allowed. Allowed: an integer of at least 1.")
