"""The application: wire forms, health and metrics over one batcher."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from aster_env.errors import RetrieverError, UsageError
from aster_env.retrieval.base import Passage, Retriever
from aster_env.retrieval.server.batching import Batcher, Busy, Limits
from aster_env.retrieval.server.meters import Meters
from aster_env.retrieval.wire import Asked, wire_of

MAX_BODY = 16 * 2**20
"""Bytes of a request's body; a training step of 2,560 questions takes 1 MB."""

READING = 10.0
"""Seconds that a client has to send its body."""

GONE = 499
"""The status that is counted where the client left before its answer."""


class Service:
    """One retriever behind HTTP.

    Args:
        retriever: closed with the application.
        limits: how requests are gathered.
        failed: called with the error, where loading fails.
        max_body: bytes of a request's body.
        reading: seconds that a client has to send it.
    """

    def __init__(
        self,
        retriever: Retriever,
        limits: Limits | None = None,
        failed: Callable[[Exception], None] | None = None,
        max_body: int = MAX_BODY,
        reading: float = READING,
    ) -> None:
        self._retriever, self._limits, self.failed = retriever, limits or Limits(), failed
        self._max_body, self._reading = max_body, reading
        self.meters = Meters()
        self.error: Exception | None = None
        self.ready = asyncio.Event()
        self.batcher: Batcher | None = None

    def app(self) -> Starlette:
        """Return the application; it loads the retriever when it starts, and closes it when it ends."""
        posts = [Route(path, self.answer, methods=["POST"]) for path in ("/search", "/batch_search", "/retrieve")]
        gets = [Route("/health", self.health), Route("/metrics", self.metrics)]
        return Starlette(routes=[*posts, *gets], lifespan=self._lifespan)

    async def health(self, _: Request) -> Response:
        """Tell loading and failure from ready."""
        if self.error is not None:
            return JSONResponse({"status": "failed", "detail": str(self.error)}, 500)
        if self.batcher is None or not self.ready.is_set():
            return JSONResponse({"status": "loading"}, 503, {"retry-after": "1"})
        retrievers = {"total": 1, "available": 0 if self.batcher.full else 1}
        return JSONResponse({"status": "healthy", "retrievers": retrievers, "source": dict(self._retriever.source)})

    async def metrics(self, _: Request) -> Response:
        """Everything that is counted."""
        return Response(self.meters.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def answer(self, request: Request) -> Response:
        """Answer a request of any form."""
        started = time.perf_counter()
        form = "unread"
        try:
            async with asyncio.timeout(self._reading):
                body = await self._body(request)
            wire = wire_of(request.url.path, body)
            form = wire.name
            asked = wire.decode(body)
            found = await self._search(request, asked)
            response = Response(wire.render(asked, found), media_type=wire.media_type)
        except TimeoutError:
            response = _refusal(408, f"The body did not arrive within {self._reading:.0f} s.")
        except _TooLarge:
            response = _refusal(413, f"The body is larger than {self._max_body} bytes. Fix: send several requests.")
        except UsageError as error:
            response = _refusal(400, str(error))
        except Busy as error:
            response = _refusal(503, str(error), retry_after=error.seconds)
        except ClientDisconnect:
            response = Response(status_code=GONE)
        except RetrieverError as error:
            response = _refusal(500, str(error))
        self.meters.request(form, response.status_code, time.perf_counter() - started)
        return response

    async def _body(self, request: Request) -> bytes:
        if int(request.headers.get("content-length", "0")) > self._max_body:
            raise _TooLarge
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > self._max_body:
                raise _TooLarge
            parts.append(part)
        return b"".join(parts)

    async def _search(self, request: Request, asked: Asked) -> list[list[Passage]]:
        """Search, unless the client leaves first."""
        if self.error is not None:
            raise RetrieverError(f"The retriever could not be loaded: {self.error}")
        if self.batcher is None or not self.ready.is_set():
            raise Busy(1.0)
        search = asyncio.ensure_future(self.batcher.search(asked.queries, asked.n))
        gone = asyncio.ensure_future(request.receive())
        try:
            await asyncio.wait({search, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not search.done():
                raise ClientDisconnect
            return search.result()
        finally:
            search.cancel()
            gone.cancel()

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self.batcher = Batcher(self._retriever, self._limits, self.meters)
        self.meters.watch(lambda: self.batcher.depth if self.batcher else 0)
        loading = asyncio.create_task(self._load(self.batcher))
        try:
            yield
        finally:
            loading.cancel()
            await self.batcher.close()

    async def _load(self, batcher: Batcher) -> None:
        try:
            await batcher.load()
        # /health and the command tell it; the application itself has nobody to raise it to.
        except Exception as error:  # noqa: BLE001
            self.error = error
            if self.failed:
                self.failed(error)
        else:
            self.ready.set()


class _TooLarge(Exception):
    """The body is larger than is allowed."""


def _refusal(status: int, text: str, retry_after: float | None = None) -> Response:
    headers = {} if retry_after is None else {"retry-after": str(math.ceil(retry_after))}
    if status in (408, 413):
        # What is left of the body must not be taken for the next request.
        headers["connection"] = "close"
    # As the published servers word a refusal; half of a surrogate pair would not encode.
    body = json.dumps({"detail": text}, ensure_ascii=True).encode()
    return Response(body, status, headers, media_type="application/json")
