"""Two runs on the same problems, compared in pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from aster_env.errors import UsageError
from aster_env.evaluate.intervals import paired, sign_flip
from aster_env.evaluate.records import Run


def compare(a: Run, b: Run, *, anyway: bool = False, seed: int = 0) -> dict[str, Any]:
    """Return the difference a − b over the problems that both have scored samples of.

    With it: in which settings the runs differ, and how many of each one's samples have no score (``without``).

    Args:
        a: a run.
        b: another on the same tasks.
        anyway: compare although tasks, environment or reward differ.
        seed: of the permutations, where they are too many to try all.

    Raises:
        UsageError: the runs are of different things, or have no problem in common.
    """
    if not anyway:
        check_same(a, b)
    scores = [_means(a), _means(b)]
    tasks = sorted(scores[0].keys() & scores[1].keys())
    if not tasks:
        raise UsageError(
            f"{_name(a)!r} and {_name(b)!r} have no problem in common that both scored. Fix: compare runs of the same "
            "--tasks."
        )
    pairs = [(scores[0][task], scores[1][task]) for task in tasks]
    # Sums of many decimal fractions differ in the last bit.
    differences = [0.0 if abs(x - y) < 1e-9 else x - y for x, y in pairs]
    return {
        "a": _name(a),
        "b": _name(b),
        "problems": len(tasks),
        "only_a": len(scores[0].keys() - scores[1].keys()),
        "only_b": len(scores[1].keys() - scores[0].keys()),
        "without": [_unscored(a), _unscored(b)],
        "settings": _differing(_compared(a), _compared(b)),
        "difference": paired(differences),
        "p": sign_flip(differences, seed),
        "test": "paired permutation over problems",
        "wins": sum(d > 0 for d in differences),
        "losses": sum(d < 0 for d in differences),
        "ties": sum(d == 0 for d in differences),
        "per_problem": [{"task": task, "a": x, "b": y} for task, (x, y) in zip(tasks, pairs, strict=True)],
    }


def check_same(a: Run, b: Run) -> None:
    """Raise ``UsageError`` if two runs asked different things, or scored them differently."""
    differing = []
    for what in ("environment", "tasks", "reward"):
        x, y = (run.manifest[what]["hash"][:12] if what == "tasks" else run.manifest[what] for run in (a, b))
        if x != y:
            differing.append(f"{what} ({x} and {y})")
    if differing:
        raise UsageError(
            f"{_name(a)!r} and {_name(b)!r} differ in {', '.join(differing)}, so a difference says little. Fix: "
            "compare runs of one task set, or pass --anyway."
        )


def _differing(a: Any, b: Any, name: str = "") -> list[list[Any]]:
    """Return the dotted names of values that differ, each with both."""
    if not (isinstance(a, Mapping) and isinstance(b, Mapping)):
        return [] if a == b else [[name.removeprefix("settings."), a, b]]
    keys = dict.fromkeys([*a, *b])
    return [row for key in keys for row in _differing(a.get(key), b.get(key), f"{name}.{key}" if name else key)]


def _compared(run: Run) -> dict[str, Any]:
    return {part: run.manifest.get(part) for part in ("environment", "tasks", "reward", "settings")}


def _unscored(run: Run) -> int:
    """Return how many samples failed, or are not played yet."""
    planned = run.manifest["tasks"]["count"] * run.manifest["settings"]["k"]
    return max(0, int(planned) - sum(sample.score is not None for sample in run.samples))


def _means(run: Run) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for sample in run.samples:
        if sample.score is not None:
            found.setdefault(sample.task, []).append(sample.score)
    return {task: float(np.mean(scores)) for task, scores in found.items()}


def _name(run: Run) -> str:
    return str(run.folder)
