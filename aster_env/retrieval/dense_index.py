"""An index of a corpus' vectors: 4-bit codes in memory choose candidates, the vectors on disk put them in order."""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aster_env.errors import MissingExtraError, RetrieverError, UsageError
from aster_env.retrieval.encoder import Floats, unit
from aster_env.retrieval.vectors import Ids, Vectors

CODES, VECTORS, INFO = "index.faiss", "vectors.f16", "index.json"
FLAT_LIMIT = 2_000_000
"""Passages up to which all codes are read for each query: about 4 ms a million at 768 dimensions."""
EXACT_LIMIT = 1_000
"""Passages up to which nothing is approximated; codes need more than that to be learned."""
TRAINING_ROWS, ROWS_PER_CELL, CELL_ITERATIONS = 65_536, 32, 6
RERANK = 200
"""Candidates compared exactly: of a million vectors, 100 find 96 of 100 exact neighbours (`aster bench retrieval`)."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class DenseInfo:
    """What an index is.

    Args:
        corpus_sha256: of the corpus whose passages, in their order, the vectors are of.
        passages: how many.
        dim: numbers in a vector.
        encoder: ``"minilm"``, a model's folder, or the name of a function.
        query_prefix: what the encoder puts before queries.
        passage_prefix: what it put before passages.
        pooling: of the tokens' vectors; None: as the model's files say.
        metric: ``"cosine"``; the vectors are of length 1.
        factory: how FAISS calls this kind of index.
        nprobe: cells read for a query; 0 where there are none.
        recall: of the exact search's five best, the part that was found when it was last measured.
    """

    corpus_sha256: str
    passages: int
    dim: int
    encoder: str
    query_prefix: str = ""
    passage_prefix: str = ""
    pooling: str | None = None
    metric: str = "cosine"
    factory: str = ""
    nprobe: int = 0
    recall: float | None = None


def read_info(folder: Path) -> DenseInfo:
    """Read what the index in a folder is.

    Raises:
        UsageError: there is none, or it is damaged.
    """
    try:
        raw: Any = json.loads((folder / INFO).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(
            f"There is no dense index in {str(folder)!r}. Fix: make one with `aster index build --kind dense CORPUS`, "
            "or from a Flat index of FAISS with `aster index convert`."
        ) from error
    except (OSError, ValueError) as error:
        raise _damaged(folder, f"{INFO}: {error}") from error
    known = {field.name for field in fields(DenseInfo)}
    if not isinstance(raw, Mapping) or not {"corpus_sha256", "passages", "dim", "encoder"} <= set(raw):
        raise _damaged(folder, f"{INFO} lacks a part")
    info = DenseInfo(**{name: value for name, value in raw.items() if name in known})
    if not (isinstance(info.passages, int) and isinstance(info.dim, int) and info.passages > 0 and info.dim > 0):
        raise _damaged(folder, f"{INFO} has {info.passages!r} passages of {info.dim!r} dimensions")
    if not (folder / CODES).is_file():
        raise _damaged(folder, f"{CODES} is missing")
    return info


def write_info(folder: Path, info: DenseInfo) -> None:
    """Write ``index.json``; a reader sees the old one or the new one."""
    staging = folder / f".{INFO}"
    staging.write_text(json.dumps(asdict(info), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    staging.replace(folder / INFO)


def import_faiss() -> Any:
    """Import FAISS, which is needed by those alone who search in vectors.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        with warnings.catch_warnings():
            # Its generated bindings use what Python is about to drop; no user can change that.
            warnings.simplefilter("ignore")
            return importlib.import_module("faiss")
    except ImportError as error:
        raise MissingExtraError("faiss-cpu", "search", "Dense retrieval") from error


def choose_factory(count: int, dim: int, cells: int | None = None) -> str:
    """Return the kind of index for so many vectors, in FAISS' words.

    Args:
        count: vectors.
        dim: numbers in one.
        cells: of an inverted file; None chooses: none up to two million vectors, else about four times the root of
            ``count``. 0 asks for none.
    """
    if count <= EXACT_LIMIT and not cells:
        return "Flat"
    codes = f"PQ{next(dim // width for width in (4, 2, 1) if dim % width == 0)}x4fs"
    if cells is None:
        cells = 0 if count <= FLAT_LIMIT else 1 << int(4 * count**0.5).bit_length() - 1
    return f"IVF{cells}_HNSW32,{codes}" if cells else codes


