"""`aster corpus` and `aster index`: from a source to a corpus that retrievers search."""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aster_env.errors import UsageError, check_name

KINDS = ("lexical", "dense")
DENSE = "aster_env.retrieval.dense_commands"


class _Progress:
    """Says on stderr how far a long build is, every few seconds."""

    def __init__(self, what: str, total: int = 0, every: float = 5.0) -> None:
        self.what, self.every = what, every
        self.of = f" of {total:,}" if total else ""
        self.last = time.perf_counter()

    def __call__(self, done: int) -> None:
        if (now := time.perf_counter()) - self.last >= self.every:
            self.last = now
            sys.stderr.write(f"{self.what}: {done:,}{self.of} passages\n")


def add_corpus(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `aster corpus`."""
    from aster_env.retrieval.sources import FORMATS, PASSAGE_WORDS

    verbs = parser.add_subparsers(dest="verb", metavar="build | show", required=True)
    formats = "\n".join(f"  {name:9}{what}" for name, what in FORMATS.items())
    build = verbs.add_parser(
        "build",
        help="make a corpus and its lexical index from a source",
        description="Make a corpus and its lexical index from a source.",
        epilog=f"formats:\n{formats}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    build.add_argument("source", metavar="SOURCE", help="a file, or the name of an installed package")
    build.add_argument("folder", metavar="FOLDER", help="the corpus; must not be there yet")
    build.add_argument("--format", help="of the source; default: by the file's name and beginning")
    build.add_argument("--name", help="of the corpus; default: the source's")
    build.add_argument("--licence", help="of the text, where the source does not say it")
    build.add_argument("--attribution", help="whom to name; written beside the corpus as ATTRIBUTION.md")
    build.add_argument("--limit", type=int, metavar="N", help="only the first N passages")
    build.add_argument("--passage-words", type=int, metavar="N", help=_words_help(PASSAGE_WORDS))
    build.add_argument("--language", default="en-us", help="of ovos: en-us (default), es-es or fr-fr")
    build.add_argument("--no-index", action="store_true", help="without the lexical index")
    build.add_argument("--threads", type=int, help="that write the index; default: the processors, at most 4")
    build.add_argument("--json", action="store_true", help="print the report as JSON")
    build.set_defaults(run=build_corpus)
    show = verbs.add_parser("show", help="what a corpus is", description="Print what a corpus is.")
    show.add_argument("folder", metavar="FOLDER", help="the corpus")
    show.add_argument("--verify", action="store_true", help="read the whole of it and compare the hash")
    show.add_argument("--json", action="store_true", help="print the report as JSON")
    show.set_defaults(run=show_corpus)


def build_corpus(options: argparse.Namespace) -> int:
    """Write a corpus from a source, and index it."""
    from aster_env.retrieval.corpus import CorpusInfo, write_corpus
    from aster_env.retrieval.sources import read_source

    if options.limit is not None and options.limit < 1:
        raise UsageError(f"--limit {options.limit} is not allowed. Fix: 1 or more, or leave it out.")
    if options.threads is not None and options.threads < 1:
        raise UsageError(f"--threads {options.threads} is not allowed. Fix: 1 or more, or leave it out.")
    source = read_source(options.source, options.format, options.passage_words, options.language)
    attribution = source.attribution if options.attribution is None else options.attribution
    info = CorpusInfo(options.name or source.name, source.origin, options.licence or source.licence, attribution)
    started, progress = time.perf_counter(), _Progress("corpus")
    passages = itertools.islice(source.passages, options.limit)
    corpus = write_corpus(options.folder, _counted(passages, progress), info)
    seconds = {"corpus": round(time.perf_counter() - started, 1)}
    if not options.no_index:
        seconds["index"] = _index(corpus, None, options.threads)[1]
    report = {"folder": str(corpus.folder), "format": source.format, **asdict(corpus.info), "seconds": seconds}
    took = ", ".join(f"{what} {value} s" for what, value in seconds.items())
    _print(options, report, f"{_describe(report)}\nseconds:     {took}")
    if corpus.info.licence == "unknown":
        sys.stderr.write("The source does not say under which licence its text is: --licence records it.\n")
    return 0


def show_corpus(options: argparse.Namespace) -> int:
    """Print what a corpus is, and which indices it has."""
    from aster_env.retrieval.corpus import Corpus

    corpus = Corpus(options.folder)
    report: dict[str, Any] = {"folder": str(corpus.folder), **asdict(corpus.info)}
    report["indices"] = [kind for kind in KINDS if (corpus.folder / kind).is_dir()]
    text = f"{_describe(report)}\nindices:     {', '.join(report['indices']) or 'none'}"
    if options.verify:
        corpus.verify()
        report["verified"] = True
        text += "\nverified:    the passages have this hash"
    _print(options, report, text)
    return 0


def add_index(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `aster index`."""
    dense = importlib.import_module(DENSE)
    verbs = parser.add_subparsers(dest="verb", metavar="build | convert | eval", required=True)
    build = verbs.add_parser(
        "build", help="index a corpus", description="Index a corpus: by words (lexical) or by vectors (dense)."
    )
    build.add_argument("folder", metavar="FOLDER", help="the corpus")
    build.add_argument("--kind", default="lexical", help="lexical (default) or dense")
    build.add_argument(
        "--index", type=Path, metavar="FOLDER", help="of the index; default: `lexical` or `dense` in the corpus' folder"
    )
    build.add_argument("--threads", type=int, help="of lexical; default: the processors, at most 4")
    build.add_argument("--json", action="store_true", help="print the report as JSON")
    dense.add_build_arguments(build)
    build.set_defaults(run=build_index)
    for verb, purpose, add, run in (
        ("convert", "make a small dense index from a Flat index of FAISS", dense.add_convert_arguments, dense.convert),
        ("eval", "compare a dense index with the exact search", dense.add_eval_arguments, dense.evaluate),
    ):
        child = verbs.add_parser(verb, help=purpose, description=purpose[0].upper() + purpose[1:] + ".")
        add(child)
        child.set_defaults(run=run)


def build_index(options: argparse.Namespace) -> int:
    """Index a corpus by words, or by vectors."""
    from aster_env.retrieval.corpus import Corpus

    if check_name("kind of index", options.kind, KINDS) == "dense":
        build: Callable[[argparse.Namespace], int] = importlib.import_module(DENSE).build
        return build(options)
    corpus = Corpus(options.folder)
    folder, seconds = _index(corpus, options.index, options.threads)
    size = sum(path.stat().st_size for path in folder.iterdir())
    report = {"folder": str(folder), "kind": "lexical", "passages": len(corpus), "bytes": size, "seconds": seconds}
    _print(options, report, f"{folder}: {len(corpus):,} passages, {size / 1e6:.1f} MB, {seconds} s")
    return 0


def _index(corpus: Any, folder: Path | None, threads: int | None) -> tuple[Path, float]:
    from aster_env.retrieval.lexical import build_lexical

    started = time.perf_counter()
    path = build_lexical(corpus, folder, threads, _Progress("index", len(corpus)))
    return path, round(time.perf_counter() - started, 1)


def _counted(passages: Any, progress: Callable[[int], None]) -> Any:
    for number, passage in enumerate(passages, 1):
        yield passage
        progress(number)


def _describe(report: Mapping[str, Any]) -> str:
    rows = ("folder", "name", "source", "licence", "passages", "sha256")
    lines = [
        f"{row + ':':12} {report[row]:,}" if row == "passages" else f"{row + ':':12} {report[row]}" for row in rows
    ]
    if report["attribution"]:
        lines.append(f"{'attribution:':12} {Path(report['folder']) / 'ATTRIBUTION.md'}")
    return "\n".join(lines)


def _words_help(words: int) -> str:
    return f"of a passage, about; 0: do not split; default: {words} for whole articles (zim, ovos), else 0"


def _print(options: argparse.Namespace, report: Mapping[str, Any], text: str) -> None:
    sys.stdout.write((json.dumps(report, indent=2, ensure_ascii=False) if options.json else text) + "\n")
