"""A small internet on loopback: a hostile site at a public address, and a canary at every address that is not."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

import httpcore

from aster_env.web import Fetcher, Guard

PUBLIC, PUBLIC6 = "93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"
Answer = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]

GOOD = b"<html><head><title>Good</title></head><body><p>All is well.</p></body></html>"


def response(body: bytes = b"", status: str = "200 OK", **headers: str) -> bytes:
    """Return an answer with its length; a header's ``_`` stands for ``-``."""
    lines = {"Content-Type": "text/html; charset=utf-8", "Content-Length": str(len(body))}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode("latin-1") + body


def redirect(target: str, status: str = "302 Found") -> bytes:
    return response(b"", status, Location=target)


class Server:
    """Raw sockets: writes what ``answers`` says for a path, and keeps every request."""

    def __init__(self, answers: Mapping[str, Answer]) -> None:
        self.answers, self.requests, self.connections = dict(answers), list[bytes](), 0
        self.broken = 0

    async def start(self, tls=None) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self._server.close()
        await self._server.wait_closed()

    def paths(self) -> list[str]:
        return [request.split(b" ")[1].decode() for request in self.requests]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            self.requests.append(request)
            path = request.split(b" ")[1].decode().partition("?")[0]
            answer = self.answers.get(path, response(b"", "404 Not Found"))
            if callable(answer):
                await answer(writer)
            else:
                writer.write(answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            self.broken += 1
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


class Detour(httpcore.AnyIOBackend):
    """Leads public addresses to the site, all others to the canary, and remembers them."""

    def __init__(self, site: int, canary: int) -> None:
        super().__init__()
        self.site, self.canary, self.reached = site, canary, list[str]()

    async def connect_tcp(self, host, port, timeout=None, local_address=None, socket_options=None):
        self.reached.append(host)
        target = self.site if host in (PUBLIC, PUBLIC6) else self.canary
        return await super().connect_tcp("127.0.0.1", target, timeout, local_address, socket_options)


class Names:
    """A resolver: of a name with several answers each lookup gives the next; numbers are read as the system does."""

    def __init__(self, names: Mapping[str, Sequence[Sequence[str]]]) -> None:
        self.names = {name: list(answers) for name, answers in names.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        answers = self.names.get(host.removesuffix("."))
        if answers is None:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
            return [info[4][0] for info in found]
        return answers.pop(0) if len(answers) > 1 else answers[0]


NAMES = {
    "site.test": [[PUBLIC]],
    "other.test": [[PUBLIC]],
    "six.test": [[PUBLIC6]],
    "inner.test": [["10.1.2.3"]],
    "mixed.test": [[PUBLIC, "127.0.0.1"]],
    "mapped.test": [["::ffff:10.0.0.1"]],
    "nat64.test": [["64:ff9b::7f00:1"]],
    "link.test": [["fe80::1%1"]],
    "rebind.test": [[PUBLIC], ["127.0.0.1"]],
    "empty.test": [[]],
    "xn--bcher-kva.test": [[PUBLIC]],
}


class World:
    def __init__(self, answers: Mapping[str, Answer]) -> None:
        self.site, self.canary, self.names = Server({"/good": response(GOOD), **answers}), Server({}), Names(NAMES)

    def fetcher(self, allow=(), **options) -> Fetcher:
        self.detour = Detour(self.site.port, self.canary.port)
        guard = Guard(allow, resolver=self.names, backend=self.detour)
        return Fetcher(guard=guard, **{"seconds": 5.0, "robots": False, **options})


@contextlib.asynccontextmanager
async def world(answers: Mapping[str, Answer] | None = None, tls=None) -> AsyncIterator[World]:
    made = World(answers or {})
    await made.site.start(tls)
    await made.canary.start()
    try:
        yield made
    finally:
        await made.site.close()
        await made.canary.close()


def bomb(size: int) -> bytes:
    return gzip.compress(b"\x00" * size)