def build_codes(vectors: Vectors, factory: str, progress: Progress | None = None, seed: int = 0) -> Any:
    """Learn the codes from a sample, and encode every row; a chunk is in memory at a time, and the sample.

    Args:
        vectors: unit vectors.
        factory: see ``choose_factory``.
        progress: called with a line for people now and then.
        seed: of the sample.
    """
    faiss, tell = import_faiss(), progress or (lambda line: None)
    # Among unit vectors the nearest have the largest product; cells, whose centres are no unit vectors, go by distance.
    metric = faiss.METRIC_L2 if factory.startswith("IVF") else faiss.METRIC_INNER_PRODUCT
    index = faiss.index_factory(vectors.dim, factory, metric)
    cells = int(getattr(index, "nlist", 0))
    if cells:
        index.cp.niter, index.cp.min_points_per_centroid = CELL_ITERATIONS, 1
    if not index.is_trained:
        wanted = max(TRAINING_ROWS, ROWS_PER_CELL * cells)
        tell(f"learning {factory} from {min(wanted, len(vectors)):,} vectors")
        threads = faiss.omp_get_max_threads()
        try:
            if not cells:
                # Hundreds of tiny k-means: on busy cores, threads that wait for one another take far longer than one.
                faiss.omp_set_num_threads(1)
            index.train(_sample(vectors, wanted, seed))
        finally:
            faiss.omp_set_num_threads(threads)
    for start, rows in vectors.chunks():
        index.add(rows)
        if start // 250_000 != (start + len(rows)) // 250_000:
            tell(f"{start + len(rows):,} of {len(vectors):,} vectors are in the index")
    return index


class DenseIndex:
    """An index in memory, and its vectors on disk; not for several threads at once.

    Args:
        codes: of FAISS.
        vectors: the same vectors, exact to half precision; closed with this.
        nprobe: cells to read for a query; without effect where there are none.
    """

    def __init__(self, codes: Any, vectors: Vectors, nprobe: int = 0) -> None:
        self.codes, self.vectors, self.nprobe = codes, vectors, nprobe
        self.cells = int(getattr(codes, "nlist", 0))
        if self.cells:
            _compare_all_cells(codes)

    @classmethod
    def open(cls, folder: Path, nprobe: int | None = None) -> DenseIndex:
        """Read the index in a folder.

        Raises:
            UsageError: there is none, or a part of it has another size.
            RetrieverError: FAISS cannot read its part.
        """
        info, faiss = read_info(folder), import_faiss()
        vectors = Vectors(folder / VECTORS, info.passages, info.dim)
        try:
            codes = faiss.read_index(str(folder / CODES))
            if codes.ntotal != info.passages or codes.d != info.dim:
                raise RuntimeError(
                    f"{codes.ntotal} vectors of {codes.d} numbers, and {info.passages} of {info.dim} belong"
                )
        except (RuntimeError, MemoryError) as error:
            vectors.close()
            raise RetrieverError(f"{str(folder / CODES)!r} is damaged: {error}. Fix: build the index again.") from error
        return cls(codes, vectors, info.nprobe if nprobe is None else nprobe)

    def search(self, queries: Floats, n: int, rerank: int = RERANK) -> list[tuple[Ids, Floats]]:
        """Return for each query the positions of the nearest vectors and their cosines, best first.

        Cosines that are equal to five decimals are ordered by position.

        Args:
            queries: unit vectors, shape (queries, dim).
            n: how many at most.
            rerank: candidates that are compared exactly, if more than ``n``.

        Raises:
            RetrieverError: the queries have other dimensions, or FAISS failed.
        """
        if queries.ndim != 2 or queries.shape[1] != self.vectors.dim:
            raise RetrieverError(
                f"Queries of shape {queries.shape} do not fit an index of {self.vectors.dim} dimensions. Fix: the "
                "encoder that the index was built with."
            )
        wanted = min(max(n, rerank), len(self.vectors))
        try:
            if self.cells:
                self.codes.nprobe = self.nprobe
            found = self.codes.search(queries, wanted)[1]
        except RuntimeError as error:
            raise RetrieverError(f"FAISS failed: {error}") from error
        return [self._order(query, ids[ids >= 0], n) for query, ids in zip(queries, found, strict=True)]

    def _order(self, query: Floats, ids: Ids, n: int) -> tuple[Ids, Floats]:
        ids = np.sort(ids)
        scores = np.round(self.vectors.rows(ids) @ query, 5)
        order = np.lexsort((ids, -scores))[:n]
        return ids[order], scores[order]

    def close(self) -> None:
        """Release memory and map."""
        self.codes = None
        self.vectors.close()


