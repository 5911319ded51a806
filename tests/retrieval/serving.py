"""A small retriever, and the real service on a real socket in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence

import uvicorn

from aster_env.retrieval.base import Passage
from aster_env.retrieval.server.app import Service
from aster_env.retrieval.server.batching import Limits

PASSAGES = [
    Passage("0", "Ostrava Tower", "The tower of Ostrava is 85 m high."),
    Passage("1", "Lake Mirin", "Lake Mirin freezes in winter."),
    Passage("2", "", "A text about Tower bridges, “quoted” and ünïcode."),
]


class WordRetriever:
    """Finds passages by shared words; can be held up, and can fail."""

    source: Mapping[str, str] = {"retriever": "words", "corpus": "three", "licence": "CC0-1.0", "sha256": "ab" * 32}

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.failure: BaseException | None = None
        self.closed = 0
        self.threads: set[str] = set()

    async def search(self, queries: Sequence[str], n: int = 5) -> list[list[Passage]]:
        self.batches.append(list(queries))
        self.threads.add(threading.current_thread().name)
        # Blocks its loop on purpose: the service must not suffer from it.
        self.gate.wait(20)
        if self.failure is not None:
            raise self.failure
        return [self._find(query)[:n] for query in queries]

    def _find(self, query: str) -> list[Passage]:
        words = set(query.lower().split())
        scored = [(len(words & set(p.contents.lower().replace('"', " ").split())), p) for p in PASSAGES]
        best = sorted((pair for pair in scored if pair[0]), key=lambda pair: (-pair[0], pair[1].id))
        return [Passage(p.id, p.title, p.text, score / 2) for score, p in best]

    async def close(self) -> None:
        self.closed += 1


@contextlib.contextmanager
def served(retriever, limits=None, ready=True, **options) -> Iterator[tuple[str, Service]]:
    """Serve ``retriever`` and yield the service's URL."""
    service = Service(retriever, limits or Limits(window=0.0), **options)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(service.app(), log_level="critical", lifespan="on", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        if ready:
            until(lambda: get(url, "/health")[0] == 200)
        yield url, service
    finally:
        retriever.gate.set()
        server.should_exit = True
        thread.join(20)
        listener.close()
        assert not thread.is_alive()


def until(holds, seconds=10.0) -> None:
    """Wait until ``holds()``."""
    tick = threading.Event()
    for _ in range(int(seconds / 0.01)):
        if holds():
            return
        tick.wait(0.01)
    raise AssertionError("it never came to hold")


def connect(url) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=15)


def raw(url, data: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send bytes on a connection of their own and read the answer."""
    with connect(url) as connection:
        connection.sendall(data)
        return read(connection)


def read(connection) -> tuple[int, dict[str, str], bytes]:
    with connection.makefile("rb") as file:
        status = int(file.readline().split()[1])
        headers = {}
        while line := file.readline().strip():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        return status, headers, file.read(int(headers.get("content-length", 0)))


def post(url, path, body, headers=()):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(data)}", *headers]
    return raw(url, "\r\n".join(lines).encode() + b"\r\n\r\n" + data)


def get(url, path):
    return raw(url, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
