"""The tools of one session per connection, as a server of the Model Context Protocol.

The same for both transports: ``aster_env.serve.mcp_http`` and standard input and output. A tool's own failure (a
traceback, a time-out, arguments that do not fit) is a result with ``isError``, which a model reads; a failure of the
machinery is an error of the protocol, which its host reads.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
)
from mcp_types import Tool as Listed

from aster_env.errors import InfrastructureError, UsageError, check_name
from aster_env.kernels.base import KernelPool
from aster_env.retrieval.base import Retriever
from aster_env.tools.base import Tool, check_call, find_tool, run_call
from aster_env.tools.browse import BrowseTool
from aster_env.tools.links import Links
from aster_env.tools.python import PythonTool
from aster_env.tools.search import SearchTool
from aster_env.types import ToolCall, ToolResult
from aster_env.web import Extractor, Source

HANG_SECONDS = 900.0
"""Seconds after which a call counts as one that never comes back."""
WAITING = 16
"""Calls of one session that may run or wait at once."""


@dataclass(slots=True)
class Sources:
    """What the tools of every session share.

    Args:
        pool: where Python sessions come from.
        retriever: where passages come from; None where nothing is searched.
        timeout: seconds a call of ``python`` may take.
        max_output: characters of a result.
        pages: where pages come from; None where nothing is visited.
        reader: makes them to text.
    """

    pool: KernelPool
    retriever: Retriever | None = None
    timeout: float = 30.0
    max_output: int = 8192
    pages: Source | None = None
    reader: Extractor | None = None


def _python(sources: Sources) -> Tool:
    return PythonTool(sources.pool, sources.timeout, sources.max_output)


def _search(sources: Sources) -> Tool:
    if sources.retriever is None:
        raise UsageError("The tool 'search' has nothing to search in. Fix: --corpus FOLDER (see `aster corpus build`).")
    return SearchTool(sources.retriever, max_output=sources.max_output)


def _visit(sources: Sources) -> Tool:
    if sources.pages is None or sources.reader is None:
        raise UsageError("The tool 'visit' has no web. Fix: give Sources pages and a reader.")
    return BrowseTool(sources.pages, sources.reader, Links(), sources.max_output)


TOOLS: Mapping[str, Callable[[Sources], Tool]] = {"python": _python, "search": _search, "visit": _visit}
"""What can be served, by name."""


@dataclass(slots=True)
class Session:
    """The tools of one connection; calls of it run one after another.

    Args:
        tools: by their own names.
    """

    tools: Mapping[str, Tool]
    _one: asyncio.Lock = field(default_factory=asyncio.Lock)
    _waiting: int = 0

    async def call(self, name: str, arguments: Mapping[str, Any]) -> ToolResult:
        """Run a call.

        Raises:
            MCPError: there is no such tool, too many calls wait, or the tool itself could not work.
        """
        if find_tool(name, self.tools) is None:
            problem = check_call(ToolCall(name, {}), self.tools).problem
            raise MCPError(code=INVALID_PARAMS, message=problem or f"Unknown tool {name!r}.")
        if self._waiting >= WAITING:
            raise MCPError(code=INTERNAL_ERROR, message=f"{WAITING} calls of this session run or wait already.")
        self._waiting += 1
        try:
            # Two first calls at once would start two kernels.
            async with self._one:
                return await run_call(check_call(ToolCall(name, arguments), self.tools), self.tools, HANG_SECONDS)
        except InfrastructureError as error:
            raise MCPError(code=INTERNAL_ERROR, message=f"{type(error).__name__}: {error}") from error
        finally:
            self._waiting -= 1

    async def close(self) -> None:
        """End the kernel; calling it twice is harmless."""
        for tool in self.tools.values():
            await tool.close()


class ToolServer:
    """Makes the ``mcp`` server: what sessions share, and a session for each connection.

    Args:
        names: the tools, of ``TOOLS``.
        sources: what they share; closed with the server.
        whole: whether the server has one connection alone, as standard input and output have.

    Raises:
        UsageError: a tool is unknown or lacks what it needs.
    """

    def __init__(self, names: Sequence[str], sources: Sources, whole: bool = False) -> None:
        if not names or len(set(names)) < len(names):
            raise UsageError(f"tools={list(names)!r} is not allowed. Allowed: some of {sorted(TOOLS)}, each once.")
        self._names = [check_name("tool", name, TOOLS) for name in names]
        self._sources = sources
        listed = self._open().tools
        self._listed = [
            Listed(name=name, description=tool.schema["description"], input_schema=dict(tool.schema["parameters"]))
            for name, tool in listed.items()
        ]
        self._whole = self._open() if whole else None

    def server(self) -> Server[Any]:
        """Return the server; its lifespan closes what the sessions share."""
        try:
            version = metadata.version("aster-gym")
        except metadata.PackageNotFoundError:
            version = ""
        return Server(
            "aster", version=version, lifespan=self._lifespan, on_list_tools=self._list, on_call_tool=self._call
        )

    def _open(self) -> Session:
        return Session({name: TOOLS[name](self._sources) for name in self._names})

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Server[Any]) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as ending:
            ending.push_async_callback(self._sources.pool.close)
            for source in (self._sources.retriever, self._sources.pages, self._sources.reader):
                if source is not None:
                    ending.push_async_callback(source.close)
            if self._whole is not None:
                ending.push_async_callback(self._whole.close)
            yield

    async def _list(self, _: ServerRequestContext[Any], __: PaginatedRequestParams | None) -> ListToolsResult:
        return ListToolsResult(tools=self._listed)

    async def _call(self, context: ServerRequestContext[Any], params: CallToolRequestParams) -> CallToolResult:
        result = await self._session(context).call(params.name, params.arguments or {})
        return CallToolResult(
            content=[TextContent(type="text", text=result.text)],
            is_error=not result.ok,
            # Not structured content: that is to say the same as the text, and hosts show models both.
            _meta={
                "aster/state": result.state,
                "aster/seconds": round(result.seconds, 3),
                "aster/dropped": result.dropped,
                "aster/timed_out": result.timed_out,
            },
        )

    def _session(self, context: ServerRequestContext[Any]) -> Session:
        if self._whole is not None:
            return self._whole
        # The library means a connection's state and its ending for handlers, and has no public way to them yet.
        connection = context.session._connection
        session: Session | None = connection.state.get("aster")
        if session is None:
            session = connection.state["aster"] = self._open()
            connection.exit_stack.push_async_callback(session.close)
        return session
