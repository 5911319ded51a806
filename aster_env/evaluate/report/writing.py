"""The report's files."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aster_env.evaluate.report.beside import beside
from aster_env.evaluate.report.comparing import compare_html
from aster_env.evaluate.report.page import html
from aster_env.evaluate.report.plain import compare_markdown, markdown
from aster_env.evaluate.report.published import PROTOCOLS


def write(folder: str | Path, summaries: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Write ``report.json``, ``report.md`` and ``report.html`` into a folder, which is made if need be.

    Each file is whole: the one before, or the new one.

    Raises:
        OSError: the folder cannot be written.
    """
    forms = {"json": as_json(summaries), "md": markdown(summaries), "html": html(summaries)}
    return [_write(Path(folder) / f"report.{ending}", text) for ending, text in forms.items()]


def write_comparison(folder: str | Path, found: Mapping[str, Any]) -> list[Path]:
    """Write ``compare.json``, ``compare.md`` and ``compare.html`` into a folder.

    Raises:
        OSError: the folder cannot be written.
    """
    forms = {"json": _json(found), "md": compare_markdown(found), "html": compare_html(found)}
    return [_write(Path(folder) / f"compare.{ending}", text) for ending, text in forms.items()]


def as_json(summaries: Sequence[Mapping[str, Any]]) -> str:
    """Return the summaries, and the published numbers beside them with their sources, as JSON without NaN."""
    rows = dict.fromkeys(p for summary in summaries for row in beside(summary) for p in row.published)
    published = [{**asdict(p), "source": PROTOCOLS[p.protocol].source} for p in rows]
    return _json({"summaries": list(summaries), "published": published})


def _json(value: Any) -> str:
    return json.dumps(_plain(value), indent=1, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """Return JSON types: NaN and infinities are null, what JSON does not know is text."""
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp's is for its owner alone
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path
