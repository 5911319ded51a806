"""How four search services are asked, and where their answers hold the results."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from aster_env.endpoints import Transient

Request = tuple[str, Mapping[str, Any] | None]
"""What is appended to a service's address, and the body of a POST; None for a GET."""

_DECORATION = re.compile("</?(?:strong|b|em)>")


@dataclass(frozen=True, slots=True)
class Wire:
    """A service's form.

    Args:
        url: its address; "" where everybody runs their own.
        path: where it is asked, below the address.
        key_variable: environment variable with the key; "" where none is needed.
        header: the name of the key's header, and the header's text around the key.
        request: the query string and the body for a query and a number of results.
        rows: the results in an answer, None for an answer of another form; raises ``Transient`` for a failure in it.
        fields: what titles, addresses and snippets are called.
        most: results of one request.
        characters, words: of a query at most; a service refuses longer ones.
        fixes: what to do about a status, where it is not the usual.
        marked_up: whether texts hold HTML's entities and emphasis.
        body_key: the field of the body that may hold the key instead of the header; "" for none.
    """

    url: str
    path: str
    key_variable: str
    header: tuple[str, str]
    request: Callable[[str, int], Request]
    rows: Callable[[Mapping[str, Any]], Any]
    fields: tuple[str, str, str]
    most: int
    characters: int
    words: int
    fixes: Mapping[int, str]
    marked_up: bool = False
    body_key: str = ""

    def plain(self, text: str) -> str:
        """Return a title or snippet without the service's own markup."""
        return html.unescape(_DECORATION.sub("", text)) if self.marked_up else text


def _serper_rows(answer: Mapping[str, Any]) -> Any:
    # It leaves out what is empty.
    return answer.get("organic", [] if "searchParameters" in answer else None)


def _brave_rows(answer: Mapping[str, Any]) -> Any:
    web = answer.get("web")
    if web is None:
        return [] if answer.get("type") == "search" else None
    return web.get("results", []) if isinstance(web, Mapping) else None


def _searxng_rows(answer: Mapping[str, Any]) -> Any:
    rows, silent = answer.get("results"), answer.get("unresponsive_engines")
    if rows == [] and silent:
        raise Transient("no results, but engines that did not answer", said=silent)
    return rows


def _get(parameters: Mapping[str, Any]) -> Request:
    return f"?{urlencode(parameters)}", None


_USED_UP = "see the plan's limits: its requests are used up"

WIRES: Mapping[str, Wire] = {
    "tavily": Wire(
        url="https://api.tavily.com",
        path="/search",
        key_variable="TAVILY_API_KEY",
        header=("Authorization", "Bearer {}"),
        request=lambda query, n: ("", {"query": query, "max_results": n, "search_depth": "basic"}),
        rows=lambda answer: answer.get("results"),
        fields=("title", "url", "content"),
        most=20,
        characters=400,
        words=400,
        fixes={432: _USED_UP, 433: _USED_UP},
        body_key="api_key",
    ),
    "serper": Wire(
        url="https://google.serper.dev",
        path="/search",
        key_variable="SERPER_API_KEY",
        header=("X-API-KEY", "{}"),
        request=lambda query, n: ("", {"q": query, "num": n}),
        rows=_serper_rows,
        fields=("title", "link", "snippet"),
        most=100,
        characters=2000,
        words=400,
        fixes={},
    ),
    "brave": Wire(
        url="https://api.search.brave.com/res/v1",
        path="/web/search",
        key_variable="BRAVE_API_KEY",
        header=("X-Subscription-Token", "{}"),
        request=lambda query, n: _get({"q": query, "count": n, "text_decorations": "false", "result_filter": "web"}),
        rows=_brave_rows,
        fields=("title", "url", "description"),
        most=20,
        characters=400,
        words=50,
        fixes={402: _USED_UP, 422: "see what it says: it answers 422 to a key that it does not know, too"},
        marked_up=True,
    ),
    "searxng": Wire(
        url="",
        path="/search",
        key_variable="",
        header=("Authorization", "Bearer {}"),
        request=lambda query, n: _get({"q": query, "format": "json"}),
        rows=_searxng_rows,
        fields=("title", "url", "content"),
        most=100,
        characters=1000,
        words=400,
        fixes={403: "let the instance answer in JSON: 'formats: [html, json]' under 'search:' of its settings.yml"},
    ),
}
"""The services by name. Sources: their API references, and the search API of docs.searxng.org."""
