"""Results in the shape of Bing's web search API v7, for programs that were written for it."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from aster_env.web.providers.base import Provider


async def bing_search(provider: Provider, query: str, n: int = 10) -> dict[str, Any]:
    """Return what Bing's API, which was shut in August 2025, answered: ``{"webPages": {"value": [...]}, ...}``.

    Tool-Star's search adapter keeps this shape over Tavily; here any provider can stand behind it. As Bing did, an
    answer without results has no ``webPages``.

    Args:
        provider: such as ``open_provider("tavily")``.
        query: what to search for.
        n: results at most.

    Raises:
        WebError: the search itself failed.
    """
    hits = await provider.search(query, n)
    answer: dict[str, Any] = {"_type": "SearchResponse", "queryContext": {"originalQuery": query}}
    if not hits:
        return answer
    rows = [
        {
            "id": f"https://api.bing.microsoft.com/api/v7/#WebPages.{number}",
            "name": hit.title,
            "url": hit.url,
            "displayUrl": hit.url,
            "siteName": urlsplit(hit.url).hostname,
            "snippet": hit.snippet,
        }
        for number, hit in enumerate(hits)
    ]
    return {**answer, "webPages": {"totalEstimatedMatches": len(rows), "value": rows}}
