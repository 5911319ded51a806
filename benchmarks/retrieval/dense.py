"""Dense retrieval: the small index beside FAISS' Flat in one run, on generated vectors and on a real corpus'.

python -m benchmarks.retrieval.dense WORK [--quick] [--large] [--real CORPUS]

The vectors are made, as nobody can be asked to encode millions of passages first: unit vectors of 768 numbers around
topics (a draw per 500 vectors) that lie in 64 directions which matter less and less, each vector off its topic in
the same directions, and noise in all 768. Queries are vectors of the same making that are not in the index, pulled
towards one that is. With --real, the codes' recall on the vectors of a real corpus (built with `aster index build
--kind dense`) is beside that on made vectors of the same number and dimensions.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from aster_env.retrieval.dense_convert import tune
from aster_env.retrieval.dense_index import (
    CODES,
    INFO,
    RERANK,
    VECTORS,
    DenseIndex,
    DenseInfo,
    build_codes,
    choose_factory,
    exact_search,
    import_faiss,
    read_info,
    recall,
    sample_queries,
    write_info,
)
from aster_env.retrieval.encoder import Floats, unit
from aster_env.retrieval.vectors import Vectors

DIM, DIRECTIONS, PER_TOPIC, PUBLISHED = 768, 64, 500, 21_015_324
QUERIES, AT, TARGET, FEWER = 200, 5, 0.98, 100


class Maker:
    """Makes vectors with the structure of a text encoder's, a chunk at a time; the same for the same seed."""

    def __init__(self, count: int, dim: int = DIM) -> None:
        random = np.random.default_rng(7)
        self.dim, self.count = dim, count
        decay = (1 + np.arange(DIRECTIONS, dtype=np.float32)) ** -0.5
        basis = np.linalg.qr(random.standard_normal((dim, DIRECTIONS)))[0].T.astype(np.float32)
        self._basis = basis * (decay / np.linalg.norm(decay))[:, None]
        self._topics = random.standard_normal((max(count // PER_TOPIC, 8), DIRECTIONS), dtype=np.float32)

    def draw(self, count: int, random: np.random.Generator) -> Floats:
        """Return ``count`` vectors."""
        inside = self._topics[random.integers(len(self._topics), size=count)]
        inside = 0.6 * inside + 0.8 * random.standard_normal(inside.shape, dtype=np.float32)
        noise = random.standard_normal((count, self.dim), dtype=np.float32) * np.float32(0.5 / self.dim**0.5)
        return unit(inside @ self._basis + noise)

    def chunks(self) -> Iterator[Floats]:
        """Yield all vectors."""
        random = np.random.default_rng(11)
        for start in range(0, self.count, 16_384):
            yield self.draw(min(16_384, self.count - start), random)

    def queries(self, vectors: Vectors, seed: int = 29) -> Floats:
        """Return queries: new vectors, pulled towards one of the index each."""
        random = np.random.default_rng(seed)
        near = vectors.rows(np.sort(random.integers(len(vectors), size=QUERIES)))
        return unit(0.7 * near + 0.7 * self.draw(QUERIES, random))


def measure(work: Path, quick: bool, large: bool = False, real: Path | None = None) -> dict[str, Any]:
    """Build what is missing under ``work``, and measure each size.

    Args:
        work: a folder for vectors and indices; 1.7 GB a million vectors.
        quick: 50,000 vectors rather than a million.
        large: five million vectors in cells too, and the extrapolation from them.
        real: a corpus with a dense index, for the comparison with real vectors.
    """
    work.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {"cores": os.cpu_count(), "load": os.getloadavg()[0], "rows": []}
    report["rows"].append(_size(work, 50_000 if quick else 1_000_000, with_flat=True))
    if real is not None:
        report["real"] = _real(work, real)
    if large:
        point = _size(work, 5_000_000, with_flat=False)
        report["rows"].append(point)
        report["extrapolation"] = extrapolate(point)
    return report


def extrapolate(point: Mapping[str, Any], count: int = PUBLISHED) -> dict[str, Any]:
    """Return what the published corpus would take, from a point measured with cells.

    Memory: codes and ids grow with the vectors, the cells' centres with the cells, and what a process takes without an
    index is constant. Time: as if all of it grew with the vectors, at the same share of them read, though the
    re-ranking does not. It holds while the re-ranked rows are in the system's cache of files.
    """
    cells = int(choose_factory(count, DIM).removeprefix("IVF").partition("_")[0])
    per_vector, per_cell = DIM // 4 // 2 + 8, DIM * 4 + 8
    constant = point["memory_mb"] - (point["vectors"] * per_vector + point["cells"] * per_cell) / 1e6
    growth = count / point["vectors"]
    return {
        "vectors": count,
        "cells": cells,
        "memory_mb": round(constant + (count * per_vector + cells * per_cell) / 1e6),
        "memory_formula": f"{constant:.0f} MB + {count} · {per_vector} B + {cells} · {per_cell} B",
        "mean_ms": round(point["mean_ms"] * growth, 1),
        "p95_ms": round(point["p95_ms"] * growth, 1),
        "time_formula": f"{point['mean_ms']:.1f} ms · {count} / {point['vectors']}",
        "rerank_file_gb": round(count * DIM * 2 / 1e9, 1),
    }


def table(report: Mapping[str, Any]) -> str:
    """Return the report for people."""
    lines = [f"{'vectors':>10} {'index':<28} recall@5  mean ms  p95 ms  memory MB"]
    lines += [
        f"{row['vectors']:>10,} {one['factory']:<28} {one['recall']:>8.4f} {one['mean_ms']:>8.2f} "
        f"{one['p95_ms']:>7.2f} {one['memory_mb']:>10.0f}"
        for row in report["rows"]
        for one in (row.get("flat"), row)
        if one
    ]
    lines += [
        f"{row['vectors']:,} vectors, {number} compared exactly instead of {RERANK}: recall@5 {value:.4f}"
        for row in report["rows"]
        for number, value in row["recall_by_rerank"].items()
    ]
    if "real" in report:
        real = report["real"]
        lines.append(f"recall@5 of {real['factory']} on {real['vectors']:,} real vectors: {real['recall']:.4f}")
        lines.append(
            f"  without exact re-ranking {real['codes_alone']:.4f}; made vectors {real['made_codes_alone']:.4f}"
        )
    if "extrapolation" in report:
        far = report["extrapolation"]
        lines.append(f"{far['vectors']:,} vectors, extrapolated: {far['memory_mb']} MB = {far['memory_formula']}")
        lines.append(f"  {far['mean_ms']} ms = {far['time_formula']}; p95 {far['p95_ms']} ms")
    return "\n".join(lines)


def _size(work: Path, count: int, with_flat: bool) -> dict[str, Any]:
    folder, maker = work / f"made-{count}", Maker(count)
    seconds = _build(folder, maker)
    info = read_info(folder)
    with Vectors(folder / VECTORS, info.passages, info.dim) as vectors:
        queries = maker.queries(vectors)
        np.save(folder / "queries.npy", queries)
        if not (folder / "exact.npy").exists():
            np.save(folder / "exact.npy", exact_search(vectors, queries, AT))
    if info.recall is None:
        index = DenseIndex.open(folder)
        # Tuned on other queries than those that are reported.
        nprobe, reached, _ = tune(index, maker.queries(index.vectors, seed=31), TARGET + 0.005, print)
        index.close()
        write_info(folder, replace(info, nprobe=nprobe, recall=reached))
    row = {"vectors": count, "build_seconds": seconds, **_child(folder, "small")}
    if with_flat:
        row["flat"] = _child(folder, "flat")
    return row


def _build(folder: Path, maker: Maker) -> float | None:
    """Make vectors and index where they are missing; return the seconds it took, None where they were there."""
    if (folder / INFO).exists():
        return None
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / VECTORS).open("wb") as file:
        for chunk in maker.chunks():
            file.write(chunk.astype(np.float16).tobytes())
    started = time.perf_counter()
    info = DenseInfo("", maker.count, maker.dim, "made", factory=choose_factory(maker.count, maker.dim))
    with Vectors(folder / VECTORS, maker.count, maker.dim) as vectors:
        codes = build_codes(vectors, info.factory, lambda line: print(line, file=sys.stderr, flush=True))
    import_faiss().write_index(codes, str(folder / CODES))
    write_info(folder, info)
    return round(time.perf_counter() - started, 1)


def _child(folder: Path, kind: str) -> dict[str, Any]:
    """Search in a process of its own, whose memory is the index's alone."""
    command = [sys.executable, "-m", "benchmarks.retrieval.dense", str(folder), "--child", kind]
    # Threads that spin while they wait would slow down whatever shares the cores, and so themselves.
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root, env=environment)
    if done.returncode:
        raise RuntimeError(done.stderr)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _search_here(folder: Path, kind: str) -> dict[str, Any]:
    queries, exact = np.load(folder / "queries.npy"), np.load(folder / "exact.npy")
    info = read_info(folder)
    if kind == "small":
        index = DenseIndex.open(folder)
        cells, nprobe, factory = index.cells, index.nprobe, info.factory
        search: Any = index.search
    else:
        flat = import_faiss().IndexFlatIP(info.dim)
        with Vectors(folder / VECTORS, info.passages, info.dim) as vectors:
            for _, rows in vectors.chunks():
                flat.add(rows)
        cells, nprobe, factory, queries, exact = 0, 0, "Flat", queries[:50], exact[:50]

        def search(query: Floats, n: int) -> Any:
            scores, ids = flat.search(query, n)
            return [(ids[0], scores[0])]

    search(queries[:1], AT)
    found, times = [], []
    for query in queries:
        started = time.perf_counter()
        found += search(query[None], AT)
        times.append((time.perf_counter() - started) * 1e3)
    memory = round(_memory(), 1)
    fewer = {} if kind == "flat" else {FEWER: round(recall(search(queries, AT, FEWER), exact), 4)}
    return {
        "factory": factory,
        "cells": cells,
        "nprobe": nprobe,
        "recall": round(recall(found, exact), 4),
        "mean_ms": round(float(np.mean(times)), 3),
        "p95_ms": round(float(np.percentile(times, 95)), 3),
        "memory_mb": memory,
        "recall_by_rerank": fewer,
    }


def _memory() -> float:
    """Return the megabytes that are resident for this process: its own, and its libraries' code."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmRSS:"))


def _real(work: Path, corpus: Path) -> dict[str, Any]:
    """Compare the codes' recall on real vectors with that on made ones, in the same number and dimensions."""
    folder = corpus / "dense"
    info = read_info(folder)
    alone = {}
    factory = choose_factory(info.passages, info.dim)
    made = work / "made.f16"
    maker = Maker(info.passages, info.dim)
    with made.open("wb") as file:
        for chunk in maker.chunks():
            file.write(chunk.astype(np.float16).tobytes())
    for name, path in (("real", folder / VECTORS), ("made", made)):
        with Vectors(path, info.passages, info.dim) as vectors:
            index = DenseIndex(build_codes(vectors, factory), vectors)
            queries = sample_queries(vectors, QUERIES) if name == "real" else maker.queries(vectors)
            exact = exact_search(vectors, queries, AT)
            alone[name] = {n: recall(index.search(queries, AT, n), exact) for n in (AT, 20, RERANK)}
    made.unlink()
    return {
        "factory": factory,
        "vectors": info.passages,
        "recall": round(alone["real"][RERANK], 4),
        "codes_alone": round(alone["real"][AT], 4),
        "made_codes_alone": round(alone["made"][AT], 4),
        "by_rerank": alone,
    }


def main() -> int:
    """Print the table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--large", action="store_true", help="five million vectors too")
    parser.add_argument("--real", type=Path, metavar="CORPUS")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", choices=("small", "flat"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(_search_here(options.work, options.child)))
        return 0
    report = measure(options.work, options.quick, options.large, options.real)
    print(table(report))
    if options.json:
        options.json.write_text(json.dumps(report) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
