"""BM25 side by side: ours (tantivy, through the retriever) and bm25s, each in a process of its own."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from aster_env.envs.wiki_qa.encyclopedia import passages
from aster_env.envs.wiki_qa.tasks import generated
from aster_env.envs.wiki_qa.world import make_world
from aster_env.retrieval import Corpus, CorpusInfo, Passage, write_corpus
from aster_env.retrieval.lexical import LexicalRetriever, build_lexical

Query = tuple[str, list[str]]
"""A question, and the ids of passages of which one has to be found."""
DEPTH = 10


def measure(work: Path, quick: bool, real: Path | None = None, xquad: Path | None = None) -> dict[str, Any]:
    """Return what was measured on each corpus, by its name.

    Args:
        work: a folder for corpora and indices; what is there already is used.
        quick: small corpora.
        real: a corpus of real text.
        xquad: XQuAD's English file: its paragraphs are added to ``real``, its questions are asked.
    """
    size = 20_000 if quick else 1_000_000
    corpora = {f"generated, {size:,} passages": _generated(work, size, 300 if quick else 2000)}
    if real is not None and xquad is not None:
        corpus, queries = _real(work, real, xquad)
        corpora[f"real, {len(corpus):,} passages"] = corpus, queries
    rows: dict[str, Any] = {}
    for name, (corpus, queries) in corpora.items():
        rows[name] = {"queries": len(queries)}
        for engine in (_ours, _bm25s):
            rows[name][engine.__name__.strip("_")] = _apart(engine, corpus.folder, queries)
    return rows


def corpus(work: Path, size: int) -> Path:
    """Return the folder of a generated corpus with a lexical index; both are made if they are not there."""
    folder = work / f"generated-{size}"
    if not folder.exists():
        info = CorpusInfo(f"generated encyclopedia, {size:,} passages", "aster", "CC0-1.0")
        write_corpus(folder, passages(make_world(0, size)), info)
    if not (folder / "lexical").exists():
        build_lexical(Corpus(folder))
    return folder


def _generated(work: Path, size: int, count: int) -> tuple[Corpus, list[Query]]:
    tasks = generated("test", size=count, passages=size)
    return Corpus(corpus(work, size)), [(task.prompt, list(task.metadata["supporting"])) for task in tasks]


def _real(work: Path, real: Path, xquad: Path) -> tuple[Corpus, list[Query]]:
    queries: list[Query] = []
    paragraphs: list[Passage] = []
    for article in json.loads(xquad.read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            name = f"xquad-{len(paragraphs)}"
            paragraphs.append(Passage(name, article.get("title", "").replace("_", " "), paragraph["context"]))
            queries += [(question["question"], [name]) for question in paragraph["qas"]]

    def both() -> Iterator[Passage]:
        yield from Corpus(real)
        yield from paragraphs

    folder = work / "real"
    info = CorpusInfo("real text and XQuAD's paragraphs", f"{Corpus(real).info.name}; XQuAD", "CC BY-SA 4.0")
    return (Corpus(folder) if folder.exists() else write_corpus(folder, both(), info)), queries


def _apart(engine: Callable[[Path, list[Query]], dict[str, Any]], folder: Path, queries: list[Query]) -> dict[str, Any]:
    """Run an engine in a fresh process, so that its memory is its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(engine, folder, queries).result()


def _ours(folder: Path, queries: list[Query]) -> dict[str, Any]:
    started = time.perf_counter()
    shutil.rmtree(folder / "lexical", ignore_errors=True)
    build_lexical(Corpus(folder))
    built = time.perf_counter() - started

    async def ask() -> tuple[list[list[str]], list[float]]:
        retriever = LexicalRetriever(corpus=folder)
        found, seconds = [], []
        try:
            await retriever.search([queries[0][0]], DEPTH)
            for text, _ in queries:
                began = time.perf_counter()
                ((*hits,),) = await retriever.search([text], DEPTH)
                seconds.append(time.perf_counter() - began)
                found.append([hit.id for hit in hits])
        finally:
            await retriever.close()
        return found, seconds

    found, seconds = asyncio.run(ask())
    disk = sum(path.stat().st_size for path in (folder / "lexical").rglob("*") if path.is_file())
    return {"build_s": round(built, 1), "disk_mb": round(disk / 1e6, 1), **_summary(found, seconds, queries)}


def _bm25s(folder: Path, queries: list[Query]) -> dict[str, Any]:
    import bm25s
    import Stemmer

    corpus, stemmer = Corpus(folder), Stemmer.Stemmer("english")
    started = time.perf_counter()
    words = bm25s.tokenize(
        [f"{p.title} {p.text}" for p in corpus], stopwords="en", stemmer=stemmer, show_progress=False
    )
    engine = bm25s.BM25()
    engine.index(words, show_progress=False)
    built = time.perf_counter() - started
    del words
    found, seconds = [], []
    for text, _ in queries:
        began = time.perf_counter()
        asked = bm25s.tokenize(text, stopwords="en", stemmer=stemmer, show_progress=False)
        rows, _ = engine.retrieve(asked, k=DEPTH, show_progress=False)
        hits = [corpus[int(n)].id for n in rows[0]]
        seconds.append(time.perf_counter() - began)
        found.append(hits)
    return {"build_s": round(built, 1), "disk_mb": None, **_summary(found, seconds, queries)}


def _peak_megabytes() -> int:
    """Return the most memory this process had; unlike ``ru_maxrss``, nothing of the process that started it."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) // 1000 for line in lines if line.startswith("VmHWM:"))


def _summary(found: list[list[str]], seconds: list[float], queries: list[Query]) -> dict[str, Any]:
    milliseconds = np.array(seconds) * 1000
    recall = {
        f"recall@{k}": round(float(np.mean([bool(set(hits[:k]) & set(gold)) for hits, (_, gold) in
                                            zip(found, queries, strict=True)])), 4)
        for k in (1, 5, 10)
    }  # fmt: skip
    return {
        "mean_ms": round(float(milliseconds.mean()), 2),
        "p95_ms": round(float(np.percentile(milliseconds, 95)), 2),
        **recall,
        "peak_rss_mb": _peak_megabytes(),
    }
