"""A network that counts what it reads, so that a server cannot send without end what is no part of a body."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from typing import Any

import httpcore


class Meter(httpcore.AsyncNetworkBackend):
    """A network backend around another; each of its connections reads at most so many bytes.

    Bounds on bodies do not see chunk extensions, interim responses and trailers.

    Args:
        backend: what connects.
        most: bytes of a connection, without TLS's own, until ``more`` is called.
    """

    def __init__(self, backend: httpcore.AsyncNetworkBackend, most: int) -> None:
        self._backend, self._most = backend, most

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect; see the backend for what it raises."""
        stream = await self._backend.connect_tcp(host, port, timeout, local_address, socket_options)
        return _Metered(stream, self._most)

    async def connect_unix_socket(self, *args: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        """Do as the backend does."""
        return await self._backend.connect_unix_socket(*args, **options)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await self._backend.sleep(seconds)


def more(response: httpcore.Response, size: int) -> None:
    """Let the connection of a response read ``size`` bytes more."""
    response.extensions["network_stream"].get_extra_info("metered").left += size


class _Metered(httpcore.AsyncNetworkStream):
    def __init__(self, stream: httpcore.AsyncNetworkStream, left: int) -> None:
        self._stream, self.left = stream, left

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self.left <= 0:
            raise httpcore.ReadError("it sent too much around the page")
        data = await self._stream.read(max_bytes, timeout)
        self.left -= len(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        return _Metered(await self._stream.start_tls(ssl_context, server_hostname, timeout), self.left)

    def get_extra_info(self, info: str) -> Any:
        return self if info == "metered" else self._stream.get_extra_info(info)
