"""From one stage of training to the next: which tasks it still learns from, counted in the episodes of the last.

``aster curriculum RUN`` shows it, and ``curriculum: {after: RUN}`` trains on it. Only the gym is needed here.
"""

from __future__ import annotations

import argparse
import contextlib
import enum
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aster_env.errors import UsageError, check_name
from aster_env.types import StopReason

_FILE = re.compile(r"train-(\d+)(?:-rank\d+)?\.jsonl$")
_TURNS = b', "turns": ['
"""Where the long part of an episode's line begins. Inside a JSON text its first quote would have a backslash before
it, so this is found nowhere else but at such a key."""

Count = tuple[int, int]
"""Of a task: episodes that were right, and episodes that were played."""


class Verdict(enum.StrEnum):
    """What the last epoch says about a task."""

    SOLVED = "solved"
    """Right in every episode: its group has no variance, so nothing is learned from it. Dropped."""
    PARTLY = "partly"
    """Right in some. Kept."""
    UNSOLVED = "unsolved"
    """Right in none. Kept: a longer context may change that."""
    NOT_PLAYED = "not played"
    """The last epoch did not play it. Kept."""


@dataclass(frozen=True, slots=True)
class Curriculum:
    """Drops the tasks that were right in every one of their episodes; keeps those right in none (arXiv:2602.01204).

    Args:
        after: the folder of the run that played them.
        counts: of its last epoch, by task id, see ``solved_counts``.
    """

    after: str
    counts: Mapping[str, Count]

    def verdict(self, task_id: str) -> Verdict:
        """Return what is known of a task."""
        right, played = self.counts.get(task_id, (0, 0))
        if not played:
            return Verdict.NOT_PLAYED
        if right == played:
            return Verdict.SOLVED
        return Verdict.PARTLY if right else Verdict.UNSOLVED

    def keeps(self, task_id: str) -> bool:
        """Return whether the next stage plays the task."""
        return self.verdict(task_id) is not Verdict.SOLVED


@dataclass(frozen=True, slots=True)
class Kept:
    """The tasks that are kept, in their order, and how many tasks there are of each verdict."""

    ids: list[str]
    reasons: Mapping[Verdict, int] = field(default_factory=dict)


def kept(task_ids: Iterable[str], counts: Mapping[str, Count]) -> Kept:
    """Return which of the tasks the next stage plays, and why.

    Args:
        task_ids: those to choose from.
        counts: see ``solved_counts``.
    """
    curriculum, listed = Curriculum("", counts), list(task_ids)
    reasons = Counter(curriculum.verdict(task_id) for task_id in listed)
    ids = [task_id for task_id in listed if curriculum.keeps(task_id)]
    return Kept(ids, {verdict: reasons[verdict] for verdict in Verdict})


def read_curriculum(values: Mapping[str, Any] | None) -> Curriculum | None:
    """Return the curriculum of a configuration, ``{after: FOLDER}``; None of None.

    Raises:
        UsageError: an unknown key, no such folder, no episodes in it, or every task is solved.
    """
    if values is None:
        return None
    for name in values:
        check_name("key of 'curriculum'", name, ("after",))
    folder = values.get("after")
    if not isinstance(folder, str):
        raise UsageError(f"curriculum.after: {folder!r} is not allowed. Allowed: the output_dir of an earlier run.")
    curriculum = Curriculum(folder, solved_counts(folder))
    if not any(map(curriculum.keeps, curriculum.counts)):
        raise UsageError(
            f"curriculum.after={folder!r}: all {len(curriculum.counts)} tasks of its last epoch were right in every "
            "episode, so no task is kept. Fix: leave the curriculum out, or train on harder tasks."
        )
    return curriculum


def solved_counts(folder: str | Path) -> dict[str, Count]:
    """Return, for each task of a run's last epoch, how many of its episodes were right, and how many there were.

    The last epoch is the last whole one that ``trainer_state.json`` tells of, in the run's folder or in its newest
    checkpoint: of E whole epochs of S steps each, steps (E - 1)·S to E·S. Where no state is there, or no epoch was
    whole, it is each task's last step. An episode that failed outside the model is not right: a task is dropped only on
    the evidence of all its episodes. Only what was trained on is in the files: where a selection of episodes is
    switched on, that is what it chose; a band of accuracy leaves out the very groups that a curriculum would drop.

    Args:
        folder: ``output_dir`` of the run; its ``trajectories/train-*.jsonl`` are read line by line.

    Raises:
        UsageError: no such folder, no episodes in it, or a line that is none.
    """
    folder = Path(folder).expanduser()
    files = _files(folder)
    steps = last_epoch(folder)
    if steps is not None:
        files = [(step, path) for step, path in files if step in steps]
    seen: dict[str, tuple[int, int, int]] = {}
    for step, path in files:
        for task_id, right in _played(path):
            before, rights, played = seen.get(task_id, (step, 0, 0))
            if steps is None and before != step:
                rights, played = 0, 0
            seen[task_id] = (step, rights + right, played + 1)
    if not seen:
        raise UsageError(f"{str(folder / 'trajectories')!r} holds no episode of its last epoch.")
    return {task_id: (rights, played) for task_id, (_, rights, played) in seen.items()}


