"""Folders that appear whole or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aster_env.errors import UsageError

_LOCK = "lock"


@contextmanager
def staged(folder: Path, fix: str = "see that the disk has room, or name another folder.") -> Iterator[Path]:
    """Give a path beside ``folder`` to build at; it does not exist yet, and what is left of it at the end is removed.

    What a process that was killed left there is removed by the next that builds the same folder.

    Args:
        folder: what it is to become; the caller renames it.
        fix: the advice of an error.

    Raises:
        UsageError: for any OSError, in the ``with`` block too: nothing can be written there.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _clear(folder)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            with (staging / _LOCK).open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield staging / "new"
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise UsageError(f"{str(folder)!r} cannot be written ({error}). Fix: {fix}") from error


def check_free(folder: Path) -> None:
    """See that nothing is lost where a folder is to be made.

    Raises:
        UsageError: there is something, other than an empty folder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{str(folder)!r} is there already. Fix: another folder, or remove it first.")


def put(built: Path, folder: Path) -> None:
    """Give what was built its name; an empty folder gives way."""
    if folder.exists():
        folder.rmdir()
    os.rename(built, folder)


def _clear(folder: Path) -> None:
    """Remove what nobody builds any more: a process that ends, however, lets go of its lock."""
    for old in folder.parent.glob(f".{folder.name}-*"):
        try:
            with (old / _LOCK).open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(old, ignore_errors=True)
        except OSError:
            continue  # somebody is building it, or it is none of ours
