"""Serving a site on loopback, and the guard that leads its host there and nowhere else."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterable, Sequence
from html import escape
from urllib.parse import parse_qs

import httpcore
import httpx

from aster_env.errors import WebError
from aster_env.web.base import PageError, shown
from aster_env.web.guard import Guard

from .markup import Frame, html, link
from .model import Served, Site
from .search import SiteSearch

_REASONS = {200: "OK", 301: "Moved Permanently", 302: "Found", 308: "Permanent Redirect", 404: "Not Found", 410: "Gone"}
_HEAD_SECONDS = 30.0


class SiteServer:
    """Serves a site over HTTP on a free port of loopback; ``async with`` opens and closes it.

    It belongs to the event loop that it was opened on.

    Args:
        site: what is served.

    Attributes:
        port: that it listens on; 0 before it was opened.
        requests: how many it has answered.
    """

    def __init__(self, site: Site) -> None:
        self.site, self.port, self.requests = site, 0, 0
        self._search = SiteSearch(site)
        self._frame = Frame(site.host)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        """The home page's address on loopback. Its stable address is ``site.url``; ``site_guard`` leads there."""
        return f"http://127.0.0.1:{self.port}/"

    async def __aenter__(self) -> SiteServer:
        await self.open()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Begin to listen.

        Raises:
            WebError: there is no port to listen on.
        """
        try:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024, limit=2**16)
        except OSError as error:
            raise WebError(f"The generated site cannot be served on loopback ({error}).") from error
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening, and end what is open; calling it twice is harmless."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for writer in list(self._open):
            writer.transport.abort()
        await server.wait_closed()

    def answer(self, target: str) -> Served:
        """Return what is at a path with its query."""
        target = target.partition("#")[0]
        path, _, query = target.partition("?")
        if path == "/search":
            return self._results(query)
        found = self.site.pages.get(target) or self.site.pages.get(path if query.startswith("utm_") else target)
        if found is not None:
            return found
        text = self._frame.page("Page not found", "<p>There is no such page, or no longer.</p>")
        return Served(404, body=text.encode())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            request = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _HEAD_SECONDS)
            words = request.partition(b"\r\n")[0].decode("latin-1").split(" ")
            writer.write(_response(self.answer(words[1]) if len(words) == 3 and words[0] == "GET" else Served(404)))
            self.requests += 1
            await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            # The other side went away, or spoke no HTTP.
            pass
        finally:
            self._open.discard(writer)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _results(self, query: str) -> Served:
        asked = " ".join(parse_qs(query[:500]).get("q", []))
        form = f'<form action="/search"><input name="q" value="{escape(asked)}"><button>Search</button></form>'
        hits = self._search.best(asked, 10)
        listed = "".join(f"<li>{link(hit.title, hit.url)}: {escape(hit.snippet)}</li>" for hit in hits)
        return html(self._frame.page("Search", f"{form}<ul>{listed}</ul>"))


def _response(served: Served) -> bytes:
    head = [f"HTTP/1.1 {served.status} {_REASONS.get(served.status, 'OK')}", f"Content-Length: {len(served.body)}"]
    head += [f"Content-Type: {served.content_type}"] * bool(served.body)
    head += [f"Location: {served.location}"] * bool(served.location)
    return "\r\n".join([*head, "Connection: close", "", ""]).encode("latin-1") + served.body


class _ToPort(httpcore.AnyIOBackend):
    """Connects to a port of loopback, whatever is asked for: only the site's host gets so far."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        return await super().connect_tcp("127.0.0.1", self._port, timeout, local_address, socket_options)


class _SiteGuard(Guard):
    def check(self, url: str) -> httpx.URL:
        """Refuse every other host at once, and as one that is not there."""
        parsed = super().check(url)
        if not super().allows(parsed):
            raise PageError(f"There is no host {shown(parsed.host)!r}.")
        return parsed

    def allows(self, url: httpx.URL) -> bool:
        """Say no, so that the site's robots.txt is asked for."""
        return False


def site_guard(server: SiteServer) -> Guard:
    """Return a guard that reaches an open server under its site's own host, port 80, and no other host at all."""
    host = server.site.host

    async def resolve(name: str, port: int) -> Sequence[str]:
        if (name.lower().removesuffix("."), port) != (host, 80):
            raise socket.gaierror(socket.EAI_NONAME, "not a host of the generated web")
        return ["127.0.0.1"]

    return _SiteGuard([(host, 80)], resolver=resolve, backend=_ToPort(server.port))