def last_epoch(folder: str | Path) -> range | None:
    """Return the steps of the last whole epoch that a run's state tells of; None where it tells of none.

    Args:
        folder: ``output_dir`` of the run.
    """
    folder = Path(folder)
    states = [_state(path) for path in (*folder.glob("checkpoint-*/trainer_state.json"), folder / "trainer_state.json")]
    done, epoch = max(states, default=(0, 0.0))
    whole = int(epoch + 1e-6)
    if not whole:
        return None
    steps = round(done / epoch)
    return range((whole - 1) * steps, whole * steps)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `aster curriculum`."""
    parser.add_argument("folder", metavar="RUN", help="train.output_dir of a run of grpo.py")
    parser.add_argument("--out", metavar="FILE", help="write the ids of the kept tasks there, one a line")
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")
    parser.set_defaults(run=_command)


def report(counts: Mapping[str, Count]) -> dict[str, Any]:
    """Return what is kept and why, as plain values.

    Args:
        counts: see ``solved_counts``.
    """
    found = kept(counts, counts)
    groups = Counter(counts.values())
    return {
        "tasks": len(counts),
        "kept": len(found.ids),
        "verdicts": {verdict.value: number for verdict, number in found.reasons.items()},
        "groups": [
            {"right": right, "played": played, "tasks": number, "kept": right < played}
            for (right, played), number in sorted(groups.items(), key=lambda item: (item[0][1], item[0][0]))
        ],
    }


def _command(options: argparse.Namespace) -> int:
    counts = solved_counts(options.folder)
    if options.out:
        Path(options.out).write_text("".join(f"{one}\n" for one in kept(counts, counts).ids), encoding="utf-8")
    said = report(counts)
    steps = last_epoch(options.folder)
    said = {"run": options.folder, "steps": [steps.start, steps.stop] if steps else None, **said}
    sys.stdout.write((json.dumps(said, indent=2) if options.json else _text(said)) + "\n")
    return 0


def _text(said: Mapping[str, Any]) -> str:
    counted = f"steps {said['steps'][0]} to {said['steps'][1] - 1}" if said["steps"] else "each task's last step"
    rows = [
        f"{group['right']:>4} of {group['played']:<2}  {group['tasks']:>6}  {'kept' if group['kept'] else 'dropped'}"
        for group in said["groups"]
    ]
    verdicts = said["verdicts"]
    return "\n".join(
        [
            f"{said['run']}: the last epoch, {counted}",
            "",
            f"{'right':>10}  {'tasks':>6}",
            *rows,
            "",
            f"kept: {said['kept']} of {said['tasks']} tasks: {verdicts['partly']} right in some of their episodes, "
            f"{verdicts['unsolved']} in none",
            "tasks that the last epoch did not play are kept, too",
            f"dropped: {verdicts['solved']}, right in all: such a group has no variance, and teaches nothing",
        ]
    )


def _files(folder: Path) -> list[tuple[int, Path]]:
    """Return the files of training episodes with their steps, in the steps' order."""
    if not folder.is_dir():
        beside = sorted(path.name for path in folder.parent.glob("*") if path.is_dir())[:8]
        raise UsageError(f"{str(folder)!r} is no folder. Beside it: {', '.join(beside) or 'none'}.")
    named = ((_FILE.match(path.name), path) for path in (folder / "trajectories").glob("train-*.jsonl"))
    files = sorted((int(match[1]), path) for match, path in named if match)
    if not files:
        raise UsageError(
            f"{str(folder)!r} has no trajectories/train-*.jsonl. Fix: name the train.output_dir of a run of grpo.py."
        )
    return files


def _played(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield task id and rightness of a file's episodes; of a line no more is read than that takes."""
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                if not line.endswith(b"\n"):
                    return  # a run that was killed left it unfinished
                row = _head(line)
                scored = row["reward"] is not None and row["stop"] != StopReason.INFRASTRUCTURE
                yield row["task"]["id"], scored and row["reward_terms"].get("correct", row["reward"]) >= 1
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UsageError(f"{path}, line {number}: no episode ({type(error).__name__}: {error}).") from error


def _head(line: bytes) -> Any:
    """Return a line's object without its turns, which are nearly all of it."""
    head, found, _ = line.partition(_TURNS)
    if found:
        # Cut at a key of the task's metadata, it is no object, and the whole line is read.
        with contextlib.suppress(ValueError):
            return json.loads(head + b"}")
    return json.loads(line)


def _state(path: Path) -> tuple[int, float]:
    """Return the steps and epochs that a state tells of; 0 where there is none."""
    if not path.is_file():
        return 0, 0.0
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        return int(state["global_step"]), float(state["epoch"] or 0.0)
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is no state of a run ({type(error).__name__}: {error}).") from error
