"""A search service on this machine that speaks each provider's form, and fails as services do."""

from __future__ import annotations

import asyncio
import json
import traceback
from urllib.parse import parse_qs, urlsplit

import pytest

from aster_env.errors import WebError
from aster_env.web.providers import Hit, open_provider
from tests.scripted_http import ScriptedServer

KEY = "tvly-Secret/Key+0123456789"
ROWS = [("One", "https://a.example/1?x=1&y=2", "First words."), ("Two", "http://b.example/", "Second words.")]
HITS = [Hit(*row) for row in ROWS]


def answer(name, rows=ROWS, **more):
    """What a service answers, with the fields that real ones have around the results."""
    if name == "tavily":
        found = [{"title": t, "url": u, "content": s, "score": 0.9, "raw_content": None} for t, u, s in rows]
        return {"query": "q", "answer": None, "images": [], "results": found, "response_time": 1.2, **more}
    if name == "serper":
        found = [{"title": t, "link": u, "snippet": s, "position": i + 1} for i, (t, u, s) in enumerate(rows)]
        given = {"searchParameters": {"q": "q", "type": "search", "engine": "google"}, "credits": 1, **more}
        return {**given, **({"organic": found} if found else {})}
    if name == "brave":
        found = [{"title": t, "url": u, "description": s, "language": "en"} for t, u, s in rows]
        given = {"type": "search", "query": {"original": "q"}, "mixed": {}, **more}
        return {**given, **({"web": {"type": "search", "results": found}} if found else {})}
    found = [{"title": t, "url": u, "content": s, "engine": "e", "score": 1.0} for t, u, s in rows]
    return {"query": "q", "number_of_results": 0, "results": found, "unresponsive_engines": [], **more}


class Server(ScriptedServer):
    """A search service."""

    def query(self, n=-1):
        """The query that arrived."""
        if self.bodies[n]:
            return json.loads(self.bodies[n]).get("q") or json.loads(self.bodies[n])["query"]
        return parse_qs(urlsplit(self.heads[n].split(" ")[1]).query)["q"][0]


def set_keys(monkeypatch):
    """Set every provider's key, and make the pauses between attempts short."""
    for variable in ("TAVILY_API_KEY", "SERPER_API_KEY", "BRAVE_API_KEY"):
        monkeypatch.setenv(variable, KEY)
    monkeypatch.setattr("aster_env.endpoints.FIRST_WAIT", 0.001)


def ask(name, *replies, query="who?", n=5, **options):
    """Search once; return the results, and the server."""
    server = Server(*replies)

    async def go():
        async with server() as url:
            provider = open_provider(name, url=url, **{"timeout": 5, **options})
            try:
                return await provider.search(query, n)
            finally:
                await provider.close()
                await provider.close()

    return asyncio.run(go()), server


def fails(name, *replies, **options):
    """Search once and fail; return the error's text, all that a log or a traceback would show of it, the server."""
    server = Server(*replies)

    async def go():
        async with server() as url:
            provider = open_provider(name, url=url, **{"timeout": 5, "retries": 1, **options})
            try:
                await provider.search("who?", 5)
            finally:
                await provider.close()

    with pytest.raises(WebError) as caught:
        asyncio.run(go())
    return str(caught.value), "".join(traceback.format_exception(caught.value)), server


def ask_all(name, *replies, **options):
    """Search once for each reply; return the results or the errors, and the server."""
    server = Server(*replies)

    async def go():
        async with server() as url:
            provider = open_provider(name, url=url, **{"timeout": 5, **options})
            found = []
            while len(server.heads) < len(replies):
                try:
                    found.append(await provider.search("who?", 5))
                except WebError as error:
                    found.append(error)
            await provider.close()
            return found

    return asyncio.run(go()), server