def _compare_all_cells(codes: Any) -> None:
    """Choose the cells of a query among all of them, not by the graph that put the vectors there.

    The graph is good for one nearest cell. Of the 512 nearest of 8,192 it found half, and no more however many were
    asked for, while comparing all of them takes under a millisecond.
    """
    faiss = import_faiss()
    graph = faiss.downcast_index(codes.quantizer)
    if not isinstance(graph, faiss.IndexHNSWFlat):
        return
    flat = faiss.IndexFlat(codes.d, codes.metric_type)
    flat.add(graph.reconstruct_n(0, codes.nlist))
    codes.quantizer = flat
    # The inverted file frees what it points to, and so no longer the graph.
    flat.this.disown()
    graph.this.own(True)


def exact_search(vectors: Vectors, queries: Floats, n: int) -> Ids:
    """Return the positions of the nearest vectors by comparing all, shape (queries, min(n, vectors)).

    Cosines that are equal to five decimals are ordered by position.
    """
    best = np.full((len(queries), 0), -np.inf, dtype=np.float32)
    ids: Ids = np.empty((len(queries), 0), dtype=np.int64)
    for start, rows in vectors.chunks():
        scores = queries @ rows.T
        if len(rows) > n:
            near: npt.NDArray[np.int64] = np.argpartition(-scores, n, axis=1)[:, :n]
        else:
            near = np.broadcast_to(np.arange(len(rows)), (len(queries), len(rows)))
        best = np.concatenate([best, np.round(np.take_along_axis(scores, near, axis=1), 5)], axis=1)
        ids = np.concatenate([ids, near + start], axis=1)
        order = np.lexsort((ids, -best), axis=1)[:, :n]
        best, ids = np.take_along_axis(best, order, axis=1), np.take_along_axis(ids, order, axis=1)
    return ids


def sample_queries(vectors: Vectors, count: int, seed: int = 1) -> Floats:
    """Return unit vectors that lie where queries do: near a passage, drawn towards another, with noise."""
    random = np.random.default_rng(seed)
    one, other = (vectors.rows(np.sort(random.integers(len(vectors), size=count))) for _ in range(2))
    noise = random.standard_normal(one.shape).astype(np.float32) / np.float32(vectors.dim**0.5)
    return unit(one + 0.5 * random.permutation(other) + 0.3 * noise)


def recall(found: list[tuple[Ids, Floats]], exact: Ids) -> float:
    """Return the part of the exact positions that was found."""
    hits = sum(len(np.intersect1d(ids, row)) for (ids, _), row in zip(found, exact, strict=True))
    return hits / max(exact.size, 1)


def _sample(vectors: Vectors, wanted: int, seed: int) -> Floats:
    if wanted >= len(vectors):
        return np.concatenate([rows for _, rows in vectors.chunks()])
    # Whole runs of rows: single ones from a file of gigabytes would take a disk's seek each.
    run = 64 if wanted < len(vectors) // 4 else 16
    starts = np.random.default_rng(seed).choice(len(vectors) // run, size=wanted // run, replace=False)
    return vectors.rows((np.sort(starts)[:, None] * run + np.arange(run)).ravel().astype(np.int64))


def _damaged(folder: Path, reason: str) -> UsageError:
    return UsageError(f"The dense index in {str(folder)!r} is damaged: {reason}. Fix: build it again.")
