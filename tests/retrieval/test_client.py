"""The http retriever against the real service, and against services that fail in every way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time

import pytest

from aster_env.errors import RetrieverError, UsageError
from aster_env.retrieval import Retriever, open_retriever
from aster_env.retrieval import client as module
from aster_env.retrieval.client import HttpRetriever
from aster_env.retrieval.server.batching import Limits
from aster_env.retrieval.wire import WIRES
from tests.retrieval.serving import PASSAGES, WordRetriever, served, until

GOOD = b'{"result":[[{"document":{"id":"1","contents":"x"},"score":0.5}]]}'


def search(url, queries=("tower",), n=5, **options):
    """Search once and close."""

    async def go():
        retriever = HttpRetriever(url, **options)
        try:
            return await retriever.search(list(queries), n), dict(retriever.source)
        finally:
            await retriever.close()

    return asyncio.run(go())


def answer(status=200, body=GOOD, **headers) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@contextlib.contextmanager
def scripted(*answers):
    """Serve bytes, one item a connection, the last for ever; an item may be a function of the connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    requests: list[bytes] = []

    def serve():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    requests.append(connection.recv(65536))
                    item = answers[min(len(requests), len(answers)) - 1]
                    with contextlib.suppress(OSError):
                        item(connection) if callable(item) else connection.sendall(item)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", requests
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(20)


@pytest.mark.parametrize("wire", WIRES)
def test_every_form_finds_what_the_service_finds(wire):
    with served(WordRetriever()) as (url, _):
        for given in (url, f"{url}/", url + WIRES[wire].path):
            found, source = search(given, ["Ostrava tower", "zzz", "", "half \ud800"], wire=wire)
            assert [[p.id for p in passages] for passages in found] == [["0", "2"], [], [], []]
            assert (found[0][0].title, found[0][0].text, found[0][0].score) == (*_parts(PASSAGES[0]), 1.0)
            assert source == {
                "retriever": "http",
                "url": url,
                "corpus": "three",
                "licence": "CC0-1.0",
                "sha256": "ab" * 32,
            }


def _parts(passage):
    return passage.title, passage.text


def test_it_is_opened_by_name_and_follows_the_protocol():
    retriever = open_retriever("http", url="http://127.0.0.1:1/", wire="gem")
    assert isinstance(retriever, Retriever)
    assert asyncio.run(retriever.search([])) == []
    asyncio.run(retriever.close())
    asyncio.run(retriever.close())
    with pytest.raises(UsageError, match="closed"):
        asyncio.run(retriever.search(["a"]))


def test_many_searches_at_once_share_a_pool_and_lose_none():
    async def go(url):
        retriever = HttpRetriever(url, concurrency=8)
        found = await asyncio.gather(*(retriever.search([f"tower {n}"], 1) for n in range(100)))
        await retriever.close()
        return found

    with served(WordRetriever(), Limits(window=0.002)) as (url, _):
        assert all(passages[0][0].id == "2" or passages[0][0].id == "0" for passages in asyncio.run(go(url)))


def test_a_refusal_for_the_moment_is_waited_out_as_long_as_the_service_says():
    busy = answer(503, b"{}", Retry_After="0")
    with scripted(busy, answer(429, b"", Retry_After="2"), b"", answer()) as (url, requests):
        started = time.monotonic()
        found, _ = search(url, wire="search-r1")
        assert found[0][0].text == "x"
        assert time.monotonic() - started >= 2
        assert [b"POST" in request for request in requests[:4]] == [True] * 4


def test_an_overloaded_service_is_asked_again_until_it_has_room():
    retriever = WordRetriever()

    async def go(url, service):
        client = HttpRetriever(url, retries=5)
        loop = asyncio.get_running_loop()
        retriever.gate.clear()
        held = asyncio.create_task(client.search(["held"]))
        await loop.run_in_executor(None, until, lambda: retriever.batches[-1] == ["held"])
        waiting = [asyncio.create_task(client.search([f"tower {n}"])) for n in range(4)]
        await loop.run_in_executor(None, until, lambda: b'status="503"' in service.meters.text())
        retriever.gate.set()
        found = await asyncio.gather(held, *waiting)
        await client.close()
        return found

    with served(retriever, Limits(window=0.0, batch=2, queue=2)) as (url, service):
        assert all(passages[0] for passages in asyncio.run(go(url, service))[1:])


