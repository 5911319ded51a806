"""Search providers against a service on this machine: what is asked, what comes back, what is refused."""

from __future__ import annotations

import asyncio
import json
import unicodedata
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aster_env.errors import UnknownNameError, UsageError, WebError
from aster_env.web.providers import PROVIDERS, Hit, Provider, bing_search, open_provider, recorded
from aster_env.web.providers.remote import MAX_ADDRESS, MAX_SNIPPET, MAX_TITLE, is_address
from aster_env.web.record import ReplayMissError
from tests.scripted_http import http
from tests.web.search_server import HITS, KEY, ROWS, Server, answer, ask, set_keys


@pytest.fixture(autouse=True)
def _keys(monkeypatch):
    set_keys(monkeypatch)


@pytest.mark.parametrize("name", PROVIDERS)
def test_each_form_is_spoken(name):
    hits, server = ask(name, http(200, answer(name)), query="Größe & höhe", n=2)
    assert hits == HITS
    assert server.query() == "Größe & höhe"
    line = server.heads[0].split("\r\n")[0]
    starts = {"brave": "GET /web/search?", "searxng": "GET /search?"}
    assert line.startswith(starts.get(name, "POST /search HTTP"))
    sent = {
        "tavily": f"\r\nAuthorization: Bearer {KEY}\r\n".lower(),
        "serper": f"\r\nX-API-KEY: {KEY}\r\n".lower(),
        "brave": f"\r\nX-Subscription-Token: {KEY}\r\n".lower(),
        "searxng": "\r\n\r\n",
    }
    assert sent[name] in server.heads[0].lower()
    assert server.heads[0].count(KEY) == (name != "searxng")
    assert KEY.encode() not in server.bodies[0]
    if name == "searxng":
        assert "format=json" in line
        assert "authorization" not in server.heads[0].lower()


def test_tavily_takes_the_key_in_the_body_too():
    hits, server = ask("tavily", http(200, answer("tavily")), key_in_body=True)
    assert hits == HITS
    assert json.loads(server.bodies[0])["api_key"] == KEY
    assert KEY not in server.heads[0]
    with pytest.raises(UsageError, match="tavily"):
        open_provider("serper", key_in_body=True)


@pytest.mark.parametrize("name", PROVIDERS)
def test_nothing_found_is_no_failure(name):
    hits, server = ask(name, http(200, answer(name, [])))
    assert hits == []
    assert len(server.heads) == 1


def test_brave_without_markup():
    rows = [("A <strong>b</strong> &amp; c", "https://a.example/", "It&#x27;s <strong>so</strong> &lt;b&gt;")]
    assert ask("brave", http(200, answer("brave", rows)))[0] == [Hit("A b & c", "https://a.example/", "It's so <b>")]


def test_a_missing_key_is_said_before_anything_is_asked(monkeypatch):
    monkeypatch.delenv("TAVILY_API_KEY")
    with pytest.raises(UsageError, match=r"'TAVILY_API_KEY' holds none\. Fix"):
        open_provider("tavily")
    with pytest.raises(UsageError, match="'OTHER'"):
        open_provider("tavily", key_variable="OTHER")
    monkeypatch.setenv("OTHER", f"{KEY}\r\nX: y")
    with pytest.raises(UsageError, match="OTHER") as caught:
        open_provider("tavily", key_variable="OTHER")
    assert "Secret" not in str(caught.value)


def test_what_cannot_work_is_refused():
    with pytest.raises(UnknownNameError, match="Did you mean 'tavily'"):
        open_provider("tavilly")
    with pytest.raises(UsageError, match="needs url="):
        open_provider("searxng")
    for url in ("127.0.0.1:8080", "ftp://h/", "http://", "http://h:99999", "http://h/\nx"):
        with pytest.raises(UsageError, match="url"):
            open_provider("searxng", url=url)
    for url in ("http://user:geheim@h/", "http://h/?key=geheim", "http://h/#geheim"):
        with pytest.raises(UsageError) as caught:
            open_provider("searxng", url=url)
        assert "geheim" not in str(caught.value)
    for options in ({"timeout": 0}, {"timeout": float("nan")}, {"retries": -1}, {"concurrency": 0}):
        with pytest.raises(UsageError, match="Fix"):
            open_provider("tavily", **options)
    for n in (0, -1, 101):
        with pytest.raises(UsageError, match=f"n={n}"):
            ask("tavily", http(200, answer("tavily")), n=n)


def test_the_address_may_be_the_root_or_the_whole():
    for url in ("http://h:1", "http://h:1/", "http://h:1/search", "http://h:1/search/"):
        assert open_provider("searxng", url=url).url == "http://h:1"
    assert open_provider("brave").url == "https://api.search.brave.com/res/v1"
    assert all(isinstance(open_provider(name, url="http://h"), Provider) for name in PROVIDERS)


