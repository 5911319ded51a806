"""TaskSets: generated, from JSONL, JSON and Parquet files, and from hub datasets by preset name."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aster_env.errors import MissingExtraError, UnknownNameError, UsageError, check_name
from aster_env.presets import PRESETS, USUAL, Fields, Preset
from aster_env.types import Task


class TaskSet(Sequence[Task]):
    """Tasks in a fixed order, also found by id.

    Args:
        tasks: the tasks; ids must differ.
        name: for messages and reports.

    Raises:
        UsageError: there is no task, or two have the same id.
    """

    def __init__(self, tasks: Iterable[Task], name: str = "tasks") -> None:
        self.name = name
        self._tasks = list(tasks)
        if not self._tasks:
            raise UsageError(f"The task set {name!r} is empty.")
        self._index = {task.id: n for n, task in enumerate(self._tasks)}
        if len(self._index) < len(self._tasks):
            seen: set[str] = set()
            twice = next(task.id for task in self._tasks if task.id in seen or seen.add(task.id))  # type: ignore[func-returns-value]
            raise UsageError(f"The task set {name!r} has two tasks with the id {twice!r}. Fix: give each its own.")

    def __len__(self) -> int:
        return len(self._tasks)

    def __getitem__(self, index: Any) -> Any:
        return TaskSet(self._tasks[index], self.name) if isinstance(index, slice) else self._tasks[index]

    def __iter__(self) -> Iterator[Task]:
        return iter(self._tasks)

    def __repr__(self) -> str:
        return f"TaskSet({self.name!r}, {len(self)} tasks)"

    def get(self, task_id: str) -> Task:
        """Return the task with this id.

        Raises:
            UnknownNameError: there is none; the text offers the nearest.
        """
        if task_id not in self._index:
            raise UnknownNameError(f"task id in {self.name!r}", task_id, self._index)
        return self._tasks[self._index[task_id]]

    def shuffled(self, seed: int) -> TaskSet:
        """Return the tasks in an order given by ``seed``."""
        order = np.random.default_rng(seed).permutation(len(self))
        return TaskSet([self._tasks[i] for i in order], self.name)


def load_tasks(
    spec: Any,
    *,
    path: str | Path | None = None,
    split: str | None = None,
    fields: Fields | None = None,
    kind: str = "math",
    limit: int | None = None,
    generators: Mapping[str, Callable[..., TaskSet]] | None = None,
    options: Mapping[str, Any] | None = None,
) -> TaskSet:
    """Return a TaskSet.

    Args:
        spec: a TaskSet, a sequence of Tasks, the name of a generated family or preset, a hub dataset
            (``"owner/name"``), or the path of a ``.jsonl``, ``.json`` or ``.parquet`` file.
        path: for a preset, a local file to read instead of the hub.
        split: of a generated family or hub dataset.
        fields: where a Task's parts are in a row; needed where a file does not say ``prompt`` and ``answers``.
        kind: the kind of the tasks.
        limit: keep the first so many.
        generators: generated families by name: ``generator(split=…, **options) -> TaskSet``.
        options: further arguments of a generated family (``level``, ``size``, ``seed``).

    Raises:
        UsageError: the spec, a file, a column or a row is not usable; the text names it and the fix.
        MissingExtraError: a library that the source needs is not installed.
    """
    if isinstance(spec, str) and spec in (generators or {}):
        tasks = _generate(
            spec, (generators or {})[spec], {**(options or {}), **({} if split is None else {"split": split})}
        )
    else:
        tasks = _resolve(spec, path, split, fields, kind, generators or {})
        if options:
            raise UsageError(f"Options {dict(options)!r} were given for {spec!r}. Only generated families have some.")
    return tasks if limit is None else tasks[:limit]


def _generate(name: str, generator: Callable[..., TaskSet], options: Mapping[str, Any]) -> TaskSet:
    for option in options:
        check_name(f"option of the generated family {name!r}", option, inspect.signature(generator).parameters)
    return generator(**options)


def _resolve(
    spec: Any,
    path: str | Path | None,
    split: str | None,
    fields: Fields | None,
    kind: str,
    generators: Mapping[str, Callable[..., TaskSet]],
) -> TaskSet:
    if isinstance(spec, TaskSet):
        return spec
    if isinstance(spec, Sequence) and not isinstance(spec, str):
        for number, task in enumerate(spec):
            if not isinstance(task, Task):
                raise UsageError(f"tasks[{number}] is a {type(task).__name__}. Allowed: aster_env.types.Task.")
        return TaskSet(spec)
    name = str(spec)
    preset = _preset(name)
    if preset is not None:
        return _load_preset(name, preset, path, split, kind)
    if name.endswith((".jsonl", ".json", ".parquet")):
        return from_file(name, fields, kind=kind)
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _rows_to_tasks(_hub_rows(name, None, split or "train"), fields, name, kind)
    allowed = [*generators, *PRESETS]
    raise UnknownNameError(
        "task set (nor a .jsonl, .json or .parquet path, nor an owner/name on the hub)", name, allowed
    )


def from_file(
    path: str | Path, fields: Fields | None = None, *, kind: str = "math", clean: Callable[[str], str] = str
) -> TaskSet:
    """Read a ``.jsonl``, ``.json`` (a list) or ``.parquet`` file.

    Raises:
        UsageError: the file, a column or a row is not usable.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        near = [p.name for p in path.parent.glob("*") if p.suffix in (".jsonl", ".json", ".parquet")]
        listed = f" That folder has: {', '.join(sorted(near)[:8])}." if near else ""
        raise UsageError(f"There is no file {str(path)!r}.{listed}")
    readers: dict[str, Callable[[Path], list[Any]]] = {
        ".jsonl": _read_jsonl, ".json": _read_json, ".parquet": _read_parquet,
    }  # fmt: skip
    rows = readers[check_name("file ending", path.suffix, readers)](path)
    if fields is None and rows and isinstance(rows[0], dict):
        fields = next((usual for usual in USUAL if set(usual.values()) <= set(rows[0])), None)
    return _rows_to_tasks(rows, fields, str(path), kind, clean)


