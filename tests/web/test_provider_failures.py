"""Search providers when the service fails: what is tried again, what is said, and that the key is nowhere."""

from __future__ import annotations

import asyncio
import json
import logging
import time

import pytest

from aster_env.web.providers import PROVIDERS, open_provider, recorded
from tests.scripted_http import NEVER, http
from tests.web.search_server import HITS, KEY, Server, answer, ask, ask_all, fails, set_keys


@pytest.fixture(autouse=True)
def _keys(monkeypatch):
    set_keys(monkeypatch)


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
