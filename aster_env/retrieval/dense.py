"""Nearest vectors over a corpus on this machine."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aster_env.errors import AsterError, RetrieverError, UsageError
from aster_env.retrieval.base import Passage
from aster_env.retrieval.corpus import Corpus
from aster_env.retrieval.dense_convert import check_encoder
from aster_env.retrieval.dense_index import RERANK, DenseIndex, DenseInfo, read_info
from aster_env.retrieval.encoder import MINILM, Encoder, EncoderLike, EncoderOptions, Floats

MAX_BATCH, MAX_CHARACTERS = 64, 4_096


@dataclass(slots=True)
class _Request:
    queries: list[str]
    n: int
    answer: asyncio.Future[list[list[Passage]]]


class DenseRetriever:
    """Finds the passages whose vectors are nearest to a query's, by cosine.

    Searches that wait at the same time are encoded and searched as one batch, in one thread. Scores are cosines.

    Args:
        corpus: its folder, or the corpus.
        encoder: ``"minilm"``, a model's folder or a function, see ``Encoder``; None: the one that the index was built
            with.
        index: the index's folder; None: ``dense`` in the corpus' folder.
        nprobe: cells that are read for a query, where the index has cells; None: as many as ``aster index eval`` chose.
        rerank: candidates that are compared exactly.
        cache: query vectors that are kept, the latest.
        query_prefix: see ``EncoderOptions``; None: as the index was built, as for the next two.
        passage_prefix: see ``EncoderOptions``.
        pooling: see ``EncoderOptions``.

    Raises:
        UsageError: no corpus, index or model is there, the index is of another corpus or encoder, or a number is not
            allowed.
        MissingExtraError: a library or the encoder's package is not installed.
    """

    def __init__(
        self,
        corpus: str | Path | Corpus,
        encoder: EncoderLike | None = None,
        index: str | Path | None = None,
        nprobe: int | None = None,
        rerank: int = RERANK,
        cache: int = 4_096,
        query_prefix: str | None = None,
        passage_prefix: str | None = None,
        pooling: str | None = None,
    ) -> None:
        for name, value, least in (("nprobe", nprobe, 1), ("rerank", rerank, 1), ("cache", cache, 0)):
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
                raise UsageError(f"{name}={value!r} is not allowed. Fix: a whole number of at least {least}.")
        self._corpus = corpus if isinstance(corpus, Corpus) else Corpus(corpus)
        self._folder = Path(index).expanduser() if index is not None else self._corpus.folder / "dense"
        info = read_info(self._folder)
        _check_corpus(info, self._corpus, self._folder)
        self._encoder = Encoder(
            _chosen(encoder, info),
            EncoderOptions(
                info.query_prefix if query_prefix is None else query_prefix,
                info.passage_prefix if passage_prefix is None else passage_prefix,
                info.pooling if pooling is None else pooling,
            ),
        )
        self._info, self._nprobe, self._rerank, self._cache_size = info, nprobe, rerank, cache
        self._vectors: OrderedDict[str, Floats] = OrderedDict()
        self._index: DenseIndex | None = None
        self._waiting: list[_Request] = []
        self._thread: ThreadPoolExecutor | None = None
        self._worker: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def source(self) -> Mapping[str, str]:
        """What a trajectory records: the retriever, its encoder, and the corpus."""
        encoder = self._encoder.name
        return {
            "retriever": "dense",
            "encoder": encoder if encoder == MINILM else Path(encoder).name,
            **self._corpus.source,
        }

    async def search(self, queries: Sequence[str], n: int = 5) -> list[list[Passage]]:
        """Return at most ``n`` passages for each query, best first; a query without a word finds nothing.

        Raises:
            UsageError: ``n`` is not allowed; or, by the first search, the encoder does not belong to the vectors.
            RetrieverError: the index or the encoder failed, or the retriever is closed.
        """
        if isinstance(queries, str) or not isinstance(n, int) or n < 1:
            raise UsageError(
                f"search({queries!r:.80}, n={n!r}) is not allowed. Fix: a list of texts, and n of 1 or more."
            )
        if self._closed:
            raise RetrieverError("The dense retriever is closed.")
        if not queries:
            return []
        loop = asyncio.get_running_loop()
        request = _Request([query.strip()[:MAX_CHARACTERS] for query in queries], n, loop.create_future())
        self._waiting.append(request)
        if self._worker is None or self._worker.done():
            self._worker = loop.create_task(self._work())
        return await request.answer

    async def close(self) -> None:
        """End what is under way, and release index, vectors and model; calling it twice is harmless."""
        self._closed = True
        if self._worker is not None:
            await self._worker
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.shutdown(wait=False)
        if self._index is not None:
            self._index.close()
        self._index = None
        self._vectors.clear()

    async def _work(self) -> None:
        """Answer until nobody waits; what arrives during a batch makes the next one."""
        loop = asyncio.get_running_loop()
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="dense")
        while self._waiting:
            batch = self._take()
            try:
                answers = await loop.run_in_executor(
                    self._thread, self._answer, [(one.queries, one.n) for one in batch]
                )
            except Exception as error:  # noqa: BLE001 - Each waiter must hear of it: one that does not would wait for ever.
                for one in batch:
                    if not one.answer.done():
                        one.answer.set_exception(_typed(error))
                continue
            for one, answer in zip(batch, answers, strict=True):
                if not one.answer.done():
                    one.answer.set_result(answer)

    def _take(self) -> list[_Request]:
        """Return the requests of the next batch; those whose caller has gone are dropped."""
        batch: list[_Request] = []
        count = 0
        while self._waiting and (not batch or count + len(self._waiting[0].queries) <= MAX_BATCH):
            request = self._waiting.pop(0)
            if not request.answer.done():
                batch.append(request)
                count += len(request.queries)
        return batch

    def _answer(self, batch: list[tuple[list[str], int]]) -> list[list[list[Passage]]]:
        """Answer requests; runs in the thread."""
        if self._index is None:
            self._index = self._open()
        found: dict[tuple[str, int], list[Passage]] = {}
        for n in {n for _, n in batch}:
            texts = list(dict.fromkeys(text for queries, of in batch if of == n for text in queries if text))
            for start in range(0, len(texts), MAX_BATCH):
                part = texts[start : start + MAX_BATCH]
                for text, passages in zip(part, self._nearest(part, n), strict=True):
                    found[text, n] = passages
        return [[list(found.get((text, n), ())) for text in queries] for queries, n in batch]

    def _nearest(self, texts: list[str], n: int) -> list[list[Passage]]:
        assert self._index is not None
        new = [text for text in texts if text not in self._vectors]
        vectors = dict(zip(new, self._encoder.queries(new), strict=True)) if new else {}
        for text in texts:
            if text in self._vectors:
                vectors[text] = self._vectors[text]
                self._vectors.move_to_end(text)
            else:
                self._vectors[text] = vectors[text]
        while len(self._vectors) > self._cache_size:
            self._vectors.popitem(last=False)
        results = self._index.search(np.stack([vectors[text] for text in texts]), n, self._rerank)
        return [[self._passage(int(at), float(score)) for at, score in zip(*one, strict=True)] for one in results]

    def _passage(self, position: int, score: float) -> Passage:
        passage: Passage = self._corpus[position]
        return Passage(passage.id, passage.title, passage.text, score)

    def _open(self) -> DenseIndex:
        index = DenseIndex.open(self._folder, self._nprobe)
        positions = np.unique(np.linspace(0, len(self._corpus) - 1, 8).astype(np.int64))
        try:
            check_encoder(self._corpus, self._encoder, index.vectors.rows(positions), positions)
        except AsterError:
            index.close()
            raise
        return index


def _typed(error: Exception) -> Exception:
    if isinstance(error, AsterError):
        return error
    made = RetrieverError(f"The dense retriever failed: {type(error).__name__}: {error}")
    made.__cause__ = error
    return made


def _check_corpus(info: DenseInfo, corpus: Corpus, folder: Path) -> None:
    if info.corpus_sha256 != corpus.info.sha256 or info.passages != len(corpus):
        raise UsageError(
            f"The index in {str(folder)!r} is of another corpus ({info.passages} passages, sha256 "
            f"{info.corpus_sha256[:12]}…) than {str(corpus.folder)!r} ({len(corpus)} "
            f"passages, {corpus.info.sha256[:12]}…). Fix: remove it, and run `aster index build --kind dense "
            f"{corpus.folder}` again."
        )


def _chosen(encoder: EncoderLike | None, info: DenseInfo) -> EncoderLike:
    """Return the encoder asked for, if it is the index's as far as names tell; the first search looks closer."""
    if encoder is None:
        if info.encoder != MINILM and not Path(info.encoder).is_dir():
            raise UsageError(
                f"The index was built with {info.encoder!r}, which is no model's folder on this machine. Fix: "
                "encoder=FOLDER or encoder=FUNCTION, the one that it was built with."
            )
        return info.encoder
    if not callable(encoder) and (encoder == MINILM) != (info.encoder == MINILM):
        raise UsageError(
            f"encoder={str(encoder)!r} is not the index's, which was built with {info.encoder!r}. Fix: leave encoder "
            "out, or build an index of its own (index=FOLDER)."
        )
    return encoder
