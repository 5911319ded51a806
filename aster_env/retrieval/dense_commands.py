"""The dense parts of `aster index`: build, convert and eval."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from aster_env.errors import UsageError
from aster_env.retrieval.corpus import Corpus
from aster_env.retrieval.dense_convert import FlatFile, build_dense, convert_flat, tune
from aster_env.retrieval.dense_index import (
    CODES,
    VECTORS,
    DenseIndex,
    DenseInfo,
    read_info,
    sample_queries,
    write_info,
)
from aster_env.retrieval.encoder import MINILM, Encoder, EncoderOptions, Floats

MAX_QUERIES = 10_000


def add_build_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what a dense index needs to the arguments of `aster index build`."""
    _add_common(parser)
    _add_encoder(parser)


def add_convert_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `aster index convert`."""
    _add(parser, "flat", metavar="FLAT.index", help="a Flat index of FAISS, with a vector for each passage in order")
    _add_common(parser)
    _add_encoder(parser)
    _add(parser, "--no-check", action="store_true", help="do not encode passages to compare them with their vectors")


def add_eval_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `aster index eval`."""
    _add_common(parser)
    _add(parser, "--queries", type=Path, metavar="FILE", help="one a line; default: made from sampled vectors")
    _add(parser, "--count", type=int, default=200, help="queries to compare (200)")
    _add(parser, "--keep", action="store_true", help="only report: leave the index's nprobe and recall as they are")


def build(options: argparse.Namespace) -> int:
    """Encode a corpus and index its vectors."""
    corpus, encoder = Corpus(options.folder), _encoder(options)
    started = time.perf_counter()
    info = build_dense(corpus, encoder, options.index, cells=options.cells, target=options.recall, progress=_tell)
    return _report(options, info, corpus, time.perf_counter() - started)


def convert(options: argparse.Namespace) -> int:
    """Make the small index from a Flat one, without loading it."""
    flat, corpus, encoder = FlatFile(options.flat), Corpus(options.folder), _encoder(options)
    started = time.perf_counter()
    info = convert_flat(
        flat,
        corpus,
        encoder,
        options.index,
        check=not options.no_check,
        cells=options.cells,
        target=options.recall,
        progress=_tell,
    )
    return _report(options, info, corpus, time.perf_counter() - started)


def evaluate(options: argparse.Namespace) -> int:
    """Compare an index with the exact search, and choose ``nprobe`` for the recall wanted; 1 if it is not reached."""
    if not 1 <= options.count <= MAX_QUERIES:
        raise UsageError(f"--count {options.count} is not allowed. Fix: 1 to {MAX_QUERIES}.")
    if not 0 < options.recall <= 1:
        raise UsageError(f"--recall {options.recall} is not allowed. Fix: more than 0, at most 1.")
    corpus = Corpus(options.folder)
    folder = options.index or corpus.folder / "dense"
    info = read_info(folder)
    if info.corpus_sha256 != corpus.info.sha256:
        raise UsageError(
            f"The index in {str(folder)!r} is of another corpus than {options.folder!r}. Fix: build it again."
        )
    texts = None if options.queries is None else _queries(options.queries, options.count)
    index = DenseIndex.open(folder)
    try:
        queries = sample_queries(index.vectors, options.count) if texts is None else _encoded(texts, info)
        nprobe, reached, tried = tune(index, queries, options.recall, _tell)
        started = time.perf_counter()
        for query in queries[:50]:
            index.search(query[None], 5)
        milliseconds = (time.perf_counter() - started) / len(queries[:50]) * 1e3
    finally:
        index.close()
    info = replace(info, nprobe=nprobe, recall=round(reached, 4))
    if not options.keep:
        write_info(folder, info)
    report = {
        "folder": str(folder),
        **asdict(info),
        "wanted": options.recall,
        "queries": len(queries),
        "milliseconds": round(milliseconds, 2),
        "tried": tried,
    }
    line = (
        f"recall@5 {reached:.4f} of the exact search over {len(queries)} queries (wanted {options.recall}), "
        f"nprobe {nprobe}, {milliseconds:.2f} ms a query"
    )
    _print(options, report, line)
    return 0 if reached >= options.recall else 1


def _add(parser: argparse.ArgumentParser, name: str, **settings: Any) -> None:
    """Add an argument, unless who made the parser added it."""
    wanted = name.lstrip("-").replace("-", "_")
    if all(action.dest != wanted for action in parser._actions):
        parser.add_argument(name, **settings)


def _add_common(parser: argparse.ArgumentParser) -> None:
    _add(parser, "folder", metavar="FOLDER", help="the corpus")
    _add(parser, "--index", type=Path, metavar="FOLDER", help="of the index; default: `dense` in the corpus' folder")
    _add(parser, "--recall", type=float, default=0.98, help="recall@5 that nprobe is chosen for (0.98)")
    _add(parser, "--json", action="store_true", help="print the report as JSON")


def _add_encoder(parser: argparse.ArgumentParser) -> None:
    _add(parser, "--encoder", default=MINILM, help="minilm (default), or the folder of a sentence-transformers model")
    _add(parser, "--query-prefix", help="put before queries; default: as the model's files say, or e5's")
    _add(parser, "--passage-prefix", help="put before passages; default: likewise")
    _add(parser, "--pooling", help="mean, cls, max or lasttoken; default: as the model's files say")
    _add(parser, "--cells", type=int, help="of an inverted file, 0 for none; default: by the corpus' size")


def _encoder(options: argparse.Namespace) -> Encoder:
    if options.cells is not None and options.cells < 0:
        raise UsageError(
            f"--cells {options.cells} is not allowed. Fix: 0 for none, or about four times the root of the size."
        )
    return Encoder(options.encoder, EncoderOptions(options.query_prefix, options.passage_prefix, options.pooling))


def _encoded(texts: list[str], info: DenseInfo) -> Floats:
    return Encoder(info.encoder, EncoderOptions(info.query_prefix, info.passage_prefix, info.pooling)).queries(texts)


def _queries(path: Path, count: int) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{str(path)!r} cannot be read: {error}. Fix: a text file with a query a line.") from error
    texts = [line for line in lines if line][:count]
    if not texts:
        raise UsageError(f"{str(path)!r} holds no query. Fix: a text file with a query a line.")
    return texts


def _report(options: argparse.Namespace, info: DenseInfo, corpus: Corpus, seconds: float) -> int:
    folder = options.index or corpus.folder / "dense"
    sizes = {name: (folder / name).stat().st_size for name in (CODES, VECTORS)}
    report = {"folder": str(folder), **asdict(info), "bytes": sizes, "seconds": round(seconds, 1)}
    line = (
        f"{folder}: {info.passages:,} vectors of {info.dim}, {info.factory}, {sizes[CODES] / 1e6:.1f} MB in memory and "
        f"{sizes[VECTORS] / 1e6:.1f} MB on disk, recall@5 {info.recall} at nprobe {info.nprobe}, {seconds:.1f} s"
    )
    _print(options, report, line)
    return 0


def _print(options: argparse.Namespace, report: Mapping[str, Any], line: str) -> None:
    sys.stdout.write((json.dumps(report, indent=2) if options.json else line) + "\n")


def _tell(line: str) -> None:
    sys.stderr.write(line + "\n")
