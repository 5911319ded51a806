"""Which addresses may be reached: every name is resolved once, checked, and that very address connected to."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import re
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpcore
import httpx

from aster_env.errors import UsageError, WebError
from aster_env.web.base import PageError, shown

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""``(host, port) -> addresses`` as text; raises ``socket.gaierror``."""

PORTS = (80, 443, 8080, 8443)
MAX_URL = 4096
"""Characters of an address."""

_HOST = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
_INNER_NAMES = re.compile(r"(.*\.)?(localhost|local|internal|intranet|lan|home\.arpa|in-addr\.arpa|ip6\.arpa|onion)")
_CLOSED = tuple(
    ipaddress.ip_network(text)
    for text in (
        # What ``is_global`` leaves open, by release of Python or because it is public: metadata of Azure, relays.
        *("0.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "168.63.129.16/32", "192.0.0.0/24", "192.88.99.0/24"),
        *("198.18.0.0/15", "224.0.0.0/3", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16"),
    )
)
_UNICAST, _NAT64 = ipaddress.IPv6Network("2000::/3"), ipaddress.IPv6Network("64:ff9b::/96")
_PROBE = "example.com"
_MOST_ADDRESSES, _CONNECT_SECONDS = 4, 5.0
_DOUBTS = 8
"""Hosts that cannot be reached, with none that could, before the network itself is doubted."""
_DOWN_SECONDS = 30.0
"""How long a network that was found to be down is not tried again."""


def is_public(address: str) -> bool:
    """Whether an IP address, as text, belongs to the public internet.

    An IPv4 address inside an IPv6 one (mapped, or by NAT64) is judged as what it is. Tunnels that carry an address
    inside (6to4, Teredo, IPv4-compatible) and whatever cannot be read are not public.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.scope_id is not None:
            return False
        inner = parsed.ipv4_mapped
        if parsed in _NAT64:
            inner = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if parsed not in _UNICAST:
            return False
    closed = any(parsed.version == network.version and parsed in network for network in _CLOSED)
    return parsed.is_global and not (closed or parsed.is_multicast or parsed.is_reserved)


class Guard(httpcore.AsyncNetworkBackend):
    """A network backend that connects to public addresses, and to what is allowed by name.

    One resolution serves both the check and the connection, so a name that changes its address in between (DNS
    rebinding) gains nothing; a name with a single address that is not public is refused. Host and TLS server name
    stay the name's. It does not protect services on the public internet from being visited.

    Args:
        allow: exact ``(host, port)`` pairs, as written in an address, that may be reached wherever they resolve to.
        ports: the ports that may be reached elsewhere.
        resolver: instead of the system's.
        backend: instead of plain TCP.

    Raises:
        UsageError: a value is not allowed.
    """

    def __init__(
        self,
        allow: Iterable[tuple[str, int]] = (),
        ports: Iterable[int] = PORTS,
        resolver: Resolver | None = None,
        backend: httpcore.AsyncNetworkBackend | None = None,
    ) -> None:
        self._allow = frozenset((host.lower().strip("[]"), port) for host, port in allow)
        self._ports = frozenset(ports)
        for port in self._ports | {port for _, port in self._allow}:
            if not isinstance(port, int) or not 0 < port < 65536:
                raise UsageError(f"Port {port!r} is not allowed. Fix: a number from 1 to 65535, such as 443.")
        self._resolver = resolver or self._system
        self._backend = backend or httpcore.AnyIOBackend()
        # The loop's own threads would be lost to whoever makes names that do not resolve.
        self._threads = ThreadPoolExecutor(16, "aster-dns")
        # Hosts in vain; None once a connection has shown that there is a network.
        self._in_vain: set[str] | None = set()
        self._probing, self._down_until = asyncio.Lock(), 0.0

    def check(self, url: str) -> httpx.URL:
        """Return an address that may be asked for, parsed and without its fragment.

        Raises:
            PageError: it is not of the web, carries a user or password, or names a host or port that is refused.
        """
        if len(url) > MAX_URL:
            raise PageError(f"The address is longer than {MAX_URL} characters.")
        try:
            parsed = httpx.URL(url.strip())
            host = parsed.raw_host.decode("ascii").lower()
            port = _port(parsed)
        except (httpx.InvalidURL, ValueError) as error:
            raise PageError(f"{shown(url)!r} is not an address of the web.") from error
        if parsed.scheme not in ("http", "https"):
            raise PageError(f"{shown(url)!r} cannot be visited: only http and https addresses can.")
        if parsed.userinfo:
            raise PageError("An address with a user name or password in it cannot be visited.")
        name = host.removesuffix(".")
        if not (_HOST.fullmatch(name) and len(name) < 254) and not _is_ipv6(host):
            raise PageError(f"{shown(url)!r} is not an address of the web: it names no host.")
        if (host, port) not in self._allow:
            if _INNER_NAMES.fullmatch(name):
                raise PageError(f"{shown(name)!r} is not a host of the public web.")
            if port not in self._ports:
                allowed = ", ".join(map(str, sorted(self._ports)))
                raise PageError(f"{shown(url)!r} cannot be visited: only the ports {allowed} can.")
        return parsed.copy_with(fragment=None)

    def allows(self, url: httpx.URL) -> bool:
        """Whether an address, checked before, is at a host and port allowed by name."""
        return (url.raw_host.decode("ascii").lower(), _port(url)) in self._allow

    async def addresses(self, host: str, port: int) -> list[str]:
        """Return the addresses of a host, all of them checked; at least one.

        Raises:
            PageError: there is no such host, or one of its addresses is refused.
            WebError: no name can be resolved here.
        """
        allowed = (host.lower(), port) in self._allow
        try:
            found = list(dict.fromkeys(await self._resolver(host, port)))
        except (OSError, UnicodeError) as error:
            if getattr(error, "errno", 0) == socket.EAI_AGAIN and not await self._resolves():
                raise WebError(f"No name can be resolved ({error}). Fix: the machine's network, or replay.") from error
            raise PageError(f"There is no host {shown(host)!r}.", lasting=False) from error
        if not found:
            raise PageError(f"There is no host {shown(host)!r}.")
        if not allowed and not all(map(is_public, found)):
            # Which address it was tells of the network inside.
            raise PageError(f"{shown(host)!r} is not a host of the public web.")
        return found[:_MOST_ADDRESSES]

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to one of a host's addresses; see ``addresses`` for what it raises.

        A network that lets nothing out looks like hosts that do not exist. After eight of them with no connection
        ever, one to a well-known host is tried; without it no page is to blame.
        """
        if (host.lower(), port) in self._allow or self._in_vain is None:
            return await self._connect(host, port, timeout, local_address, socket_options)
        if len(self._in_vain) >= _DOUBTS:
            await self._probe()
        try:
            stream = await self._connect(host, port, timeout, local_address, socket_options)
        # A page's time may end while it waits for a connection.
        except (asyncio.CancelledError, httpcore.NetworkError, httpcore.TimeoutException, PageError) as error:
            if self._in_vain is not None and not (isinstance(error, PageError) and error.lasting):
                self._in_vain.add(host)
            raise
        self._in_vain = None
        return stream

    async def _probe(self) -> None:
        """Raise ``WebError`` where not even a well-known host can be connected to."""
        async with self._probing:
            if self._in_vain is None:
                return
            if time.monotonic() > self._down_until:
                try:
                    found = await self._resolver(_PROBE, 443)
                    stream = await self._backend.connect_tcp(found[0], 443, _CONNECT_SECONDS)
                except (OSError, LookupError, httpcore.NetworkError, httpcore.TimeoutException):
                    self._down_until = time.monotonic() + _DOWN_SECONDS
                else:
                    self._in_vain = None
                    await stream.aclose()
                    return
        raise WebError(
            f"None of {len(self._in_vain)} hosts could be reached, nor {_PROBE}. Fix: the machine's network, or replay."
        )

    async def _connect(
        self,
        host: str,
        port: int,
        timeout: float | None,
        local_address: str | None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None,
    ) -> httpcore.AsyncNetworkStream:
        bound, last = min(timeout or _CONNECT_SECONDS, _CONNECT_SECONDS), None
        for address in await self.addresses(host, port):
            try:
                return await self._backend.connect_tcp(address, port, bound, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                last = last if ":" in address and last else error
        assert last is not None
        if _has_no_network(last):
            raise WebError("There is no route to the internet. Fix: the machine's network, or replay.") from last
        raise last

    async def connect_unix_socket(self, *args: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        """Refuse: no page is behind one."""
        raise PageError("Only addresses of the web can be visited.")

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    def close(self) -> None:
        """End the resolving threads; a resolution under way is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _system(self, host: str, port: int) -> Sequence[str]:
        def resolve() -> list[str]:
            return [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]

        return await asyncio.get_running_loop().run_in_executor(self._threads, resolve)

    async def _resolves(self) -> bool:
        """Whether the resolver works: a name's servers that do not answer look as if it did not."""
        try:
            return bool(await self._resolver(_PROBE, 443))
        except OSError as error:
            return error.errno != socket.EAI_AGAIN


def _port(url: httpx.URL) -> int:
    return {"http": 80, "https": 443}.get(url.scheme, 0) if url.port is None else url.port


def _is_ipv6(host: str) -> bool:
    try:
        return ipaddress.IPv6Address(host).scope_id is None
    except ValueError:
        return False


def _has_no_network(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENETUNREACH, errno.ENETDOWN):
            return True
        error = error.__cause__ or error.__context__
    return False
