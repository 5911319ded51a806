"""Making a dense index: from a corpus with an encoder, or from a Flat index of FAISS that somebody has already."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from aster_env.errors import UsageError
from aster_env.retrieval.corpus import Corpus
from aster_env.retrieval.dense_index import (
    CODES,
    VECTORS,
    DenseIndex,
    DenseInfo,
    Progress,
    build_codes,
    choose_factory,
    exact_search,
    import_faiss,
    read_info,
    recall,
    sample_queries,
    write_info,
)
from aster_env.retrieval.encoder import Encoder, Floats, unit
from aster_env.retrieval.staging import check_free, put, staged
from aster_env.retrieval.vectors import Vectors, read_rows

TUNING_QUERIES, AT, CHUNK, CHECKED = 128, 5, 4_096, 8
_FLAT = {b"IxFI": "inner product", b"IxF2": "L2", b"IxSQ": "scalar quantizer"}
_HALF = 4  # faiss::ScalarQuantizer::QT_fp16


class FlatFile:
    """A Flat index of FAISS on disk, read from front to back; never more than a chunk is in memory.

    Its header is read here rather than by FAISS, which would load the file, or map it and count its pages as the
    process's.
    Taken are ``IndexFlatIP`` and ``IndexFlatL2`` in single precision, and ``IndexScalarQuantizer`` in half.

    Args:
        path: the file that ``faiss.write_index`` wrote.

    Attributes:
        count: vectors.
        dim: numbers in one.

    Raises:
        UsageError: it is another kind of index, or its size does not fit its header.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        try:
            with self.path.open("rb") as file:
                head, size = file.read(256), os.fstat(file.fileno()).st_size
        except OSError as error:
            raise UsageError(f"{str(self.path)!r} cannot be read: {error}. Fix: name a Flat index of FAISS.") from error
        kind = head[:4]
        if kind not in _FLAT or len(head) < 45:
            raise UsageError(
                f"{str(self.path)!r} begins with {kind!r}. Allowed: {', '.join(repr(name.decode()) for name in _FLAT)} "
                "(IndexFlatIP, IndexFlatL2, IndexScalarQuantizer of half precision). Fix: write the Flat index itself, "
                "without IndexIDMap or IndexPreTransform around it (faiss.downcast_index(index.index))."
            )
        # write_index_header: d, ntotal, two dummies, is_trained, metric_type; then what the kind needs, and a length.
        self.dim, self.count, metric = *struct.unpack_from("<iq", head, 4), struct.unpack_from("<i", head, 33)[0]
        self.dtype: np.dtype[Any] = np.dtype(np.float32)
        at, unit_bytes = 37, 4
        if kind == b"IxSQ":
            quantizer, trained = struct.unpack_from("<i", head, 37)[0], struct.unpack_from("<q", head, 65)[0]
            if quantizer != _HALF or trained:
                raise UsageError(
                    f"{str(self.path)!r} holds a scalar quantizer of type {quantizer}; allowed is {_HALF} (QT_fp16). "
                    "Fix: convert the Flat index that it was made from."
                )
            self.dtype, at, unit_bytes = np.dtype(np.float16), 73, 1
        stored = struct.unpack_from("<q", head, at)[0] * unit_bytes
        self._start = at + 8
        wanted = self.count * self.dim * self.dtype.itemsize
        if metric not in (0, 1) or min(self.dim, self.count) < 1 or not stored == wanted == size - self._start:
            raise UsageError(
                f"{str(self.path)!r} has {size} bytes, and its header says {self.count} vectors of {self.dim} numbers "
                f"(metric {metric}), which take {wanted + self._start}. Fix: copy or download it again."
            )

    def chunks(self, size: int = CHUNK) -> Iterator[Floats]:
        """Yield its vectors as float32."""
        with self.path.open("rb", buffering=0) as file:
            file.seek(self._start)
            for start in range(0, self.count, size):
                yield read_rows(file, min(size, self.count - start), self.dim, self.dtype)


def build_dense(
    corpus: Corpus,
    encoder: Encoder,
    folder: Path | None = None,
    *,
    cells: int | None = None,
    target: float = 0.98,
    progress: Progress | None = None,
) -> DenseInfo:
    """Encode every passage of a corpus and index the vectors; a folder that appears is whole.

    Args:
        corpus: the passages; each is encoded as its ``contents``.
        encoder: of passages and queries.
        folder: of the index; None: ``dense`` in the corpus' folder.
        cells: see ``choose_factory``.
        target: recall@5 that ``nprobe`` is chosen for.
        progress: called with a line for people now and then.

    Raises:
        UsageError: the folder is there already.
        RetrieverError: the encoder failed.
    """

    def encode() -> Iterator[Floats]:
        for start in range(0, len(corpus), 1_024):
            yield encoder.passages([passage.contents for passage in corpus[start : start + 1_024]])
            if progress and start % 10_240 == 0:
                progress(f"encoding: {start:,} of {len(corpus):,} passages")

    return _make(corpus, encoder, folder or corpus.folder / "dense", encode(), cells, target, progress)


