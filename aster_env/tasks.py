"""TaskSets: generated, from JSONL, JSON and Parquet files, and from hub datasets by preset name."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aster_env.errors import UnknownNameError, UsageError, check_name
from aster_env.presets import PRESETS, Fields, Preset
from aster_env.rows import MissingColumnError, check_fields, make_tasks, pick, read_file, read_hub
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
        fields: where a Task's parts are in a row of a file or hub dataset; needed where its columns do not have one
            of the usual names (``aster_env.presets.USUAL``).
        kind: the kind of the tasks; a preset has its own, and ``fields`` may place each row's.
        limit: keep the first so many.
        generators: generated families by name: ``generator(split=…, **options) -> TaskSet``.
        options: further arguments of a generated family (``level``, ``size``, ``seed``).

    Raises:
        UsageError: the spec, a file, a column or a row is not usable, or an argument does not apply to such a
            source; the text names it and the fix.
        MissingExtraError: a library that the source needs is not installed.
    """
    families = generators or {}
    given = {"path": path, "split": split, "fields": fields, "options": options}
    preset = _preset(spec) if isinstance(spec, str) else None
    if isinstance(spec, str) and spec in families:
        _check_applies(given, f"the generated family {spec!r}", ("split", "options"))
        tasks = _generate(spec, families[spec], {**(options or {}), **({} if split is None else {"split": split})})
    elif preset is not None:
        _check_applies(given, f"the preset {spec!r}", ("split", "path"))
        tasks = _load_preset(spec, preset, path, split)
    elif isinstance(spec, str | Path):
        tasks = _load_rows(str(spec), given, kind, [*families, *PRESETS])
    else:
        _check_applies(given, "Tasks that are made already", ())
        tasks = _listed(spec)
    return tasks if limit is None else tasks[:limit]


def share_tasks(arguments: Mapping[str, Any], tasks: TaskSet) -> dict[str, Any]:
    """Return an environment's arguments with loaded tasks in place of what says how to load them."""
    loading = ("split", "tasks_path", "task_options", "fields")
    return {**{name: value for name, value in arguments.items() if name not in loading}, "tasks": tasks}


def choose_task(tasks: TaskSet, options: Mapping[str, Any], rng: np.random.Generator) -> Task:
    """Return the task that ``reset`` was asked for, or one at random.

    Args:
        tasks: those of the environment.
        options: ``{"task_id": id}``, ``{"task": Task}``, or nothing.
        rng: draws where nothing was asked for.

    Raises:
        UsageError: an unknown option or task id.
    """
    for name in options:
        check_name("reset option", name, ("task", "task_id"))
    if (task := options.get("task")) is not None:
        if not isinstance(task, Task):
            raise UsageError(f"options['task'] is a {type(task).__name__}. Allowed: an aster_env.types.Task.")
        return task
    if (task_id := options.get("task_id")) is not None:
        return tasks.get(task_id)
    chosen: Task = tasks[int(rng.integers(len(tasks)))]
    return chosen


def from_file(
    path: str | Path, fields: Fields | None = None, *, kind: str = "math", clean: Callable[[str], str] = str
) -> TaskSet:
    """Read a ``.jsonl``, ``.json`` (a list) or ``.parquet`` file.

    Raises:
        UsageError: the file, a column or a row is not usable.
    """
    path = Path(path).expanduser()
    return TaskSet(make_tasks(read_file(path), fields, str(path), kind, clean), str(path))


def _check_applies(given: Mapping[str, Any], source: str, allowed: Sequence[str]) -> None:
    for name, value in given.items():
        if value is not None and value != {} and name not in allowed:
            known = {"path": "path (tasks_path)", "options": "options (task_options)"}
            listed = ", ".join(known.get(each, each) for each in allowed) or "none"
            raise UsageError(
                f"{known.get(name, name)}={value!r} does not apply to {source}. Allowed there: {listed}. "
                "Fix: leave it out."
            )


def _generate(name: str, generator: Callable[..., TaskSet], options: Mapping[str, Any]) -> TaskSet:
    for option in options:
        check_name(f"option of the generated family {name!r}", option, inspect.signature(generator).parameters)
    return generator(**options)


def _listed(spec: Any) -> TaskSet:
    if isinstance(spec, TaskSet):
        return spec
    if not isinstance(spec, Sequence):
        raise UsageError(
            f"tasks={spec!r} is a {type(spec).__name__}. Allowed: a TaskSet, a sequence of Tasks, a name or a path."
        )
    for number, task in enumerate(spec):
        if not isinstance(task, Task):
            raise UsageError(f"tasks[{number}] is a {type(task).__name__}. Allowed: aster_env.types.Task.")
    return TaskSet(spec)


def _load_rows(name: str, given: Mapping[str, Any], kind: str, names: Sequence[str]) -> TaskSet:
    """Read a file or a hub dataset."""
    fields = given["fields"]
    if fields is not None:
        check_fields(fields)
    if name.endswith((".jsonl", ".json", ".parquet")):
        _check_applies(given, f"the file {name!r}", ("fields",))
        return from_file(name, fields, kind=kind)
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        _check_applies(given, f"the hub dataset {name!r}", ("split", "fields"))
        return TaskSet(make_tasks(read_hub(name, None, given["split"] or "train"), fields, name, kind), name)
    raise UnknownNameError("task set (nor a .jsonl, .json or .parquet path, nor an owner/name on the hub)", name, names)


def _preset(name: str) -> Preset | None:
    wanted = re.sub(r"\s", "", name.lower())
    for known, preset in PRESETS.items():
        if wanted == known or wanted in preset.aliases:
            return preset
    return None


def _load_preset(name: str, preset: Preset, path: str | Path | None, split: str | None) -> TaskSet:
    if path is None:
        rows = read_hub(preset.hub, preset.config, split or preset.split)
        return TaskSet(
            make_tasks(_first_by_id(rows, preset.fields), preset.fields, name, preset.kind, preset.clean), name
        )
    _check_applies({"split": split}, f"the local file {str(path)!r}", ())
    path = Path(path).expanduser()
    rows = read_file(path)
    try:
        tasks = make_tasks(_first_by_id(rows, preset.fields), preset.fields, str(path), preset.kind, preset.clean)
    except MissingColumnError as error:
        # A copy of one's own may have other columns than the hub's.
        try:
            tasks = make_tasks(rows, None, str(path), preset.kind, preset.clean)
        except MissingColumnError:
            raise error from None
    return TaskSet(tasks, str(path))


def _first_by_id(rows: list[Any], fields: Fields) -> list[Any]:
    """Keep the first row of each id: DAPO-Math-17k holds every problem many times."""
    if "id" not in fields:
        return rows
    first: dict[str, Any] = {}
    for number, row in enumerate(rows):
        first.setdefault(str(pick(row, fields["id"], "id", f"row {number + 1}")), row)
    return list(first.values())
