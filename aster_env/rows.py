"""Rows of files and hub data sets, and the Tasks that a field map finds in them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aster_env.errors import MissingExtraError, UnknownNameError, UsageError, check_name
from aster_env.presets import USUAL, Fields
from aster_env.types import Task

PARTS = ("prompt", "answers", "id", "kind")
KINDS = ("math", "qa")
"""What a row may say that it is; see ``Task.kind``."""


class MissingColumnError(UsageError):
    """A field map names a column that a row does not have."""


def check_fields(fields: Any) -> None:
    """Raise ``UsageError`` for what is no field map."""
    if not isinstance(fields, Mapping):
        raise UsageError(
            f"fields={fields!r} is a {type(fields).__name__}. Allowed: a mapping of task fields to columns, such as "
            "{'prompt': 'question', 'answers': 'answer'}."
        )
    for part, place in fields.items():
        check_name("task field", part, PARTS)
        if not isinstance(place, str):
            raise UsageError(f"fields[{part!r}]={place!r} is a {type(place).__name__}. Allowed: a column's name.")


def make_tasks(
    rows: Sequence[Any], fields: Fields | None, name: str, kind: str, clean: Callable[[str], str] = str
) -> list[Task]:
    """Return the Tasks that rows hold.

    Args:
        rows: dictionaries of columns.
        fields: where a Task's parts are; a prompt or answers that it does not place are looked for under their usual
            names. Without an ``id``, tasks are numbered.
        name: of the source, for messages and ids.
        kind: of the tasks, unless ``fields`` has a column for it: a file may hold several kinds.
        clean: applied to each answer.

    Raises:
        MissingColumnError: a row lacks a column.
        UsageError: a row is not usable otherwise.
    """
    places = _places(fields or {}, rows)
    stem = Path(name).stem
    tasks = []
    for number, row in enumerate(rows):
        where = f"{name}, row {number + 1}"
        if not isinstance(row, dict):
            raise UsageError(f"{where}: is a {type(row).__name__}. Allowed: an object with columns.")
        prompt, answers = (pick(row, places[part], part, where) for part in ("prompt", "answers"))
        listed = list(answers) if isinstance(answers, list | tuple) else [answers]
        if places["answers"] == "answer" and isinstance(row.get("answer_aliases"), list):
            listed += row["answer_aliases"]  # MuSiQue's other gold answers
        texts = tuple(clean(str(answer)).strip() for answer in listed if answer is not None)
        if not isinstance(prompt, str) or not prompt.strip():
            raise UsageError(f"{where}: the prompt (column {places['prompt']!r}) is empty or no text: {prompt!r}.")
        if not texts or not all(texts):
            raise UsageError(f"{where}: the answer (column {places['answers']!r}) is empty: {answers!r}.")
        task_id = str(pick(row, places["id"], "id", where)) if "id" in places else f"{stem}-{number}"
        own = kind
        if "kind" in places:
            own = check_name(f"kind of task ({where})", str(pick(row, places["kind"], "kind", where)), KINDS)
        tasks.append(Task(task_id, prompt, texts, own))
    return tasks


def pick(row: Any, place: str, part: str, where: str) -> Any:
    """Return the value at a dotted path; a column whose own name holds dots comes first.

    Raises:
        MissingColumnError: there is none.
    """
    if isinstance(row, dict) and place in row:
        return row[place]
    value = row
    for step in place.split("."):
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        elif isinstance(value, dict | list):
            columns = map(str, value if isinstance(value, dict) else range(len(value)))
            raise MissingColumnError(str(UnknownNameError(f"column for {part!r} ({where})", place, columns)))
        else:
            raise MissingColumnError(
                f"Unknown column for {part!r} ({where}) {place!r}: {step!r} would be a part of {value!r:.60}, a "
                f"{type(value).__name__}, which has no parts. Fix: name the column itself."
            )
    return value


def read_file(path: Path) -> list[Any]:
    """Return the rows of a ``.jsonl``, ``.json`` (a list) or ``.parquet`` file.

    Raises:
        UsageError: it does not exist, or is not what its ending says.
        MissingExtraError: pyarrow is needed and not installed.
    """
    if not path.is_file():
        near = [p.name for p in path.parent.glob("*") if p.suffix in _READERS]
        listed = f" That folder has: {', '.join(sorted(near)[:8])}." if near else ""
        raise UsageError(f"There is no file {str(path)!r}.{listed}")
    return _READERS[check_name("file ending", path.suffix, _READERS)](path)


def read_hub(name: str, config: str | None, split: str) -> list[Any]:
    """Return the rows of a hub data set.

    Raises:
        UsageError: it could not be loaded.
        MissingExtraError: ``datasets`` is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("datasets", "search", f"The hub dataset {name!r}") from error
    try:
        return list(datasets.load_dataset(name, config, split=split))
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"The hub dataset {name!r} (split {split!r}) could not be loaded: "
            f"{(str(error) or repr(error)).splitlines()[0]} "
            "Fix: check the name and split, or use a local file (for a preset: path, or tasks_path)."
        ) from error


def _places(fields: Fields, rows: Sequence[Any]) -> dict[str, str]:
    """Complete a field map with the usual names of columns, as far as the first row has them."""
    missing = {"prompt", "answers"} - set(fields)
    columns = set(rows[0]) if rows and isinstance(rows[0], dict) else set()
    usual = next((u for u in USUAL if all(u[part] in columns for part in missing)), USUAL[0])
    return {**usual, **fields}


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8 ({error}). Fix: save it as UTF-8.") from error
    except OSError as error:
        raise UsageError(f"{path}: could not be read ({error}).") from error


def _read_jsonl(path: Path) -> list[Any]:
    rows = []
    for number, line in enumerate(_read_text(path).split("\n"), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise UsageError(f"{path}, line {number}: not valid JSON ({error}).") from error
    return rows


def _read_json(path: Path) -> list[Any]:
    text = _read_text(path)
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not valid JSON ({error}).") from error
    if not isinstance(rows, list):
        raise UsageError(f"{path}: holds a {type(rows).__name__}. Allowed: a list of objects.")
    return rows


def _read_parquet(path: Path) -> list[Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "search", f"Reading {str(path)!r}") from error
    try:
        rows: list[Any] = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise UsageError(f"{path}: not a readable Parquet file ({error}).") from error
    return rows


_READERS: dict[str, Callable[[Path], list[Any]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
}
