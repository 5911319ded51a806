"""`aster serve mcp`: the tools of one sandboxed session per connection, for any host of the Model Context Protocol."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import math
import os
import signal
from typing import Any

from aster_env.errors import MissingExtraError, UsageError, check_name
from aster_env.kernels import open_pool
from aster_env.listening import announce, check_reach, listen, read_token, serve
from aster_env.retrieval import RETRIEVERS, Retriever, open_retriever
from aster_env.tools.python import check_call_limits
from aster_env.web import Extractor, Fetcher


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `aster serve mcp`."""
    add = parser.add_argument
    add("--tools", metavar="NAMES", help="python, search, visit (default: python; and search, with a corpus)")
    add("--transport", default="stdio", help="stdio (default): one session, of the host that starts this; or http")
    add("--corpus", metavar="FOLDER", help="what search finds: a corpus' folder (see `aster corpus build`)")
    add("--retriever", default="lexical", help="lexical (default), dense, or http for a service (--url)")
    add("--url", help="of a retrieval service (see `aster serve retrieval`), for --retriever http")
    add("--timeout", type=float, default=30.0, help="seconds a call of python may take (default: %(default)s)")
    add("--max-output", type=int, default=8192, help="characters of a result (default: %(default)s)")
    add("--memory", type=int, default=1024, help="MiB of a session (default: %(default)s)")
    add("--isolation", default="best", help="see `aster doctor` (default: %(default)s)")
    http = parser.add_argument_group("http")
    http.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    http.add_argument("--port", type=int, default=8001, help="0 takes a free one (default: %(default)s)")
    http.add_argument("--token-variable", metavar="NAME", help="environment variable with the token that clients send")
    http.add_argument("--max-sessions", type=int, default=64, help="at once (default: %(default)s)")
    http.add_argument("--idle-seconds", type=float, default=600.0, help="then a session ends (default: %(default)s)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serve until the host hangs up (stdio), SIGTERM or SIGINT."""
    transport = check_name("transport", options.transport, ("stdio", "http"))
    token = read_token(options.token_variable)
    _check_numbers(options)
    retriever = _retriever(options)
    pool = open_pool("zygote", isolation=options.isolation, memory=options.memory, spares=0)
    try:
        from aster_env.serve import mcp_server
        from aster_env.serve.mcp_http import STOPPING, application
    except ImportError as error:
        raise MissingExtraError(error.name or "mcp", "mcp", "`aster serve mcp`") from error
    given = options.tools.split(",") if options.tools else ["python", *(["search"] if retriever else [])]
    names = [name.strip() for name in given]
    # Public pages alone, whoever asks: a host's model could else reach what only this machine can.
    web = (Fetcher(), Extractor()) if "visit" in names else (None, None)
    sources = mcp_server.Sources(pool, retriever, options.timeout, options.max_output, *web)
    tools = mcp_server.ToolServer(names, sources, whole=transport == "stdio")
    # Standard output is the protocol's, and what goes wrong on a connection is told on it.
    logging.getLogger("mcp").setLevel(logging.CRITICAL)
    if transport == "stdio":
        return asyncio.run(_stdio(tools.server()))
    with contextlib.closing(listen(options.host, options.port)) as listener:
        loopback = check_reach(listener, token)
        app = application(tools.server(), loopback, token, options.max_sessions, options.idle_seconds)
        asyncio.run(serve(app, listener, lambda: announce(listener, "/mcp"), graceful=STOPPING))
        return 0


async def _stdio(server: Any) -> int:
    """Serve one connection over standard input and output."""
    from mcp.server.stdio import stdio_server

    stopped, closed = asyncio.Event(), asyncio.Event()

    async def connection() -> None:
        try:
            async with stdio_server() as (incoming, outgoing):
                try:
                    await server.run(incoming, outgoing, server.create_initialization_options())
                finally:
                    closed.set()
        except* BrokenPipeError:
            pass  # the host is gone, as it is where input ends

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    serving, stopping = asyncio.create_task(connection()), asyncio.create_task(stopped.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if serving.done():
        serving.result()
        return 0
    serving.cancel()
    await closed.wait()
    # All is closed but a thread that waits for standard input, which nothing can wake: Python would wait for it.
    os._exit(0)


def _check_numbers(options: argparse.Namespace) -> None:
    check_call_limits(options.timeout, options.max_output)
    if options.max_sessions < 1:
        raise UsageError(f"--max-sessions={options.max_sessions} is not allowed. Allowed: at least 1.")
    if not 0 < options.idle_seconds < math.inf:
        raise UsageError(f"--idle-seconds={options.idle_seconds} is not allowed. Allowed: seconds, above 0.")


def _retriever(options: argparse.Namespace) -> Retriever | None:
    kind = check_name("retriever", options.retriever, RETRIEVERS)
    if kind == "http":
        if options.url is None or options.corpus is not None:
            raise UsageError("--retriever http searches a service. Fix: name it with --url, and leave --corpus out.")
        return open_retriever(kind, url=options.url)
    if options.url is not None:
        raise UsageError(f"--url={options.url!r} has no use for a {kind} retriever. Fix: add --retriever http.")
    return None if options.corpus is None else open_retriever(kind, corpus=options.corpus)
