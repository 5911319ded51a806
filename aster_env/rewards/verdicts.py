"""Verdicts that were given: in memory, and in a file that outlives the process."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import OrderedDict
from contextlib import closing
from pathlib import Path

from aster_env.errors import JudgeError, UsageError

_MAGIC = b"SQLite format 3\0"
_TABLE = "CREATE TABLE IF NOT EXISTS verdicts (question TEXT PRIMARY KEY, correct INTEGER NOT NULL) WITHOUT ROWID"


class Verdicts:
    """Remembers the most recent verdicts, and all of them in a SQLite file where one is named.

    The file may serve many processes; it is opened for each access, in a thread, so that nothing stays open.

    Args:
        path: of the file, or None.
        most: verdicts in memory.
    """

    def __init__(self, path: Path | None, most: int = 65_536) -> None:
        self._path, self._most = path, most
        self._recent: OrderedDict[str, bool] = OrderedDict()

    async def get(self, question: str) -> bool | None:
        """Return the verdict, or None.

        Raises:
            JudgeError: the file cannot be read.
        """
        if question in self._recent:
            self._recent.move_to_end(question)
            return self._recent[question]
        row = None
        if self._path is not None:
            row = await self._run("SELECT correct FROM verdicts WHERE question = ?", (question,))
        if row is None:
            return None
        self._remember(question, bool(row[0]))
        return bool(row[0])

    async def put(self, question: str, correct: bool) -> None:
        """Store a verdict.

        Raises:
            JudgeError: the file cannot be written.
        """
        self._remember(question, correct)
        if self._path is not None:
            await self._run("INSERT OR REPLACE INTO verdicts VALUES (?, ?)", (question, int(correct)))

    def _remember(self, question: str, correct: bool) -> None:
        self._recent[question] = correct
        self._recent.move_to_end(question)
        if len(self._recent) > self._most:
            self._recent.popitem(last=False)

    async def _run(self, statement: str, values: tuple[str | int, ...]) -> tuple[int] | None:
        try:
            return await asyncio.to_thread(self._execute, statement, values)
        except sqlite3.Error as error:
            raise JudgeError(
                f"The judge's cache {str(self._path)!r} failed: {error}. Fix: name another file, or cache=None."
            ) from error

    def _execute(self, statement: str, values: tuple[str | int, ...]) -> tuple[int] | None:
        assert self._path is not None
        with closing(sqlite3.connect(self._path, timeout=10)) as connection, connection:
            connection.execute(_TABLE)
            row: tuple[int] | None = connection.execute(statement, values).fetchone()
            return row


def check_cache(path: str | Path | None) -> Path | None:
    """Return the path of a cache.

    Raises:
        UsageError: its folder does not exist, or it is a file of another kind.
    """
    if path is None:
        return None
    where = Path(path).expanduser().resolve()
    if not where.parent.is_dir():
        raise UsageError(f"cache={str(path)!r}: there is no folder {str(where.parent)!r}. Fix: make it.")
    if where.exists():
        if not where.is_file():
            raise UsageError(f"cache={str(path)!r} is no file. Fix: name a file.")
        with where.open("rb") as file:
            begins = file.read(len(_MAGIC))
        if begins not in (b"", _MAGIC):
            raise UsageError(f"cache={str(path)!r} is no SQLite file. Fix: name another file.")
    return where
