"""The tools of an episode, and what they lease: a kernel pool, a retriever, a web."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from aster_env.envs.web_walker.access import Access, Web
from aster_env.envs.web_walker.env import site_of
from aster_env.envs.wiki_qa.leasing import Library
from aster_env.errors import check_name
from aster_env.kernels.base import KernelPool
from aster_env.kernels.shared import lease_pool, release_pool
from aster_env.retrieval import Retriever
from aster_env.tasks import TaskSet
from aster_env.tools.base import Tool
from aster_env.tools.browse import BrowseTool, check_web_limits
from aster_env.tools.links import Links
from aster_env.tools.python import PythonTool, check_call_limits
from aster_env.tools.search import SearchTool, check_search_limits


class Toolbox:
    """Opens the tools that an environment names, and closes what they lease.

    Args:
        names: of ``python``, ``search`` and ``visit``, in the order that the prompt has.
        library: what ``search`` searches.
        pool: a KernelPool or a pool's name, and its options; see ``read_pool``.
        timeout: seconds that a call of ``python`` may take.
        max_output: characters of a result: of every tool, or by tool, the others having 8192.
        top_n: passages a query.
        max_queries: queries a call.

    Raises:
        UsageError: a limit is not allowed.
    """

    def __init__(
        self,
        names: Sequence[str],
        library: Library,
        pool: tuple[str | KernelPool, Mapping[str, Any]],
        timeout: float,
        max_output: int | Mapping[str, int],
        top_n: int,
        max_queries: int,
    ) -> None:
        self._most = _read_output(max_output, names)
        check_call_limits(timeout, self._most["python"])
        check_search_limits(top_n, self._most["search"], max_queries)
        if "visit" in names:
            check_web_limits(max_output=self._most["visit"])
        self._names, self._library, self._pool = names, library, pool
        self._timeout, self._search_limits = timeout, (top_n, self._most["search"], max_queries)
        self._access: Access | None = None
        self._leased: KernelPool | None = None
        self._retriever: Retriever | None = None
        self._web: Web | None = None

    def walk(self, tasks: TaskSet, split: str | None, site: Mapping[str, int], asked: bool) -> None:
        """Choose the site that ``visit`` walks: the one that tasks are about, else that of a split.

        Args:
            tasks: those of a site say in their metadata of which.
            split: ``"test"``, or another.
            site: its seed and size.
            asked: whether a user named it, so that tasks about another are refused.

        Raises:
            UsageError: a number of the site is not allowed, or tasks are about several, or another than was asked for.
            MissingExtraError: what reads pages is not installed.
        """
        place = site_of(tasks, {**site, "split": "test" if split == "test" else "train"}, asked)
        self._access = Access("site", None, place, None, "off", None, None)

    async def open(self) -> list[Tool]:
        """Return the tools.

        Raises:
            InfrastructureError: what a tool needs cannot be opened; nothing stays leased then.
        """
        try:
            return await self._lease()
        except BaseException:
            await self.close()
            raise

    async def _lease(self) -> list[Tool]:
        made: dict[str, Tool] = {}
        if "search" in self._names:
            self._retriever = await self._library.lease()
            made["search"] = SearchTool(self._retriever, *self._search_limits)
        if self._access is not None:
            self._web = web = await self._access.lease()
            made["visit"] = BrowseTool(web.pages, web.reader, Links(), self._most["visit"])
        if "python" in self._names:
            pool, options = self._pool
            if isinstance(pool, str):
                pool = self._leased = lease_pool(pool, **options)
            made["python"] = PythonTool(pool, self._timeout, self._most["python"])
        return [made[name] for name in self._names]

    async def close(self) -> None:
        """Give back what is shared; calling it twice is harmless."""
        pool, retriever, web = self._leased, self._retriever, self._web
        self._leased = self._retriever = self._web = None
        async with contextlib.AsyncExitStack() as ending:
            if pool is not None:
                ending.push_async_callback(release_pool, pool)
            if retriever is not None:
                ending.push_async_callback(self._library.release, retriever)
            if web is not None and self._access is not None:
                ending.push_async_callback(self._access.release, web)

    def sources(self) -> dict[str, str]:
        """Return which corpus is searched, its licence and hash, and which site is walked."""
        about = dict(self._retriever.source) if self._retriever is not None else {}
        return about | {f"web.{name}": value for name, value in (self._web.about if self._web else {}).items()}


def _read_output(max_output: Any, names: Sequence[str]) -> dict[str, Any]:
    """Return the bound of each tool's results; the tools check its size."""
    if not isinstance(max_output, Mapping):
        return dict.fromkeys(("python", "search", "visit"), max_output)
    for name in max_output:
        check_name("tool in max_output", name, names)
    return {"python": 8192, "search": 8192, "visit": 8192, **max_output}