@pytest.mark.parametrize("name", PROVIDERS)
def test_no_query_is_too_long_or_too_strange(name):
    _, server = ask(name, http(200, answer(name)), query="wörd\x00\n " * 3000 + "\ud800")
    query = server.query()
    assert "\x00" not in query
    assert 50 * 5 - 1 <= len(query) <= 2000
    if name == "brave":
        assert len(query) <= 400
        assert len(query.split()) <= 50
    for empty in ("", " \n", "\x00\u200b"):
        hits, server = ask(name, http(500, {}), query=empty)
        assert hits == []
        assert server.heads == []


@pytest.mark.parametrize("name", PROVIDERS)
def test_results_are_bounded_plain_and_of_the_web(name):
    bad = [
        "javascript:alert(1)",
        "file:///etc/passwd",
        "data:text/html,x",
        "ftp://a.example/",
        "//a.example/",
        "http://",
        "http://user:pw@a.example/",
        "http://a.example:99999/",
        "http://a.example/\nX: y",
        "http://a.example/\u202egpj",
        "http://a.example/\ud800",
        "http://a.example\\@b.example/",
        "http://[::1",
        "",
        "https://a.example/" + "x" * MAX_ADDRESS,
    ]
    rows = [("T", url, "s") for url in bad]
    rows += [
        ("x" * 99_999, "https://a.example/long", "y" * 99_999),
        ("A\x00\x1b[31m\u202eB\nC", "HTTPS://B.example", "\ud800z"),
    ]
    rows += [("again", "https://a.example/long", "no")]
    rows += [("", f"https://c.example/{n}", "") for n in range(200)]
    hits, _ = ask(name, http(200, answer(name, rows)), n=50)
    assert len(hits) == 50
    assert not {hit.url for hit in hits} & set(bad)
    assert len({hit.url for hit in hits}) == 50
    assert len(hits[0].title) == MAX_TITLE + 1
    assert len(hits[0].snippet) == MAX_SNIPPET + 1
    assert hits[1] == Hit("A [31m B C", "HTTPS://B.example", "z")
    assert hits[2].title == "https://c.example/0"


def test_missing_and_wrong_fields_are_empty_texts():
    rows = [{"url": "https://a.example/"}, {"url": 3, "title": "x"}, {"url": "https://b.example/", "content": None}]
    hits, _ = ask("tavily", http(200, {"results": rows}))
    assert hits == [Hit(url, url, "") for url in ("https://a.example/", "https://b.example/")]


@given(st.text(max_size=60), st.sampled_from(["", "http://", "https://", "http://a.example/"]))
@settings(max_examples=150, deadline=None)
def test_what_passes_as_an_address_is_one(text, start):
    if is_address(start + text):
        parts = urlsplit(start + text)
        assert parts.scheme in ("http", "https")
        assert parts.hostname
        assert not any(c.isspace() or unicodedata.category(c) in ("Cc", "Cs") for c in start + text)
        assert "@" not in parts.netloc


def test_bing_v7s_shape():
    class Local:
        async def search(self, query, n):
            return HITS[:n] if query == "who?" else []

        async def close(self):
            pass

    found = asyncio.run(bing_search(Local(), "who?", 2))
    assert [(page["name"], page["url"], page["snippet"]) for page in found["webPages"]["value"]] == ROWS
    assert found["queryContext"] == {"originalQuery": "who?"}
    assert found["webPages"]["value"][0]["siteName"] == "a.example"
    assert json.loads(json.dumps(found)) == found
    assert "webPages" not in asyncio.run(bing_search(Local(), "else", 2))


def test_a_recording_replays_without_service_and_key(tmp_path, monkeypatch):
    server = Server(http(200, answer("tavily")), http(200, answer("tavily", [])), http(403, {}))

    async def record():
        async with server() as url:
            provider = recorded(open_provider("tavily", url=url), tmp_path, "record", "tavily")
            found = [await provider.search(query, 2) for query in ("one", "none")]
            with pytest.raises(WebError):
                await provider.search("refused", 2)
            await provider.close()
            return found

    async def replay():
        provider = recorded(None, tmp_path, "replay", "tavily")
        found = [await provider.search(query, 2) for query in ("one", "none")]
        for query, n in (("refused", 2), ("one", 3)):
            with pytest.raises(ReplayMissError, match="Fix"):
                await provider.search(query, n)
        await provider.close()
        with pytest.raises(ReplayMissError):
            await recorded(None, tmp_path, "replay", "serper").search("one", 2)
        return found

    assert asyncio.run(record()) == [HITS, []]
    monkeypatch.delenv("TAVILY_API_KEY")
    assert asyncio.run(replay()) == [HITS, []]
    assert len(server.heads) == 3
    with pytest.raises(UsageError, match="mode='record'"):
        recorded(None, tmp_path / "none", "replay", "tavily")
    with pytest.raises(UsageError, match="source"):
        recorded(None, tmp_path, "record", "tavily")
