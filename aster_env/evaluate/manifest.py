"""A run's manifest: everything that says what was evaluated, and with what."""

from __future__ import annotations

import datetime
import importlib
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from aster_env.errors import UsageError
from aster_env.evaluate.records import hash_tasks
from aster_env.evaluate.settings import EvalSettings, folder_name
from aster_env.tasks import TaskSet

COMPARED = ("environment", "settings", "tasks", "reward", "policy")
"""What must not change when a run is resumed."""


def make_manifest(
    settings: EvalSettings, name: str, tasks: TaskSet, reward: Any, described: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the manifest of a run that begins now, as plain JSON.

    Args:
        settings: of the evaluation.
        name: the task set, as given.
        tasks: those that are played.
        reward: of the environment.
        described: the policy, by itself.
    """
    kinds = sorted({task.kind for task in tasks})
    shown = folder_name(name) if name else tasks.name
    manifest = {
        "format": 1,
        "name": shown,
        "environment": settings.environment,
        "settings": settings.recorded(name),
        "tasks": {
            "name": shown,
            "count": len(tasks),
            "kind": kinds[0] if len(kinds) == 1 else "mixed",
            "hash": hash_tasks((task.id, task.prompt, task.answers) for task in tasks),
        },
        "reward": _describe(reward),
        "policy": dict(described),
        "versions": _versions(),
        "git": _commit(),
        "platform": platform.platform(),
        "sources": {},
        "started": now(),
        "finished": None,
        "wall_seconds": 0.0,
    }
    return as_plain(manifest)


def as_plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping as it will be read back from JSON."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(value), default=str))
    return plain


def continue_manifest(
    old: Mapping[str, Any], new: Mapping[str, Any], folder: Path, parts: Sequence[str] = COMPARED
) -> dict[str, Any]:
    """Return the manifest of a run that goes on: the old one, with the versions of now.

    Args:
        old: of the folder.
        new: of the same evaluation, if it began now.
        folder: for the message.
        parts: which of ``COMPARED`` to compare.

    Raises:
        UsageError: what is evaluated has changed; the text names what, and its values.
    """
    for part in parts:
        was, now_is = _without_address(old.get(part)), _without_address(new[part])
        if part == "policy" and isinstance(was, dict):
            # A policy may find out more about itself while it plays; its options are compared among the settings.
            now_is = {name: value for name, value in now_is.items() if name != "options"}
            was = {name: was.get(name) for name in now_is}
        _check_equal(was, now_is, part, folder)
    return {**old, **{name: new[name] for name in ("versions", "git", "platform")}, "finished": None}


def _without_address(value: Any) -> Any:
    """Leave out where an endpoint is, and which variable holds its key: the same model may have moved."""
    if not isinstance(value, dict):
        return value
    return {
        name: _without_address(each) if name == "policy" else each
        for name, each in value.items()
        if name not in ("url", "key_variable")
    }


def now() -> str:
    """Return the time, in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _check_equal(old: Any, new: Any, name: str, folder: Path) -> None:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            _check_equal(old.get(key), new.get(key), f"{name}.{key}", folder)
    elif old != new:
        raise UsageError(
            f"The run in {str(folder)!r} was begun with another {name.removeprefix('settings.')}: was {old!r}, is "
            f"{new!r}. Fix: give it as it was to go on with that run, or another --out to begin one."
        )


def _describe(reward: Any) -> str:
    """Return a reward's name with its plain settings."""
    plain = {
        name: value
        for name, value in sorted(getattr(reward, "__dict__", {}).items())
        if not name.startswith("_") and name != "unjudged" and isinstance(value, str | int | float | bool)
    }
    return f"{type(reward).__name__}({', '.join(f'{name}={value!r}' for name, value in plain.items())})"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "aster-gym": importlib.import_module("aster_env").__version__}
    for package in ("gymnasium", "numpy", "math-verify"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _commit() -> str | None:
    """Return the commit of the checkout that this package is in, with "+" if it was changed since; None outside one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        said = [
            subprocess.run(["git", *command], cwd=root, capture_output=True, text=True, timeout=10, check=True).stdout
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return said[0].strip() + ("+" if said[1].strip() else "")
