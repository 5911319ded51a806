"""`aster serve retrieval`: a retrieval service as a process."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any

from aster_env.errors import AsterError, MissingExtraError, UsageError, check_name

STOPPING = 10
"""Seconds that requests under way have after SIGTERM."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `aster serve retrieval`."""
    parser.add_argument("corpus", help="a corpus' folder")
    parser.add_argument("--kind", default="lexical", help="lexical (default) or dense")
    parser.add_argument("--encoder", help="of a dense retriever: a model's folder; without it, the index's own")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    parser.add_argument("--port", type=int, default=1243, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--queue", type=int, default=4096, help="most queries that wait (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="most queries in a search (default: %(default)s)")
    parser.add_argument("--window", type=float, default=5.0, help="ms that a batch gathers (default: %(default)s)")
    parser.add_argument("--cache", type=int, default=100_000, help="passages kept of answers (default: %(default)s)")
    parser.set_defaults(run=retrieval)


def retrieval(options: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT; 1 if the retriever could not be loaded."""
    try:
        import uvicorn  # noqa: F401

        from aster_env.retrieval.server.app import Service
        from aster_env.retrieval.server.batching import Limits
    except ImportError as error:
        raise MissingExtraError(error.name or "uvicorn", "serve", "`aster serve retrieval`") from error
    from aster_env.retrieval import open_retriever

    kind = check_name("kind of retriever", options.kind, ("lexical", "dense"))
    limits = Limits(options.window / 1000, options.batch, options.queue, options.cache)
    if options.encoder is not None and kind != "dense":
        raise UsageError(f"--encoder={options.encoder!r} has no use for a {kind} retriever. Fix: add --kind dense.")
    more = {} if options.encoder is None else {"encoder": options.encoder}
    retriever = open_retriever(kind, corpus=options.corpus, **more)
    listener = listen(options.host, options.port)
    with contextlib.closing(listener):
        return asyncio.run(_serve(Service(retriever, limits), listener))


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        UsageError: the address is not this machine's, or the port is taken or not allowed.
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"--port={port} is not allowed. Fix: 1 to 65535, or 0 for a free one.")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise UsageError(
            f"--host={host!r} --port={port} cannot be listened on: {error}. Fix: --port 0 takes a free one."
        ) from error
    # Accepted connections inherit it. Event loops set it only where a socket names its protocol, which this one does
    # not; without it, an answer's second packet waits 40 ms for the client's acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


async def _serve(service: Any, listener: socket.socket) -> int:
    import uvicorn

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            # Its own raises SIGTERM again once all is closed: the process would end as if it had been killed.
            yield

    config = uvicorn.Config(
        service.app(), log_level="warning", access_log=False, timeout_graceful_shutdown=STOPPING, lifespan="on"
    )
    server = Server(config)

    def stop() -> None:
        server.force_exit = server.should_exit
        server.should_exit = True

    def fail(_: Exception) -> None:
        server.should_exit = True

    service.failed = fail
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    _announce(listener)
    telling = asyncio.create_task(_tell(service))
    try:
        await server.serve(sockets=[listener])
    finally:
        telling.cancel()
    if service.error is not None:
        kind = "" if isinstance(service.error, AsterError) else f"{type(service.error).__name__}: "
        sys.stderr.write(f"aster: The retriever could not be loaded: {kind}{service.error}\n")
        return 1
    return 0


async def _tell(service: Any) -> None:
    await service.ready.wait()
    sys.stdout.write("Ready.\n")
    sys.stdout.flush()


def _announce(listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    sys.stdout.write(f"Listening on http://{shown}:{port} (loading)\n")
    sys.stdout.flush()
    if not ipaddress.ip_address(host).is_loopback:
        sys.stderr.write("aster: whoever can reach this address can search: the service asks for no password.\n")
