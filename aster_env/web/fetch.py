"""Getting a page from a server that may be hostile, within bounds of time, bytes and addresses."""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import Iterable
from dataclasses import dataclass

import httpcore
import httpx

from aster_env.errors import UsageError, WebError
from aster_env.web.base import Fetched, PageError, shown
from aster_env.web.guard import PORTS, Guard
from aster_env.web.inflate import Inflater
from aster_env.web.meter import Meter, more
from aster_env.web.robots import MAX_ROBOTS, Robots

AGENT = "aster-gym"
MAX_REDIRECTS = 5
MAX_HEADERS = 64 * 1024
"""Bytes of a response's headers."""
MAX_PARTS = 2**15
"""Chunks of a body that are read; what a server sends byte by byte is cut."""

_HEADERS = (
    (b"User-Agent", f"{AGENT}/0.1 (research agent; reads single pages)".encode()),
    (b"Accept", b"text/html, application/xhtml+xml, application/pdf;q=0.9, text/*;q=0.8, */*;q=0.1"),
    (b"Accept-Language", b"en, *;q=0.5"),
    (b"Accept-Encoding", b"gzip, deflate"),
    (b"Connection", b"close"),
)
_READABLE = (
    "application/xhtml+xml",
    "application/pdf",
    "application/json",
    "application/xml",
    "application/octet-stream",
)


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: httpx.Headers
    body: bytes
    truncated: bool


