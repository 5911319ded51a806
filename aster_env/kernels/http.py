"""Calls to an HTTP service that runs code elsewhere: bounded answers, typed errors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.iostream import IOStream
from tornado.simple_httpclient import SimpleAsyncHTTPClient
from tornado.tcpclient import TCPClient

from aster_env.errors import KernelError, UsageError
from aster_env.kernels.messages import parse_json

_HINTS = {
    401: "the token is missing or wrong",
    403: "the token is missing or wrong, or the service's own bound on sessions is reached",
    404: "there is no such address: is the url that of the service's root?",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a service answered.

    Args:
        status: the HTTP status code.
        body: the first bytes of the body, up to the service's limit.
        dropped: bytes of the body beyond the limit that came before the connection was closed for it.
    """

    status: int
    body: bytes
    dropped: int = 0


def check_numbers(**values: float | None) -> None:
    """Check a pool's limits.

    Raises:
        UsageError: one of them is not above zero.
    """
    for name, value in values.items():
        if value is not None and not value > 0:
            raise UsageError(f"{name}={value!r} is not allowed. Allowed: a number above 0.")


class Service:
    """One HTTP service at a fixed address; belongs to the event loop that it is first called on.

    Args:
        name: what it is, for the texts of errors.
        url: its root, ``http://…`` or ``https://…``.
        token: sent as ``Authorization: token …`` if given.
        limit: bytes of an answer that are kept; the connection of a longer one is closed.

    Raises:
        UsageError: the url cannot be called.
    """

    def __init__(self, name: str, url: str, *, token: str | None = None, limit: int = 1 << 20) -> None:
        self.name, self.url, self.limit = name, _check_url(name, url), limit
        self.headers = {"Authorization": f"token {token}"} if token else {}
        self._open: set[_Connection] = set()
        self._closed = False

    async def call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, timeout: float = 30.0
    ) -> Answer:
        """Send a request, ``body`` as JSON, and return the answer whatever its status.

        Redirects are not followed, so the token goes nowhere else.

        Raises:
            KernelError: the service cannot be reached, did not answer in ``timeout`` seconds, or was closed here.
        """
        if self._closed:
            raise KernelError("The kernel pool is closed.")
        connection = _Connection()
        kept, dropped, line = bytearray(), 0, ""

        def keep(chunk: bytes) -> None:
            nonlocal dropped
            room = self.limit - len(kept)
            kept.extend(chunk[:room])
            if len(chunk) > room:
                dropped += len(chunk) - room
                connection.close()

        def note(header: str) -> None:
            nonlocal line
            line = line or header

        request = HTTPRequest(
            self.url + path,
            method,
            headers={**self.headers, "Content-Type": "application/json"},
            body=None if method in ("GET", "DELETE") else json.dumps(body or {}),
            connect_timeout=min(timeout, 20.0),
            request_timeout=timeout,
            follow_redirects=False,
            decompress_response=False,
            streaming_callback=keep,
            header_callback=note,
        )
        self._open.add(connection)
        try:
            response = await connection.client.fetch(request, raise_error=False)
            return Answer(response.code, bytes(kept))
        except (HTTPClientError, OSError) as error:
            if self._closed:
                raise KernelError("The kernel pool is closed.") from error
            if dropped:
                return Answer(int(line.split()[1]), bytes(kept), dropped)
            raise self.unreachable(error) from error
        finally:
            self._open.discard(connection)
            connection.close()

    def unreachable(self, error: BaseException) -> KernelError:
        """Return the error for a service that gave no answer."""
        return KernelError(
            f"The {self.name} at {self.url} cannot be reached ({type(error).__name__}: {error}). "
            "Fix: start it, or pass its address as url."
        )

    def refused(self, answer: Answer, action: str) -> KernelError:
        """Return the error for an answer whose status says no."""
        hint = _HINTS.get(answer.status)
        text = answer.body[:300].decode("utf-8", "replace").strip()
        return KernelError(
            f"The {self.name} at {self.url} did not {action}: status {answer.status}"
            + (f" ({hint})" if hint else "")
            + (f", {text!r}." if text else ".")
        )

    def parse(self, answer: Answer) -> dict[str, Any]:
        """Return the JSON object in an answer.

        Raises:
            KernelError: it is none.
        """
        try:
            parsed = parse_json(answer.body)
        except ValueError as error:
            raise KernelError(f"The {self.name} at {self.url} answered no JSON ({error}).") from error
        if not isinstance(parsed, dict):
            raise KernelError(f"The {self.name} at {self.url} answered a {type(parsed).__name__}, not an object.")
        return parsed

    def close(self) -> None:
        """End what is under way; calling it twice is harmless."""
        self._closed = True
        for connection in tuple(self._open):
            connection.close()


class _Connection(TCPClient):
    """The connection of one call, which can be closed in its middle: tornado's client leaves it open until its end."""

    def __init__(self) -> None:
        super().__init__()
        # Not the class that AsyncHTTPClient is configured to: curl's has no bound on the body.
        self.client = SimpleAsyncHTTPClient(force_instance=True, max_body_size=1 << 62)
        self.client.tcp_client.close()
        self.client.tcp_client = self
        self._streams: list[IOStream] = []
        self._closed = False

    async def connect(self, *args: Any, **options: Any) -> IOStream:
        stream = await super().connect(*args, **options)
        self._streams.append(stream)
        if self._closed:
            stream.close()
        return stream

    def close(self) -> None:
        self._closed = True
        for stream in self._streams:
            stream.close()
        super().close()


def _check_url(name: str, url: str) -> str:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query and not parts.fragment
        good = good and parts.port != 0
    except (ValueError, TypeError, AttributeError):
        good = False
    if not good:
        raise UsageError(
            f"url={url!r} is not the address of a {name}. Allowed: http://HOST:PORT or https://HOST:PORT, with the "
            "path of its root if it has one. Fix: pass url='http://127.0.0.1:8888', say."
        )
    return url.rstrip("/")