def convert_flat(
    flat: FlatFile,
    corpus: Corpus,
    encoder: Encoder,
    folder: Path | None = None,
    *,
    check: bool = True,
    cells: int | None = None,
    target: float = 0.98,
    progress: Progress | None = None,
) -> DenseInfo:
    """Index the vectors of a Flat index that belongs to a corpus, without loading it.

    Args:
        flat: vectors of the corpus' passages, in their order.
        corpus: the passages.
        encoder: that queries are encoded with; the one that ``flat`` was made with.
        folder: of the index; None: ``dense`` in the corpus' folder.
        check: encode some passages first, and compare them with their vectors.
        cells: see ``choose_factory``.
        target: recall@5 that ``nprobe`` is chosen for.
        progress: called with a line for people now and then.

    Raises:
        UsageError: corpus or encoder do not belong to the vectors, or these cannot be searched by cosine.
    """
    if flat.count != len(corpus):
        raise UsageError(
            f"{str(flat.path)!r} has {flat.count} vectors and the corpus {len(corpus)} passages. Fix: the corpus that "
            "it was built from, whole and in its order."
        )
    first = next(flat.chunks(1_024))
    lengths = np.linalg.norm(first, axis=1)
    if np.abs(lengths - 1).max() > 0.02:
        raise UsageError(
            f"The vectors of {str(flat.path)!r} have lengths of {lengths.min():.3f} to {lengths.max():.3f}; allowed is "
            "1 (cosine). Fix: a Flat index of normalised vectors."
        )
    if check:
        check_encoder(corpus, encoder, first, np.arange(len(first)))
    rows = (unit(chunk) for chunk in flat.chunks())
    return _make(corpus, encoder, folder or corpus.folder / "dense", rows, cells, target, progress)


def check_encoder(
    corpus: Corpus, encoder: Encoder, vectors: Floats, positions: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> None:
    """Encode a few passages: each must be nearest to its own vector.

    Raises:
        UsageError: they are not, or have other dimensions.
    """
    chosen = np.unique(np.linspace(0, len(vectors) - 1, CHECKED).astype(int))
    encoded = encoder.passages([corpus[int(positions[n])].contents for n in chosen])
    if encoded.shape[1] != vectors.shape[1]:
        raise UsageError(
            f"The encoder {encoder.name!r} gives {encoded.shape[1]} dimensions, and the index has {vectors.shape[1]}. "
            "Fix: the encoder that the index was built with."
        )
    likeness = encoded @ unit(vectors[chosen]).T
    # A passage that is there twice may be as near to its double.
    right = int((np.diag(likeness) >= likeness.max(axis=1) - 0.02).sum())
    if right < len(chosen) * 0.75 or np.diag(likeness).mean() < 0.5:
        raise UsageError(
            f"Of {len(chosen)} passages that the encoder {encoder.name!r} encoded, {right} are nearest to their own "
            f"vector (mean cosine {np.diag(likeness).mean():.2f}). Fix: the encoder, prefixes and pooling that the "
            "vectors were made with, and the corpus in its order."
        )


def tune(
    index: DenseIndex, queries: Floats, target: float = 0.98, progress: Progress | None = None
) -> tuple[int, float, list[tuple[int, float]]]:
    """Compare with the exact search, and choose how many cells to read.

    Args:
        index: its ``nprobe`` is set to the choice.
        queries: unit vectors, shape (queries, dim).
        target: recall@5 wanted.
        progress: called with a line for people now and then.

    Returns:
        nprobe (0 without cells), the recall it has, and every (nprobe, recall) tried; the best where none suffices.
    """
    exact = exact_search(index.vectors, queries, AT)
    if not index.cells:
        reached = recall(index.search(queries, AT), exact)
        return 0, reached, [(0, reached)]
    steps = sorted({min(index.cells, step) for power in range(16) for step in (1 << power, 3 << power >> 1)} - {0})
    tried: list[tuple[int, float]] = []
    for step in steps:
        index.nprobe = step
        tried.append((step, recall(index.search(queries, AT), exact)))
        if progress:
            progress(f"nprobe {step}: recall@{AT} {tried[-1][1]:.4f}")
        if tried[-1][1] >= target:
            break
    index.nprobe, reached = max(tried, key=lambda one: (one[1] >= target, one[1], -one[0]))
    return index.nprobe, reached, tried


def _make(
    corpus: Corpus,
    encoder: Encoder,
    folder: Path,
    rows: Iterator[Floats],
    cells: int | None,
    target: float,
    progress: Progress | None,
) -> DenseInfo:
    if not 0 < target <= 1:
        raise UsageError(f"A recall of {target!r} is not allowed. Fix: more than 0, at most 1.")
    faiss = import_faiss()
    check_free(folder)
    with staged(folder) as staging:
        staging.mkdir()
        count, dim = 0, 0
        with (staging / VECTORS).open("wb") as file:
            for chunk in rows:
                file.write(chunk.astype(np.float16).tobytes())
                count, dim = count + len(chunk), chunk.shape[1]
        info = DenseInfo(
            corpus_sha256=corpus.info.sha256,
            passages=count,
            dim=dim,
            encoder=encoder.name,
            query_prefix=encoder.query_prefix,
            passage_prefix=encoder.passage_prefix,
            pooling=encoder.pooling,
            factory=choose_factory(count, dim, cells),
        )
        with Vectors(staging / VECTORS, count, dim) as vectors:
            codes = build_codes(vectors, info.factory, progress)
            faiss.write_index(codes, str(staging / CODES))
            nprobe, reached, _ = tune(
                DenseIndex(codes, vectors), sample_queries(vectors, TUNING_QUERIES), target, progress
            )
        write_info(staging, replace(info, nprobe=nprobe, recall=round(reached, 4)))
        put(staging, folder)
    return read_info(folder)