def _preset(name: str) -> Preset | None:
    wanted = re.sub(r"\s", "", name.lower())
    for known, preset in PRESETS.items():
        if wanted == known or wanted in preset.aliases:
            return preset
    return None


def _load_preset(name: str, preset: Preset, path: str | Path | None, split: str | None, kind: str) -> TaskSet:
    if path is None:
        rows = _hub_rows(preset.hub, preset.config, split or preset.split)
        return _rows_to_tasks(_first_by_id(rows, preset.fields), preset.fields, name, kind, preset.clean)
    failures = []
    for fields in (preset.fields, *preset.local_fields):
        try:
            return from_file(path, fields, kind=kind, clean=preset.clean)
        except _MissingColumnError as error:
            failures.append(error)
    raise failures[0]


def _first_by_id(rows: list[Any], fields: Fields) -> list[Any]:
    """Keep the first row of each id: DAPO-Math-17k holds every problem many times."""
    if "id" not in fields:
        return rows
    first: dict[str, Any] = {}
    for row in rows:
        first.setdefault(str(_pick(row, fields["id"])), row)
    return list(first.values())


def _hub_rows(name: str, config: str | None, split: str) -> list[Any]:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("datasets", "train", f"The hub dataset {name!r}") from error
    try:
        return list(datasets.load_dataset(name, config, split=split))
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"The hub dataset {name!r} (split {split!r}) could not be loaded: {str(error).splitlines()[0]} "
            "Fix: check the name and split, or pass path= with a local file."
        ) from error


def _read_jsonl(path: Path) -> list[Any]:
    rows = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    rows.append(json.loads(line))
                except ValueError as error:
                    raise UsageError(f"{path}, line {number}: not valid JSON ({error}).") from error
    return rows


def _read_json(path: Path) -> list[Any]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path}: not valid JSON ({error}).") from error
    if not isinstance(rows, list):
        raise UsageError(f"{path}: holds a {type(rows).__name__}. Allowed: a list of objects.")
    return rows


def _read_parquet(path: Path) -> list[Any]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "train", f"Reading {str(path)!r}") from error
    try:
        rows: list[Any] = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not a readable Parquet file ({error}).") from error
    return rows


class _MissingColumnError(UnknownNameError):
    """A field map names a column that the rows do not have."""


def _rows_to_tasks(
    rows: list[Any], fields: Fields | None, name: str, kind: str, clean: Callable[[str], str] = str
) -> TaskSet:
    places = {"prompt": "prompt", "answers": "answers", **(fields or {})}
    for part in places:
        check_name("task field", part, ("prompt", "answers", "id"))
    stem = Path(name).stem
    tasks = []
    for number, row in enumerate(rows):
        where = f"{name}, row {number + 1}"
        if not isinstance(row, dict):
            raise UsageError(f"{where}: is a {type(row).__name__}. Allowed: an object with columns.")
        prompt, answers = (_pick(row, places[part], where, part) for part in ("prompt", "answers"))
        listed = answers if isinstance(answers, list | tuple) else [answers]
        texts = tuple(clean(str(answer)).strip() for answer in listed if answer is not None)
        if not isinstance(prompt, str) or not prompt.strip():
            raise UsageError(f"{where}: the prompt (column {places['prompt']!r}) is empty or no text: {prompt!r}.")
        if not texts or not all(texts):
            raise UsageError(f"{where}: the answer (column {places['answers']!r}) is empty: {answers!r}.")
        task_id = str(_pick(row, places["id"], where, "id")) if "id" in places else f"{stem}-{number}"
        tasks.append(Task(task_id, prompt, texts, kind))
    return TaskSet(tasks, name)


def _pick(row: Any, place: str, where: str = "row", part: str = "id") -> Any:
    """Return the value at a dotted path; a column whose own name holds dots comes first."""
    if isinstance(row, dict) and place in row:
        return row[place]
    value = row
    for step in place.split("."):
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            columns = list(value) if isinstance(value, dict) else [str(i) for i in range(len(value))]
            raise _MissingColumnError(f"column for {part!r} ({where})", place, columns)
    return value
