"""One retriever for many environments: opened by the first that needs it, closed by the last that leaves."""

from __future__ import annotations

from typing import Any

from aster_env import loops
from aster_env.retrieval import open_retriever
from aster_env.retrieval.base import Retriever


def lease_retriever(name: str, **options: Any) -> Retriever:
    """Return the running loop's retriever with this name and these options; give it back with ``release_retriever``.

    Raises:
        UsageError: the name or an option is unknown, or a value is not allowed.
    """
    key = ("retriever", name, repr(sorted(options.items())))
    return loops.lease(key, lambda: open_retriever(name, **options))


async def release_retriever(retriever: Retriever) -> None:
    """Give a leased retriever back; the last user's return closes it. An unknown one is ignored."""
    await loops.release(retriever)
