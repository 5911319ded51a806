"""Where what is built once is kept, and how several processes may build it at the same time."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from aster_env.retrieval.staging import staged


def cache_folder() -> Path:
    """Return the folder of what aster builds once: ``$ASTER_CACHE``, ``$XDG_CACHE_HOME/aster`` or ``~/.cache/aster``.

    An empty variable counts as unset. The folder need not exist yet.
    """
    if own := os.environ.get("ASTER_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared).expanduser() if shared else Path.home() / ".cache") / "aster"


def build_once(folder: Path, build: Callable[[Path], object]) -> Path:
    """Return ``folder``, after ``build`` has filled it unless it is there already.

    It appears whole or not at all. Where several processes build it at once, the first to finish wins and the others
    use its result.

    Args:
        folder: where the result lies.
        build: called with a path beside it, which does not exist; makes a folder there.

    Raises:
        UsageError: nothing can be written there.
    """
    if folder.exists():
        return folder
    with staged(folder, "see that the disk has room, or set ASTER_CACHE to a folder you may write to.") as built:
        build(built)
        try:
            os.rename(built, folder)
        except OSError:
            # Another process was faster: a folder that holds something is not replaced.
            if not folder.is_dir():
                raise
    return folder
