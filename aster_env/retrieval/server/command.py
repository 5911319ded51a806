"""`aster serve retrieval`: a retrieval service as a process."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import sys
from typing import Any

from aster_env.errors import AsterError, MissingExtraError, UsageError, check_name
from aster_env.listening import announce, is_private, listen, serve

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


async def _serve(service: Any, listener: socket.socket) -> int:
    stopped, telling = asyncio.Event(), []
    service.failed = lambda _: stopped.set()

    def started() -> None:
        announce(listener, " (loading)")
        if not is_private(listener):
            sys.stderr.write("aster: whoever can reach this address can search: the service asks for no password.\n")
        telling.append(asyncio.create_task(_tell(service)))

    try:
        await serve(service.app(), listener, started, graceful=STOPPING, stopped=stopped)
    finally:
        for each in telling:
            each.cancel()
    if service.error is not None:
        kind = "" if isinstance(service.error, AsterError) else f"{type(service.error).__name__}: "
        sys.stderr.write(f"aster: The retriever could not be loaded: {kind}{service.error}\n")
        return 1
    return 0


async def _tell(service: Any) -> None:
    await service.ready.wait()
    sys.stdout.write("Ready.\n")
    sys.stdout.flush()
