"""The service on a real socket: published exchanges, batches, overload, and clients that mean harm."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from aster_env.cli import main
from aster_env.errors import RetrieverError, UsageError
from aster_env.listening import listen
from aster_env.retrieval.base import Passage
from aster_env.retrieval.corpus import CorpusInfo, write_corpus
from aster_env.retrieval.lexical import build_lexical
from aster_env.retrieval.server.batching import Limits
from tests.retrieval.serving import WordRetriever, connect, get, post, raw, read, served, until

TOWER = {"id": "0", "contents": '"Ostrava Tower"\nThe tower of Ostrava is 85 m high.'}
BRIDGE = {"id": "2", "contents": "A text about Tower bridges, “quoted” and ünïcode."}


@pytest.fixture(scope="module")
def url():
    with served(WordRetriever()) as (url, _):
        yield url


def ask(url, query, n=3):
    return post(url, "/retrieve", {"queries": [query], "topk": n, "return_scores": True})


def metric(url, name) -> float:
    lines = get(url, "/metrics")[2].decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name) and "_created" not in line)


def test_health_is_the_published_one_with_the_corpus_besides(url):
    status, _, body = get(url, "/health")
    told = json.loads(body)
    assert status == 200
    assert (told["status"], told["retrievers"]) == ("healthy", {"total": 1, "available": 1})
    assert told["source"] == dict(WordRetriever.source)


def test_tool_stars_exchange_is_byte_for_byte_the_published_one(url):
    status, headers, body = post(url, "/search", b'{"query": "Ostrava tower", "top_n": 5}')
    assert (status, headers["content-type"]) == (200, "application/json")
    assert body == json.dumps([TOWER, BRIDGE], ensure_ascii=False, separators=(",", ":")).encode()
    scored = post(url, "/search", b'{"query": "Ostrava tower", "top_n": 5, "return_score": true}')[2]
    assert json.loads(scored) == [[TOWER, BRIDGE], [1.0, 0.5]]
    assert json.loads(post(url, "/batch_search", b'{"query": ["Ostrava", "zzz"]}')[2]) == [[TOWER], []]
    status, _, body = post(url, "/search", b'{"query": "  "}')
    assert status == 400
    assert json.loads(body)["detail"].startswith("Query content cannot be empty")


def test_search_r1s_and_skyrls_exchange_is_the_published_one(url):
    body = b'{"queries": ["Ostrava tower", "zzz", ""], "topk": 1, "return_scores": true}'
    for headers in ((), ("Content-Type: application/json", "Accept: application/json")):
        answer = post(url, "/retrieve", body, headers)[2]
        assert json.loads(answer) == {"result": [[{"document": TOWER, "score": 1.0}], [], []]}
    assert post(url, "/retrieve", b'{"queries": [], "topk": 3, "return_scores": true}')[2] == b'{"result":[]}'


def test_gems_exchange_is_the_published_one(url):
    body = b"\x83\xa7queries\x91\xa7Ostrava\xa4topk\x03\xadreturn_scores\xc3"
    status, headers, answer = post(url, "/retrieve", body)
    assert (status, headers["content-type"]) == (200, "application/msgpack")
    assert msgspec.msgpack.decode(answer) == {"result": [[{"document": TOWER, "score": 0.5}]]}


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/retrieve", b"{", 400, "not JSON"),
        ("/retrieve", b"\x81\xa1", 400, "not MessagePack"),
        ("/retrieve", b'{"queries": ["a"], "top_k": 1}', 400, "Did you mean 'topk'"),
        ("/batch_search", b'{"query": "a"}', 400, "Allowed: text"),
        ("/search", b"[" * 10_000, 400, "Fix: "),
    ],
)
def test_a_wrong_request_is_refused_with_the_fix(url, path, body, status, said):
    got, _, answer = post(url, path, body)
    assert got == status
    assert said in json.loads(answer)["detail"]


def test_garbage_and_unknown_paths_are_refused(url):
    assert raw(url, b"\x16\x03\x01garbage\r\n\r\n")[0] == 400
    assert get(url, "/nowhere")[0] == 404
    assert get(url, "/retrieve")[0] == 405
    assert ask(url, "Ostrava")[0] == 200


def test_a_body_that_is_too_large_is_refused_whether_it_says_so_or_not():
    with served(WordRetriever(), max_body=1000) as (url, _):
        assert raw(url, b"POST /search HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")[0] == 413
        chunked = b"POST /search HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert raw(url, chunked + b"400\r\n" + b"x" * 1024 + b"\r\n")[0] == 413
        assert ask(url, "Ostrava")[0] == 200


def test_a_client_that_sends_half_a_body_is_told_and_holds_nobody_up():
    with served(WordRetriever(), reading=0.3) as (url, _):
        head = b"POST /search HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
        with connect(url) as slow, connect(url) as leaving:
            slow.sendall(head)
            leaving.sendall(head)
            leaving.close()
            assert ask(url, "Ostrava")[0] == 200
            status, headers, _ = read(slow)
        assert (status, headers["connection"]) == (408, "close")


def test_health_tells_loading_and_a_request_is_put_off_until_then():
    retriever = WordRetriever()
    retriever.gate.clear()
    with served(retriever, ready=False) as (url, _):
        status, headers, body = get(url, "/health")
        assert (status, headers["retry-after"], json.loads(body)) == (503, "1", {"status": "loading"})
        status, headers, _ = ask(url, "Ostrava")
        assert (status, headers["retry-after"]) == (503, "1")
        retriever.gate.set()
        until(lambda: get(url, "/health")[0] == 200)
        assert ask(url, "Ostrava")[0] == 200
    assert retriever.closed == 1
    assert retriever.threads == {"aster-retriever"}


def test_a_retriever_that_cannot_be_loaded_is_told():
    retriever = WordRetriever()
    retriever.failure = RetrieverError("no index")
    with served(retriever, ready=False) as (url, _):
        until(lambda: get(url, "/health")[0] == 500)
        assert json.loads(get(url, "/health")[2]) == {"status": "failed", "detail": "no index"}
        assert ask(url, "Ostrava")[0] == 500


def test_what_a_retriever_raises_is_a_failure_and_the_service_goes_on():
    retriever = WordRetriever()
    with served(retriever) as (url, _):
        for failure in (RetrieverError("disk gone"), ValueError("half \ud800 a pair"), UsageError("its own")):
            retriever.failure = failure
            status, _, body = ask(url, "Ostrava")
            assert status == 500
            assert str(failure) in json.loads(body)["detail"]
        retriever.failure = None
        assert ask(url, "Ostrava")[0] == 200


def test_waiting_queries_become_one_search_and_equal_ones_one_query():
    retriever = WordRetriever()
    with served(retriever) as (url, service), ThreadPoolExecutor(24) as threads:
        retriever.gate.clear()
        first = threads.submit(ask, url, "held")
        until(lambda: retriever.batches[-1] == ["held"])
        others = [threads.submit(ask, url, f"tower {n % 10}") for n in range(20)]
        until(lambda: service.batcher.depth == 10)
        assert metric(url, "aster_retrieval_queue_depth") == 10
        until(lambda: metric(url, 'aster_retrieval_queries_total{answered="shared"}') == 10)
        retriever.gate.set()
        assert {answer.result()[0] for answer in [first, *others]} == {200}
        assert [sorted(batch) for batch in retriever.batches[2:]] == [[f"tower {n}" for n in range(10)]]
        assert metric(url, "aster_retrieval_batch_size_count") == 2
        assert metric(url, 'aster_retrieval_requests_total{form="search-r1",status="200"}') == 21


def test_an_answer_is_cached_for_its_query_and_number_and_no_more_than_allowed():
    retriever = WordRetriever()
    with served(retriever, Limits(window=0.0, cache=4)) as (url, _):
        one, again = ask(url, "tower", 1)[2], ask(url, "tower", 1)[2]
        assert one == again
        assert metric(url, 'aster_retrieval_queries_total{answered="cache"}') == 1
        assert len(json.loads(ask(url, "tower", 2)[2])["result"][0]) == 2
        assert retriever.batches[1:] == [["tower"], ["tower"]]
        ask(url, "tower", 1)
        assert len(retriever.batches) == 4


def test_an_overloaded_service_says_when_to_come_back_and_recovers():
    retriever = WordRetriever()
    with served(retriever, Limits(window=0.0, batch=2, queue=4)) as (url, service), ThreadPoolExecutor(8) as threads:
        retriever.gate.clear()
        waiting = [threads.submit(ask, url, "held")]
        until(lambda: retriever.batches[-1] == ["held"])
        waiting += [threads.submit(ask, url, f"tower {n}") for n in range(4)]
        until(lambda: service.batcher.depth == 4)
        status, headers, body = ask(url, "one more")
        assert (status, headers["retry-after"]) == (503, "1")
        assert "queue is full" in json.loads(body)["detail"]
        assert json.loads(get(url, "/health")[2])["retrievers"] == {"total": 1, "available": 0}
        status, _, body = post(url, "/retrieve", {"queries": [str(n) for n in range(5)]})
        assert status == 400
        assert "--queue" in json.loads(body)["detail"]
        retriever.gate.set()
        assert {answer.result()[0] for answer in waiting} == {200}
        assert ask(url, "one more")[0] == 200


def test_a_client_that_leaves_takes_its_query_out_of_the_queue():
    retriever = WordRetriever()
    with served(retriever) as (url, service), ThreadPoolExecutor(2) as threads:
        retriever.gate.clear()
        held = threads.submit(ask, url, "held")
        until(lambda: retriever.batches[-1] == ["held"])
        body = b'{"query": "tower"}'
        with connect(url) as leaving:
            leaving.sendall(b"POST /search HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            until(lambda: service.batcher.depth == 1)
        until(lambda: service.batcher.depth == 0)
        retriever.gate.set()
        assert held.result()[0] == 200
        assert ask(url, "lake")[0] == 200
        assert ["tower"] not in retriever.batches
        assert metric(url, 'aster_retrieval_requests_total{form="toolstar",status="499"}') == 1


def test_the_window_gathers_and_a_full_batch_does_not_wait_for_it():
    retriever = WordRetriever()
    with served(retriever, Limits(window=1.0, batch=8)) as (url, service), ThreadPoolExecutor(8) as threads:
        started = time.monotonic()
        for turn in range(5):
            answers = [threads.submit(ask, url, f"tower {turn}")]
            until(lambda: service.batcher.depth == 1)
            answers += [threads.submit(ask, url, f"tower {turn} {n}") for n in range(7)]
            assert {answer.result()[0] for answer in answers} == {200}
        assert time.monotonic() - started < 4.5
        assert [len(batch) for batch in retriever.batches[1:]] == [8] * 5


@pytest.mark.parametrize("limits", [{"window": 2}, {"window": float("nan")}, {"batch": 0}, {"queue": 3}, {"cache": -1}])
def test_a_limit_that_cannot_work_is_refused(limits):
    with pytest.raises(UsageError, match=r"Allowed: .*Fix: "):
        Limits(**limits)


def command(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "aster_env.cli", "serve", "retrieval", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def test_the_command_serves_a_corpus_and_finishes_what_is_under_way_at_sigterm(tmp_path):
    passages = [Passage("a", "Ostrava", "A tower of brick."), Passage("b", "Mirin", "A lake of salt.")]
    corpus = write_corpus(tmp_path / "corpus", passages, CorpusInfo("two", "test", "CC0-1.0"))
    build_lexical(corpus)
    with command(corpus.folder, "--port", 0, "--window", 500) as process:
        url = process.stdout.readline().split()[2]
        assert process.stdout.readline() == "Ready.\n"
        assert json.loads(get(url, "/health")[2])["source"]["sha256"] == corpus.info.sha256
        body = b'{"query": "brick tower"}'
        with connect(url) as waiting:
            waiting.sendall(b"POST /search HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            until(lambda: metric(url, "aster_retrieval_queue_depth") == 1)
            process.send_signal(signal.SIGTERM)
            status, _, answer = read(waiting)
        assert (status, json.loads(answer)[0]["id"]) == (200, "a")
        assert process.wait(20) == 0
        assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "There is no corpus"),
        (["--kind", "lexcal"], "Did you mean 'lexical'"),
        (["--batch", "0"], "The batch is 0"),
        (["--encoder", "x"], "--kind dense"),
    ],
)
def test_the_command_refuses_what_cannot_work(tmp_path, capsys, arguments, said):
    assert main(["serve", "retrieval", str(tmp_path), *arguments]) == 2
    assert said in capsys.readouterr().err


def test_an_address_that_cannot_be_listened_on_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for host, number in (("127.0.0.1", port), ("127.0.0.1", 65536), ("no.such.host.invalid", 0)):
            with pytest.raises(UsageError, match=r"Fix: .* 0 "):
                listen(host, number)


def test_small_packets_are_not_held_back():
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
