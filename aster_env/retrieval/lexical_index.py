"""The files of a lexical index: how they are written, checked and searched. ``lexical.py`` is what others use."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tantivy

from aster_env.errors import UsageError
from aster_env.retrieval.corpus import Corpus

FOLDER, INFO = "lexical", "lexical.json"
VERSION = 1
"""Of the analysis of words and of the fields; an index of another version is refused."""

MAX_CHARACTERS, MAX_TERMS = 4096, 64
"""Of a query, what counts."""

ANALYZER = "aster-en"
MARGIN, MAX_TIED = 16, 1 << 16

# Nearly every passage has such words, so they cost most of the time and rank nothing; in the index they stay, for
# a query that has no other ("The Who").
QUESTION_WORDS = (
    "who whom whose what when where which why how do does did done has have had were been being from he she his her "
    "him its also than so can could would should may might i you your we our my me us s t d ll re ve m"
)


class LexicalIndex:
    """An open index; safe from several threads.

    Args:
        folder: that ``write_index`` wrote.
    """

    def __init__(self, folder: Path) -> None:
        self._index = tantivy.Index.open(str(folder))
        self._index.register_tokenizer(ANALYZER, _analyzer())
        self._schema, self._searcher = self._index.schema, self._index.searcher()
        self._local = threading.local()

    def search(self, query: str, n: int) -> list[tuple[int, float]]:
        """Return at most ``n`` pairs of a passage's position in the corpus and its score, best first.

        Passages of equal score are ordered by position: more are fetched until the last one's score is lower than the
        n-th's. More than 65,536 of equal score are cut as they lie in the index.
        """
        parts = [
            (tantivy.Occur.Should, tantivy.Query.term_query(self._schema, "text", term, index_option="freq"))
            for term in self.terms(query)
        ]
        if not parts:
            return []
        # The engine takes memory for as many as are asked for.
        n = min(n, self._searcher.num_docs)
        asked, limit = tantivy.Query.boolean_query(parts), n + MARGIN
        while True:
            # Rounded, since the order in which a score's terms are added changes its last digits.
            hits = [(round(score, 4), place) for score, place in self._searcher.search(asked, limit, count=False).hits]
            if len(hits) < limit or hits[-1][0] < hits[n - 1][0] or limit >= n + MAX_TIED:
                break
            limit = min(8 * limit, n + MAX_TIED)
        positions = self._searcher.fast_field_values("position", [place for _, place in hits])
        ranked = sorted((-score, int(position)) for (score, _), position in zip(hits, positions, strict=True))
        return [(position, -score) for score, position in ranked[:n]]

    def terms(self, query: str) -> list[str]:
        """Return the different stems that are searched for, in the query's order."""
        # An analyzer is not for several threads at once.
        if not hasattr(self._local, "analyzer"):
            self._local.analyzer = _analyzer()
            self._local.dropped = frozenset(self._local.analyzer.analyze(QUESTION_WORDS))
        text = query[:MAX_CHARACTERS].encode("utf-8", "replace").decode("utf-8")
        words = list(dict.fromkeys(self._local.analyzer.analyze(text)))
        telling = [word for word in words if word not in self._local.dropped]
        return (telling or words)[:MAX_TERMS]


def write_index(folder: Path, corpus: Corpus, threads: int, progress: Callable[[int], Any] | None = None) -> None:
    """Write an index of a corpus into a folder that is not there yet."""
    folder.mkdir()
    builder = tantivy.SchemaBuilder()
    builder.add_text_field("text", stored=False, tokenizer_name=ANALYZER, index_option="freq")
    builder.add_unsigned_field("position", stored=False, indexed=False, fast=True)
    index = tantivy.Index(builder.build(), path=str(folder))
    index.register_tokenizer(ANALYZER, _analyzer())
    writer = index.writer(heap_size=threads * 64_000_000, num_threads=threads)
    try:
        for position, passage in enumerate(corpus):
            document = tantivy.Document()
            text = f"{passage.title}\n{passage.text}"
            document.add_text("text", text.encode("utf-8", "replace").decode("utf-8"))
            document.add_unsigned("position", position)
            writer.add_document(document)
            if progress is not None and position % 1000 == 999:
                progress(position + 1)
        writer.commit()
    finally:
        # Its threads would go on writing into the folder while what is left of a failed build is removed.
        writer.wait_merging_threads()
    for lock in folder.glob(".tantivy-*.lock"):
        lock.unlink()
    info = {
        "version": VERSION,
        "sha256": corpus.info.sha256,
        "passages": len(corpus),
        "files": {path.name: path.stat().st_size for path in sorted(folder.iterdir())},
    }
    (folder / INFO).write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")


def check_index(folder: Path, corpus: Corpus) -> None:
    """See that an index is there, whole and of this corpus, without opening it.

    Raises:
        UsageError: it is not; the text says the command that makes it.
    """
    fix = f"Fix: aster index build {corpus.folder}"
    if folder != corpus.folder / FOLDER:
        fix += f" --index {folder}"
    try:
        info: Any = json.loads((folder / INFO).read_text(encoding="utf-8"))
        version, digest, files = info["version"], info["sha256"], dict(info["files"])
        missing = [name for name, size in files.items() if os.stat(folder / name).st_size != size]
    except FileNotFoundError as error:
        lost = Path(error.filename or folder).name
        reason = f"There is no lexical index in {str(folder)!r}" if lost == INFO else f"The index lacks {lost!r}"
        raise UsageError(f"{reason}. {fix}") from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UsageError(f"The lexical index in {str(folder)!r} is damaged: {error!r}. {fix}") from error
    if missing:
        raise UsageError(f"The lexical index in {str(folder)!r} is damaged: {missing} have another size. {fix}")
    if version != VERSION:
        raise UsageError(f"The lexical index in {str(folder)!r} is of version {version}, not {VERSION}. {fix}")
    if digest != corpus.info.sha256:
        raise UsageError(
            f"The lexical index in {str(folder)!r} belongs to other passages (sha256 {digest!r:.14}…) than the corpus "
            f"{corpus.info.name!r} ({corpus.info.sha256!r:.14}…). {fix}"
        )


def default_threads() -> int:
    """Return how many threads write or search: the processors, at most 4."""
    return min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _analyzer() -> tantivy.TextAnalyzer:
    """Return what makes words of a text: of the index and of queries alike."""
    filters = tantivy.Filter
    builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
    for step in (filters.remove_long(64), filters.lowercase(), filters.ascii_fold()):
        builder = builder.filter(step)
    return builder.filter(filters.stopword("english")).filter(filters.stemmer("english")).build()
