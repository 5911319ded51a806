"""BM25 over a corpus on this machine: an index of ids alone, the text from the corpus' memory map."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from aster_env.errors import RetrieverError, UsageError
from aster_env.retrieval.base import Passage
from aster_env.retrieval.corpus import Corpus
from aster_env.retrieval.lexical_index import (
    FOLDER,
    MAX_CHARACTERS,
    MAX_TERMS,
    LexicalIndex,
    check_index,
    default_threads,
    write_index,
)
from aster_env.retrieval.staging import staged

__all__ = ["FOLDER", "MAX_CHARACTERS", "MAX_TERMS", "LexicalRetriever", "build_lexical"]


MAX_THREADS = 64


class LexicalRetriever:
    """Finds passages by their words: BM25 over title and text, English stems, stop words dropped.

    A query is text, never a query language: no character of it has a meaning of its own. Of a long one, the first 4,096
    characters and 64 different words count. Equal scores are ordered by the passages' position in the corpus, on every
    machine and for every way the index was built.

    Args:
        corpus: a corpus, or its folder.
        index: the folder of its index; None takes ``lexical`` in the corpus' folder.

    Raises:
        UsageError: there is no corpus, no index, or the index belongs to other passages.
    """

    def __init__(self, corpus: str | Path | Corpus, index: str | Path | None = None) -> None:
        self.corpus = corpus if isinstance(corpus, Corpus) else Corpus(corpus)
        self.folder = _folder(self.corpus, index)
        check_index(self.folder, self.corpus)
        self._opened: LexicalIndex | None = None
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._closed = False

    @property
    def source(self) -> dict[str, str]:
        """What a trajectory records of it."""
        return {"retriever": "lexical", **self.corpus.source}

    async def search(self, queries: Sequence[str], n: int = 5) -> list[list[Passage]]:
        """Return at most ``n`` passages for each query, best first; see ``Retriever.search``.

        Raises:
            UsageError: ``n`` is not positive, a query is not a str, or the retriever was closed.
            RetrieverError: the index cannot be read.
        """
        if isinstance(queries, str) or not all(isinstance(query, str) for query in queries):
            raise UsageError(f"Queries are a sequence of str, not {queries!r:.200}. Fix: pass [query].")
        if n < 1:
            raise UsageError(f"{n} passages were asked for. Allowed: 1 or more. Fix: pass n=5.")
        if self._closed:
            raise UsageError("The retriever was closed. Fix: open another with open_retriever('lexical', …).")
        threads = default_threads()
        if self._executor is None:
            self._executor = ThreadPoolExecutor(threads, thread_name_prefix="aster-lexical")
        # One share a thread: a future for each query costs as much as a search in a small corpus.
        step = max(1, -(-len(queries) // threads))
        shares = [queries[start : start + step] for start in range(0, len(queries), step)]
        loop = asyncio.get_running_loop()
        found = await asyncio.gather(
            *(loop.run_in_executor(self._executor, self._search, share, n) for share in shares)
        )
        return [passages for share in found for passages in share]

    async def close(self) -> None:
        """Wait for the searches under way, and release the index; calling it twice is harmless."""
        self._closed = True
        executor, self._executor = self._executor, None
        if executor is not None:
            await asyncio.get_running_loop().run_in_executor(None, executor.shutdown)
        self._opened = None

    def _search(self, queries: Sequence[str], n: int) -> list[list[Passage]]:
        try:
            with self._lock:
                if self._opened is None:
                    self._opened = LexicalIndex(self.folder)
            index = self._opened
            return [[self._passage(*hit) for hit in index.search(query, n)] for query in queries]
        except BaseException as error:  # A damaged index makes tantivy panic, which is no Exception.
            if isinstance(error, UsageError):
                raise RetrieverError(str(error)) from error
            if isinstance(error, Exception) or "Panic" in type(error).__name__:
                raise RetrieverError(
                    f"The lexical index in {str(self.folder)!r} cannot be searched: {error!r:.300}. "
                    f"Fix: aster index build {self.corpus.folder}"
                ) from error
            raise

    def _passage(self, position: int, score: float) -> Passage:
        passage: Passage = self.corpus[position]
        return replace(passage, score=score)


def build_lexical(
    corpus: str | Path | Corpus,
    folder: str | Path | None = None,
    threads: int | None = None,
    progress: Callable[[int], Any] | None = None,
) -> Path:
    """Write the index that a ``LexicalRetriever`` searches, in place of an older one; return its folder.

    A folder that appears is whole; who searches the older index goes on with it.

    Args:
        corpus: a corpus, or its folder.
        folder: where the index goes; None takes ``lexical`` in the corpus' folder.
        threads: that write; None takes the machine's processors, at most 4. Each takes about 64 MB.
        progress: called with the number of passages done, from time to time.

    Raises:
        UsageError: there is no corpus or it is damaged, the folder holds something else, or it cannot be written.
    """
    opened = corpus if isinstance(corpus, Corpus) else Corpus(corpus)
    threads = default_threads() if threads is None else threads
    if not 1 <= threads <= MAX_THREADS:
        raise UsageError(f"{threads} threads. Allowed: 1 to {MAX_THREADS}. Fix: leave it out.")
    target = _folder(opened, folder)
    if target.exists() and not ((target / "lexical.json").exists() or (target.is_dir() and not any(target.iterdir()))):
        raise UsageError(f"{str(target)!r} is there, and is no lexical index. Fix: another folder, or remove it first.")
    with staged(target) as built:
        try:
            write_index(built, opened, threads, progress)
        except (OSError, ValueError, TypeError) as error:
            raise UsageError(
                f"The index of {str(opened.folder)!r} cannot be written: {error!r:.300}. Fix: see that the disk has "
                f"room, and that `aster corpus show {opened.folder} --verify` finds the corpus whole."
            ) from error
        if target.exists():
            os.rename(target, built.with_name("old"))
        os.rename(built, target)
    return target


def _folder(corpus: Corpus, index: str | Path | None) -> Path:
    return corpus.folder / FOLDER if index is None else Path(index).expanduser()
