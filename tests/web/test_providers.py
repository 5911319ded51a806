"""Search providers against a server on this machine that speaks each of their forms, and fails as servers do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
import traceback
import unicodedata
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aster_env.errors import UnknownNameError, UsageError, WebError
from aster_env.web.providers import PROVIDERS, Hit, Provider, bing_search, open_provider, recorded
from aster_env.web.providers.remote import MAX_ADDRESS, MAX_SNIPPET, MAX_TITLE, is_address
from aster_env.web.record import ReplayMissError
from tests.rewards.judge_server import NEVER, http

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


class Server:
    """Answers in turn with ``replies``, and after them with the last."""

    def __init__(self, *replies):
        self.replies, self.heads, self.bodies, self.open, self.most = replies, [], [], 0, 0

    @contextlib.asynccontextmanager
    async def __call__(self):
        served = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{served.sockets[0].getsockname()[1]}"
        finally:
            served.close()
            await served.wait_closed()

    def query(self, n=-1):
        """The query that arrived."""
        if self.bodies[n]:
            return json.loads(self.bodies[n]).get("q") or json.loads(self.bodies[n])["query"]
        return parse_qs(urlsplit(self.heads[n].split(" ")[1]).query)["q"][0]

    async def _serve(self, reader, writer):
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
            self.bodies.append(await reader.readexactly(int(fields.get("content-length", 0))))
            self.heads.append(head)
            reply = self.replies[min(len(self.heads), len(self.replies)) - 1]
            if reply is NEVER:
                await reader.read()
            else:
                writer.write(reply)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1
            writer.close()


@pytest.fixture(autouse=True)
def _keys(monkeypatch):
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


def test_engines_that_did_not_answer_are_no_empty_result():
    text, _, server = fails("searxng", http(200, answer("searxng", [], unresponsive_engines=[["google", "CAPTCHA"]])))
    assert "CAPTCHA" in text
    assert len(server.heads) == 2
    some = http(200, answer("searxng", unresponsive_engines=[["google", "CAPTCHA"]]))
    assert ask("searxng", some)[0] == HITS


GARBAGE = {
    "no JSON": b"<html>We are down</html>",
    "empty": b"",
    "nested": b"[" * 100_000,
    "a list": b"[]",
    "null": b"null",
    "an error": b'{"error": "quota"}',
    "results of another kind": b'{"results": {}, "organic": 3, "web": [], "type": "search"}',
    "rows of another kind": b'{"results": [1], "organic": ["x"], "web": {"results": [null]}}',
    "no UTF-8": b"\xff\xfe\x00",
    "too long": b" " * (3 << 20),
    "number": b'{"results": ' + b"9" * 5000 + b"}",
}


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


@pytest.mark.parametrize("name", PROVIDERS)
def test_garbage_is_asked_again_and_then_a_failure(name):
    turns = [http(200, body) for garbage in GARBAGE.values() for body in (garbage, answer(name))]
    found, server = ask_all(name, *turns)
    assert found == [HITS] * len(GARBAGE)
    assert len(server.heads) == 2 * len(GARBAGE)
    errors, server = ask_all(name, *(http(200, garbage) for garbage in GARBAGE.values()), retries=0)
    assert len(errors) == len(GARBAGE)
    assert all("1 attempts" in str(error) and repr(name) in str(error) for error in errors)


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_failure_that_passes_is_waited_out(name):
    passing = [408, 425, 429, 500, 502, 503, 504, 529]
    found, _ = ask_all(name, *(http(*reply) for status in passing for reply in ((status, {}), (200, answer(name)))))
    assert found == [HITS] * len(passing)
    errors, _ = ask_all(name, *(http(status, {"detail": "later"}) for status in passing), retries=0)
    for status, error in zip(passing, errors, strict=True):
        assert f"HTTP {status}" in str(error)


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_refusal_is_not_asked_again_and_says_the_fix(name):
    refusing = [301, 302, 307, 400, 401, 402, 403, 404, 422, 432, 433]
    errors, _ = ask_all(name, *(http(status, {}, "Location: http://127.0.0.1:9/") for status in refusing))
    for status, error in zip(refusing, errors, strict=True):
        assert f"HTTP {status}" in str(error)
        assert "Fix: " in str(error)
        if (name, status) == ("searxng", 403):
            assert "formats: [html, json]" in str(error)
        elif status == 401 and name != "searxng":
            assert f"{name.upper()}_API_KEY" in str(error)


def test_the_pause_that_a_service_asks_for_is_kept():
    started = time.monotonic()
    hits, _ = ask("brave", http(429, {}, "Retry-After: 1"), http(200, answer("brave")))
    assert hits == HITS
    assert time.monotonic() - started >= 1
    started = time.monotonic()
    text, _, server = fails("brave", http(429, {}, "Retry-After: 60"))
    assert len(server.heads) == 1
    assert "after the time" in text
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("name", PROVIDERS)
def test_half_answers_and_dropped_connections_are_failures(name):
    for broken in (http(200, answer(name), cut=40), b"HTTP/1.1 200 OK\r\nConte", b""):
        hits, server = ask(name, broken, http(200, answer(name)))
        assert hits == HITS
        assert len(server.heads) == 2
        fails(name, broken)


def test_a_service_that_never_answers_costs_its_time_and_nothing_else():
    started = time.monotonic()
    text, _, server = fails("serper", NEVER, timeout=0.3)
    assert "within 0.3 s" in text
    assert time.monotonic() - started < 2
    assert server.open == 0


def test_a_search_that_is_given_up_frees_its_connection():
    server = Server(NEVER, http(200, answer("tavily")))

    async def go():
        async with server() as url:
            provider = open_provider("tavily", url=url, concurrency=1)
            asking = asyncio.create_task(provider.search("a", 1))
            while not server.heads:
                await asyncio.sleep(0.001)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            assert await provider.search("b", 1) == HITS[:1]
            await provider.close()

    asyncio.run(asyncio.wait_for(go(), 5))


def test_requests_at_once_are_bounded():
    server = Server(http(200, answer("serper")))

    async def go():
        async with server() as url:
            provider = open_provider("serper", url=url, concurrency=3)
            found = await asyncio.gather(*(provider.search(f"q{n}", 2) for n in range(12)))
            await provider.close()
            return found

    assert asyncio.run(go()) == [HITS] * 12
    assert server.most <= 3


@pytest.mark.parametrize("name", PROVIDERS)
def test_the_key_is_nowhere(name, caplog, tmp_path, capfd, monkeypatch):
    """The server repeats it in all its answers, in the spellings of JSON and addresses, and it is asked for."""
    if name == "searxng":
        monkeypatch.setenv("MY_KEY", KEY)
    options = {"key_variable": "MY_KEY"} if name == "searxng" else {}
    caplog.set_level(logging.DEBUG)
    escaped = json.dumps({"detail": KEY}).replace("/", "\\/").encode()
    quoted = "https://a.example/?k=tvly-Secret%2FKey%2B0123456789"
    rows = [(f"Title {KEY}", quoted, f"{KEY} {KEY}"), ("B", f"https://b.example/{KEY}", "x" * 1990 + KEY)]
    seen = []
    for reply in (http(500, escaped), http(401, {"e": KEY}), http(200, KEY.encode()), http(418, quoted.encode())):
        seen += fails(name, reply, **options)[:2]
    server = Server(http(200, answer(name, rows)))

    async def go():
        async with server() as url:
            provider = recorded(open_provider(name, url=url, **options), tmp_path, "record", name, [KEY])
            seen.append(repr(provider))
            seen.append(repr(await provider.search("who?", 5)))
            await provider.close()

    asyncio.run(go())
    assert KEY in server.heads[0]
    seen += [path.read_text("utf-8") for path in tmp_path.rglob("*") if path.is_file()]
    assert len(seen) >= 11
    everything = "".join([*seen, caplog.text, *map(str, capfd.readouterr())])
    assert "Secret" not in everything
    assert "***" in everything


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
