"""What the tools that search have in common: several queries in a call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def search_schema(description: str) -> Mapping[str, Any]:
    """Return the function schema of a tool ``search`` that takes one query or several.

    Args:
        description: what it searches, and what it returns.
    """
    query = {
        "type": ["string", "array"],
        "items": {"type": "string"},
        "description": "What to search for: a few words, or several queries, one a line.",
    }
    return {
        "name": "search",
        "description": f"{description} Several queries can be sent at once, one a line.",
        "parameters": {"type": "object", "properties": {"query": query}, "required": ["query"]},
    }


def read_queries(given: Any, most: int) -> list[str] | str:
    """Return the different queries of a call, or what is wrong with it.

    Args:
        given: a text, each line a query, or a list.
        most: queries that are allowed.
    """
    queries = given.splitlines() if isinstance(given, str) else given
    if not all(isinstance(query, str) for query in queries):
        return "'query' must be a text, or a list of texts."
    queries = list(dict.fromkeys(query.strip() for query in queries if query.strip()))
    if not queries:
        return "the query is empty. Write what to search for."
    if len(queries) > most:
        return f"{len(queries)} queries in one call. At most {most} are allowed."
    return queries