def test_it_gives_up_after_its_retries_or_at_once_where_the_wait_would_outlast_the_deadline():
    with scripted(answer(500, b"the disk is gone", Retry_After="0")) as (url, requests):
        with pytest.raises(RetrieverError, match=r"failed 3 times .*status 500: 'the disk is gone'"):
            search(url, retries=2)
        assert len(requests) == 3
    with scripted(answer(503, b"", Retry_After="60")) as (url, requests):
        started = time.monotonic()
        with pytest.raises(RetrieverError, match="failed 1 times within 5 s"):
            search(url, timeout=5)
        assert time.monotonic() - started < 3
    with pytest.raises(RetrieverError, match="ConnectError"):
        search("http://127.0.0.1:1", retries=1)


def test_a_refusal_for_good_is_not_repeated():
    for status in (400, 404, 302):
        with scripted(answer(status, b'{"detail":"no"}', Location="/x")) as (url, requests):
            with pytest.raises(RetrieverError, match=f"refused the request with status {status}"):
                search(url)
            assert len(requests) == 1


def test_a_service_that_drips_or_says_nothing_is_left_at_the_deadline():
    def drip(connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(b" ")
                threading.Event().wait(0.05)

    def hush(connection):
        while connection.recv(4096):
            pass

    for item in (drip, hush):
        with scripted(item) as (url, _):
            started = time.monotonic()
            with pytest.raises(RetrieverError, match=r"did not answer within 0\.5 s"):
                search(url, timeout=0.5)
            assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"null", b'{"result":[]}', b'{"result":[[{"document":{}}]]}', b"[" * 100_000, b'{"error":"x"}'],
)
@pytest.mark.parametrize("wire", WIRES)
def test_an_answer_of_another_form_is_a_failure_that_names_the_service(wire, body):
    with scripted(answer(200, body)) as (url, _), pytest.raises(RetrieverError) as failed:
        search(url, wire=wire)
    assert url in str(failed.value)
    assert f"not of the form '{wire}'" in str(failed.value)
    assert len(str(failed.value)) < 500


def test_an_answer_without_end_is_cut_off(monkeypatch):
    monkeypatch.setattr(module, "MAX_ANSWER", 1000)
    with scripted(answer(200, b"x" * 5000)) as (url, _), pytest.raises(RetrieverError, match="larger than 1000"):
        search(url)


def test_a_service_with_another_health_or_none_still_answers():
    for health in (answer(404, b""), answer(200, b"[1"), answer(200, json.dumps({"source": {"corpus": 7}}).encode())):
        with scripted(answer(), health) as (url, requests):
            found, source = search(url, wire="search-r1")
            assert found[0][0].id == "1"
            assert source == {"retriever": "http", "url": url}
            assert requests[1].startswith(b"GET /health ")


def test_a_proxy_of_the_environment_is_not_used(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with scripted(answer()) as (url, _):
        assert search(url, wire="search-r1")[0][0][0].id == "1"


def test_a_password_in_the_url_is_sent_and_told_to_nobody():
    with scripted(answer()) as (url, requests):
        _, source = search(url.replace("http://", "http://me:secret@"), wire="search-r1")
        assert b"uthorization: Basic" in requests[0]
        assert source["url"] == url
    with pytest.raises(RetrieverError) as failed:
        search("http://me:secret@127.0.0.1:1", retries=0)
    assert "secret" not in str(failed.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"url": "127.0.0.1:8000"}, "http or https"),
        ({"url": "ftp://x"}, "http or https"),
        ({"url": "http://"}, "http or https"),
        ({"url": "http://x?y=1"}, "no query"),
        ({"url": None}, "not a URL"),
        ({"wire": "search_r1"}, "Did you mean 'search-r1'"),
        ({"timeout": 0}, "above 0"),
        ({"timeout": float("nan")}, "above 0"),
        ({"retries": -1}, "retries"),
        ({"concurrency": 0}, "concurrency"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_opened(options, said):
    with pytest.raises(UsageError, match=said):
        HttpRetriever(**{"url": "http://127.0.0.1:1", **options})


@pytest.mark.parametrize("n", [0, 1001])
def test_a_number_of_passages_that_no_service_gives_is_refused(n):
    with pytest.raises(UsageError, match="1 to 1000"):
        search("http://127.0.0.1:1", n=n)


def test_a_retriever_that_lacks_what_it_needs_says_so():
    with pytest.raises(UsageError, match="'http' lacks 'url'"):
        open_retriever("http")