class Fetcher:
    """Gets pages: over a guarded network, with every redirect checked like an address of its own.

    It keeps no cookie, sends no credentials and no referrer, and heeds no proxy of the environment. A redirect from
    https to http is not followed; its target is named. Each page has a connection of its own, so nothing that a server
    sends beyond its answer reaches another. HTML and text above ``max_bytes`` are cut, a PDF is refused.
    A fetcher belongs to the event loop that it is first used on.

    Args:
        allow: exact ``(host, port)`` pairs that may be reached though they are not public.
        seconds: for a page in all: names, robots.txt, redirects and body.
        max_bytes: of a body, as it was sent and as it was before compression. Of all that is sent with it, twice that.
        concurrency: most pages at once; others wait, without their time running.
        robots: whether robots.txt is respected. It is not asked for at an allowed host.
        guard: instead of one made from ``allow``; the fetcher closes it.
        tls: instead of the usual certificate check.

    Raises:
        UsageError: a value is not allowed.
        MissingExtraError: protego, which reads robots.txt, is not installed.
    """

    def __init__(
        self,
        allow: Iterable[tuple[str, int]] = (),
        seconds: float = 15.0,
        max_bytes: int = 8 * 2**20,
        concurrency: int = 64,
        robots: bool = True,
        guard: Guard | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        if not seconds > 0 or max_bytes < 1 or concurrency < 1:
            raise UsageError(
                f"seconds={seconds!r}, max_bytes={max_bytes!r} and concurrency={concurrency!r} are not all allowed. "
                "Fix: each above 0, such as 15, 8388608 and 64."
            )
        self._guard = guard or Guard(allow, PORTS)
        self._seconds, self._max_bytes = seconds, max_bytes
        self._slots = asyncio.Semaphore(concurrency)
        self._robots = Robots(self._robots_file, AGENT) if robots else None
        self._tls = tls
        self._pool: httpcore.AsyncConnectionPool | None = None
        self._closed = False

    async def get(self, url: str) -> Fetched:
        """Return what is at an address, after redirects.

        Raises:
            PageError: the page cannot be had.
            WebError: the machine has no network, or the fetcher is closed.
        """
        self._guard.check(url)
        async with self._slots:
            if self._closed:
                raise WebError("The fetcher is closed. Fix: open another.")
            try:
                async with asyncio.timeout(self._seconds):
                    where, answer = await self._follow(url, self._max_bytes, self._robots)
            except TimeoutError as error:
                text = f"{shown(url)!r} did not arrive within {self._seconds:g} s."
                raise PageError(text, lasting=False) from error
        if not 200 <= answer.status < 300:
            lasting = answer.status < 500 and answer.status not in (408, 425, 429)
            raise PageError(f"The server answered with status {answer.status} for {shown(str(where))!r}.", lasting)
        content_type = answer.headers.get("content-type", "")[:200]
        return Fetched(str(where), answer.status, content_type, answer.body, answer.truncated)

    async def close(self) -> None:
        """Close the connections."""
        self._closed = True
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.aclose()
        self._guard.close()

    async def _robots_file(self, url: str) -> tuple[int, bytes]:
        _, answer = await self._follow(url, MAX_ROBOTS, None)
        return answer.status, answer.body

    async def _follow(self, url: str, most: int, robots: Robots | None) -> tuple[httpx.URL, _Answer]:
        where, seen = self._guard.check(url), set[str]()
        for _ in range(MAX_REDIRECTS + 1):
            if str(where) in seen:
                raise PageError(f"{shown(url)!r} redirects in a circle.")
            seen.add(str(where))
            if robots is not None and not self._guard.allows(where):
                await robots.check(str(where.copy_with(raw_path=b"/")).rstrip("/"), str(where))
            answer = await self._request(where, most)
            target = answer.headers.get("location", "")
            if answer.status not in (301, 302, 303, 307, 308) or not target:
                return where, answer
            where = self._target(where, target)
        raise PageError(f"{shown(url)!r} redirects more than {MAX_REDIRECTS} times.")

    def _target(self, where: httpx.URL, target: str) -> httpx.URL:
        try:
            joined = str(where.join(target))
        except (httpx.InvalidURL, ValueError) as error:
            raise PageError(f"{shown(str(where))!r} redirects to what is no address of the web.") from error
        checked = self._guard.check(joined)
        if where.scheme == "https" and checked.scheme == "http":
            raise PageError(
                f"{shown(str(where))!r} redirects from https to an unprotected address, which is not followed: "
                f"{shown(str(checked))}"
            )
        return checked

    async def _request(self, url: httpx.URL, most: int) -> _Answer:
        if self._pool is None:
            self._pool = httpcore.AsyncConnectionPool(
                ssl_context=self._tls or _usual_tls(),
                max_connections=None,
                max_keepalive_connections=0,
                # Room for the headers, and for what is read along with them.
                network_backend=Meter(self._guard, 2 * MAX_HEADERS),
            )
        target = httpcore.URL(
            scheme=url.raw_scheme,
            host=url.raw_host,
            port=url.port or {"https": 443}.get(url.scheme, 80),
            target=url.raw_path,
        )
        headers = [(b"Host", url.netloc), *_HEADERS]
        try:
            async with self._pool.stream("GET", target, headers=headers) as response:
                return await self._read(response, most)
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            text = (
                f"The server of {shown(str(url))!r} could not be reached, or did not keep to HTTP ({_reason(error)})."
            )
            raise PageError(text, lasting=False) from error

    async def _read(self, response: httpcore.Response, most: int) -> _Answer:
        if sum(len(name) + len(value) for name, value in response.headers) > MAX_HEADERS:
            raise PageError(f"The server's headers are larger than {MAX_HEADERS} bytes.")
        headers = httpx.Headers(response.headers)
        if not 200 <= response.status < 300:
            # Its body is read by nobody.
            return _Answer(response.status, headers, b"", False)
        kind = headers.get("content-type", "").split(";")[0].strip().lower()
        if kind and not kind.startswith("text/") and kind not in _READABLE and not kind.endswith(("+xml", "+json")):
            raise PageError(f"The page is of the type {shown(kind, 60)!r}, which has no text.")
        inflater = Inflater(headers.get("content-encoding", ""), most)
        sent = count = 0
        more(response, 2 * most)
        try:
            async for part in response.aiter_stream():
                sent, count = sent + len(part), count + 1
                inflater.feed(part)
                if inflater.full or sent > most or count == MAX_PARTS:
                    break
                if count % 256 == 0:
                    # Many small chunks come without a pause.
                    await asyncio.sleep(0)
            whole = not inflater.full and sent <= most and count < MAX_PARTS and inflater.finished
        except (httpcore.RemoteProtocolError, httpcore.ReadError):
            if not inflater.body:
                raise
            whole = False
        body = bytes(inflater.body)
        if not whole and (kind == "application/pdf" or body.startswith(b"%PDF-")):
            raise PageError(f"The PDF is broken off, or larger than {most} bytes.", lasting=inflater.full)
        return _Answer(response.status, headers, body, not whole)


@functools.cache
def _usual_tls() -> ssl.SSLContext:
    return httpx.create_ssl_context(trust_env=False)


def _reason(error: Exception) -> str:
    return shown(str(error), 80) or type(error).__name__
