"""A retriever behind a service that speaks one of the published wire forms."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any

from aster_env.errors import RetrieverError, UsageError, check_name
from aster_env.retrieval.base import Passage
from aster_env.retrieval.wire import WIRES
from aster_env.retrieval.wire_values import MOST_PASSAGES, msgpack, shown, valid

MAX_ANSWER = 64 * 2**20
"""Bytes of an answer; 100 queries with 100 passages each take about 10 MB."""

_PATHS = ("/retrieve", "/batch_search", "/search")
_FIRST_DELAY, _LONGEST_DELAY, _HEALTH_SECONDS = 0.2, 5.0, 2.0


class HttpRetriever:
    """Asks a retrieval service; every failure that it cannot wait out is a ``RetrieverError``.

    Connections are pooled, and no proxy of the environment is used. Refusals for the moment (429, 5xx) and broken
    connections are tried again, after the time that the service names or a growing one of random length.

    Args:
        url: of the service, with or without its path (``http://127.0.0.1:1243``, ``http://host:8000/retrieve``).
        wire: ``"toolstar"``, ``"search-r1"``, ``"gem"`` or ``"skyrl"``.
        timeout: seconds for a search, all attempts and waits together.
        retries: attempts after the first.
        concurrency: most requests at once.

    Raises:
        UsageError: a value is not allowed.
        MissingExtraError: what the form needs is not installed.
    """

    def __init__(
        self, url: str, wire: str = "toolstar", timeout: float = 30.0, retries: int = 3, concurrency: int = 64
    ) -> None:
        import httpx

        self._wire = WIRES[check_name("wire form", wire, WIRES)]
        if wire == "gem":
            msgpack()
        if not timeout > 0:
            raise UsageError(f"timeout={timeout!r} is not allowed. Fix: seconds above 0, such as 30.")
        if retries < 0 or concurrency < 1:
            raise UsageError(
                f"retries={retries!r} and concurrency={concurrency!r} are not allowed. Fix: retries of 0 or more, and "
                "a concurrency of 1 or more."
            )
        base = _base(url, httpx)
        # A password must reach neither a trajectory nor a log.
        self.url = str(base.copy_with(username=None, password=None)).rstrip("/")
        self._endpoint, self._health = (f"{str(base).rstrip('/')}{path}" for path in (self._wire.path, "/health"))
        self._timeout, self._retries, self._concurrency = timeout, retries, concurrency
        self._client: Any = None
        self._slots: asyncio.Semaphore | None = None
        self._corpus: dict[str, str] = {}
        self._asked_health = self._closed = False

    @property
    def source(self) -> Mapping[str, str]:
        """``retriever`` and ``url``; from the first search on, what the service tells of its corpus."""
        return {**self._corpus, "retriever": "http", "url": self.url}

    async def search(self, queries: Sequence[str], n: int = 5) -> list[list[Passage]]:
        """Return at most ``n`` passages for each query, in one request.

        Raises:
            RetrieverError: the service failed, was not reached in time, or answered something else.
            UsageError: ``n`` is not allowed, or the retriever is closed.
        """
        if not 1 <= n <= MOST_PASSAGES:
            raise UsageError(f"n={n!r} passages are not allowed. Fix: 1 to {MOST_PASSAGES}.")
        if not queries:
            return []
        self._open()
        assert self._slots is not None
        body = self._wire.encode([valid(query) for query in queries], n)
        deadline = time.monotonic() + self._timeout
        try:
            async with asyncio.timeout(self._timeout), self._slots:
                answer = await self._ask(body, deadline)
        except TimeoutError as error:
            raise RetrieverError(f"{self.url} did not answer within {self._timeout:g} s.") from error
        try:
            found = self._wire.parse(answer, len(queries))
        except ValueError as error:
            raise RetrieverError(
                f"The answer of {self.url} is not of the form {self._wire.name!r}: {error} Fix: the service's own "
                f"wire=, one of {', '.join(sorted(WIRES))}."
            ) from error
        await self._learn_source(deadline - time.monotonic())
        return [passages[:n] for passages in found]

    async def close(self) -> None:
        """Close the connections."""
        self._closed = True
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def _open(self) -> None:
        import httpx

        if self._closed:
            raise UsageError("The retriever is closed. Fix: open another.")
        if self._client is None:
            pool = httpx.Limits(max_connections=self._concurrency + 1, max_keepalive_connections=self._concurrency)
            # The total deadline of a search stands in for httpx's, which count each read anew.
            self._client = httpx.AsyncClient(trust_env=False, limits=pool, timeout=None, follow_redirects=False)
            self._slots = asyncio.Semaphore(self._concurrency)

    async def _ask(self, body: bytes, deadline: float) -> bytes:
        import httpx

        for attempt in range(self._retries + 1):
            delay = random.uniform(0.5, 1) * min(_LONGEST_DELAY, _FIRST_DELAY * 2**attempt)
            try:
                status, headers, answer = await self._post(body)
            except httpx.TransportError as error:
                cause = f"{type(error).__name__}: {error}".rstrip(": ")
            else:
                if status == 200:
                    return answer
                cause = f"status {status}: {shown(answer[:300].decode('utf-8', 'replace'))}"
                if status != 429 and status < 500:
                    raise RetrieverError(f"{self.url} refused the request with {cause}.")
                if (named := _retry_after(headers.get("retry-after"))) is not None:
                    # Not all at the same moment.
                    delay = named * random.uniform(1, 1.25)
            if attempt == self._retries or time.monotonic() + delay > deadline:
                break
            await asyncio.sleep(delay)
        raise RetrieverError(
            f"{self.url} failed {attempt + 1} times within {self._timeout:g} s, at last with {cause}. Fix: see whether "
            "the service runs and is not overloaded."
        )

    async def _post(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        headers = {"accept-encoding": "identity", **self._wire.headers}
        async with self._client.stream("POST", self._endpoint, content=body, headers=headers) as response:
            return response.status_code, response.headers, await self._read(response)

    async def _read(self, response: Any) -> bytes:
        parts, size = [], 0
        async for part in response.aiter_raw():
            size += len(part)
            if size > MAX_ANSWER:
                raise RetrieverError(f"The answer of {self.url} is larger than {MAX_ANSWER} bytes.")
            parts.append(part)
        return b"".join(parts)

    async def _learn_source(self, left: float) -> None:
        """Ask the service once what it searches in; no search fails for it."""
        import httpx

        if self._asked_health:
            return
        self._asked_health = True
        with contextlib.suppress(httpx.HTTPError, TimeoutError, ValueError, RetrieverError, RecursionError):
            async with (
                asyncio.timeout(min(_HEALTH_SECONDS, left)),
                self._client.stream("GET", self._health, headers={"accept-encoding": "identity"}) as response,
            ):
                told = json.loads(await self._read(response))
            source = told.get("source") if isinstance(told, dict) else None
            if isinstance(source, dict):
                known = {key: source.get(key) for key in ("corpus", "licence", "sha256")}
                self._corpus = {key: value[:200] for key, value in known.items() if isinstance(value, str)}


def _base(url: str, httpx: Any) -> Any:
    """Return the service's URL without the path of a form."""
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError) as error:
        raise UsageError(f"url={url!r} is not a URL: {error}. Fix: such as http://127.0.0.1:1243.") from error
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query or parsed.fragment:
        raise UsageError(
            f"url={url!r} is not allowed. Allowed: http or https, a host, no query. Fix: such as http://127.0.0.1:1243."
        )
    path = parsed.path.rstrip("/")
    for known in _PATHS:
        if path.endswith(known):
            path = path.removesuffix(known)
            break
    return parsed.copy_with(path=path or "/")


def _retry_after(value: str | None) -> float | None:
    """Return the seconds that a header names, None where it names none that can be read."""
    if value is None:
        return None
    with contextlib.suppress(ValueError):
        return max(0.0, float(value)) if value.strip().isdigit() else _until(value)
    return None


def _until(date: str) -> float:
    return max(0.0, parsedate_to_datetime(date).timestamp() - time.time())
