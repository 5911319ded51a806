"""Passages from JSON: a row a line (plain or gzip), FlashRAG's rows, or one list."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from aster_env.errors import UsageError
from aster_env.retrieval.base import Passage
from aster_env.retrieval.sources.base import Source, cut

MAX_LINE = 1 << 26
"""Bytes of a line; a longer one is no passage, and is not read into memory."""

FORMS = {
    "flashrag": '{"id": "7", "contents": "\\"Title\\"\\nText."}',
    "jsonl": '{"id": "7", "title": "Title", "text": "Text."} (id and title may be left out)',
    "json": '[{"title": "Title", "text": "Text."}, …]',
}
"""What a row looks like, by format."""


def read_rows(path: Path, form: str, words: int) -> Source:
    """Return the passages of a file of rows.

    Args:
        path: the file; ``.gz`` is unpacked while it is read.
        form: of ``FORMS``.
        words: of a passage; 0 keeps each row whole.
    """
    name = path.name.removesuffix(".gz").rsplit(".", 1)[0]
    return Source(form, name, path.name, "unknown", "", _passages(path, form, words))


def sniff(path: Path) -> str:
    """Return the format of a file of rows by how it begins.

    Raises:
        UsageError: it is of none.
    """
    try:
        with _open(path) as file:
            beginning = file.read(64)
    except (OSError, EOFError, zlib.error):
        beginning = b""  # told below, with its place
    if beginning.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        return "json"
    for number, line in _lines(path):
        if not (begin := line.strip()):
            continue
        if begin.startswith(b"["):
            return "json"
        row = _row(path, number, line)
        return "flashrag" if isinstance(row, Mapping) and "contents" in row else "jsonl"
    raise UsageError(f"{str(path)!r} is empty. Fix: a file with a passage a line, such as {FORMS['jsonl']}.")


def _passages(path: Path, form: str, words: int) -> Iterator[Passage]:
    rows = _list(path) if form == "json" else _rows(path)
    for count, (place, row) in enumerate(rows):
        passage = _passage(place, row, form, count)
        if words:
            yield from cut(passage.id, passage.title, passage.text, words)
        else:
            yield passage


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in _lines(path):
        if row := line.strip():
            yield f"{path.name}, line {number}", _row(path, number, row)


def _list(path: Path) -> Iterator[tuple[str, Any]]:
    whole = b"".join(line for _, line in _lines(path, bounded=False))
    rows = _row(path, 1, whole)
    if not isinstance(rows, list):
        raise UsageError(f"{str(path)!r} holds no list. Fix: {FORMS['json']}, or --format jsonl for a row a line.")
    for number, row in enumerate(rows):
        yield f"{path.name}, row {number}", row


def _passage(place: str, row: Any, form: str, count: int) -> Passage:
    shape = f"Fix: {FORMS[form]}."
    if not isinstance(row, Mapping):
        raise UsageError(f"{place}: {row!r:.80} is no object. {shape}")
    name = row.get("id", str(count))
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise UsageError(f"{place}: the id is {name!r:.80}. Allowed: str or int. {shape}")
    wanted = "contents" if form == "flashrag" else "text"
    if wanted not in row:
        raise UsageError(f"{place}: there is no {wanted!r}, only {sorted(map(str, row))[:8]}. {shape}")
    parts = {key: row.get(key) for key in (wanted, "title")}
    title = "" if parts["title"] is None else parts["title"]
    text = parts[wanted]
    if not isinstance(text, str) or not isinstance(title, str):
        raise UsageError(f"{place}: {wanted} and title are {text!r:.40} and {title!r:.40}. Allowed: str. {shape}")
    passage = Passage.from_contents(str(name), text) if form == "flashrag" else Passage(str(name), title, text)
    if not passage.title and title:
        passage = Passage(str(name), title, text.removeprefix(f"{title}\n"))
    if not (passage.title.strip() or passage.text.strip()):
        raise UsageError(f"{place}: the passage is empty. Fix: leave the row out.")
    return passage


def _row(path: Path, number: int, line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except (ValueError, RecursionError) as error:
        where = number
        if isinstance(error, json.JSONDecodeError):
            where += error.lineno - 1
        raise UsageError(
            f"{path.name}, line {where}: {line[:80]!r} cannot be read ({error}). Fix: JSON in UTF-8, such as "
            f"{FORMS['jsonl']}."
        ) from error


def _lines(path: Path, bounded: bool = True) -> Iterator[tuple[int, bytes]]:
    """Yield lines with their numbers from 1; they end at line breaks alone, whatever else Unicode calls an end."""
    number = 0
    try:
        with _open(path) as file:
            while line := file.readline(MAX_LINE + 1 if bounded else -1):
                number += 1
                if bounded and len(line) > MAX_LINE:
                    raise UsageError(
                        f"{path.name}, line {number} is longer than {MAX_LINE:,} bytes. Fix: a row a line."
                    )
                yield number, line
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(
            f"{str(path)!r} cannot be read after line {number} ({error}). Fix: get the whole file again."
        ) from error


def _open(path: Path) -> BinaryIO:
    return gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb")  # type: ignore[return-value]
