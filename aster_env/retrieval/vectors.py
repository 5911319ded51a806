"""The vectors of a corpus in a file: half precision, read row by row."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from aster_env.errors import UsageError

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


class Vectors:
    """Rows of float16 without a header: ``count`` times ``dim`` numbers.

    Rows are read where they lie (``pread``), through the cache of files, which the system may drop. A memory
    map would read the same pages, but count them, and their neighbours, as this process's memory.

    Args:
        path: the file.
        count: how many rows it holds.
        dim: how many numbers a row holds.

    Raises:
        UsageError: the file is missing, or its size is another.
    """

    def __init__(self, path: Path, count: int, dim: int) -> None:
        size = path.stat().st_size if path.is_file() else -1
        if count < 1 or dim < 1 or size != count * dim * 2:
            raise UsageError(
                f"{str(path)!r} has {size} bytes; {count} vectors of {dim} numbers take {count * dim * 2}. "
                "Fix: build the index again."
            )
        self._file = path.open("rb", buffering=0)
        self._advise: Callable[[int, int, int, int], None] | None = getattr(os, "posix_fadvise", None)
        if self._advise is not None:
            self._advise(self._file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        self.path, self.count, self.dim = path, count, dim

    def __len__(self) -> int:
        return self.count

    def __enter__(self) -> Vectors:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def rows(self, ids: Ids) -> Floats:
        """Return the rows at these positions, float32; cold pages are read from the disk side by side."""
        width, file = self.dim * 2, self._file.fileno()
        places = (ids * width).tolist()
        if self._advise is not None:
            for place in places:
                self._advise(file, place, width, os.POSIX_FADV_WILLNEED)
        found = b"".join(os.pread(file, width, place) for place in places)
        return np.frombuffer(found, dtype=np.float16).reshape(len(places), self.dim).astype(np.float32)

    def chunks(self, size: int = 4_096) -> Iterator[tuple[int, Floats]]:
        """Yield (position of the first, rows as float32) over all of it."""
        with self.path.open("rb", buffering=0) as file:
            for start in range(0, len(self), size):
                yield start, read_rows(file, min(size, len(self) - start), self.dim, np.dtype(np.float16))

    def close(self) -> None:
        """Close the file; calling it twice is harmless."""
        self._file.close()


def read_rows(file: FileIO, count: int, dim: int, dtype: np.dtype[Any]) -> Floats:
    """Read the next ``count`` rows of a file as float32.

    Raises:
        UsageError: the file ends before.
    """
    buffer: npt.NDArray[Any] = np.empty((count, dim), dtype=dtype)
    view, done = memoryview(buffer.data).cast("B"), 0
    while done < len(view):
        got = file.readinto(view[done:])
        if not got:
            raise UsageError(f"{file.name!r} ends early. Fix: copy or download it again.")
        done += got
    return buffer.astype(np.float32)
