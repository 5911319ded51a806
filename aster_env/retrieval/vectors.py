"""The vectors of a corpus in a file: half precision, read row by row from a memory map."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
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

    Pages are asked for one by one (``MADV_RANDOM``), so what stays in memory is what was read lately, and the system
    may drop it at any time.

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
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._map.madvise(mmap.MADV_RANDOM)
        self._rows: npt.NDArray[np.float16] = np.frombuffer(self._map, dtype=np.float16).reshape(count, dim)
        self.path, self.dim = path, dim

    def __len__(self) -> int:
        return len(self._rows)

    def __enter__(self) -> Vectors:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def rows(self, ids: Ids) -> Floats:
        """Return the rows at these positions, float32; cold pages are read from the disk side by side."""
        width = self.dim * 2
        for first in (ids * width).tolist():
            start = first - first % mmap.PAGESIZE
            self._map.madvise(mmap.MADV_WILLNEED, start, first + width - start)
        return self._rows[ids].astype(np.float32)

    def chunks(self, size: int = 4_096) -> Iterator[tuple[int, Floats]]:
        """Yield (position of the first, rows as float32) over all of it; no page stays mapped behind it."""
        # Plain reads: pages of a map would count as this process's memory.
        with self.path.open("rb", buffering=0) as file:
            for start in range(0, len(self), size):
                yield start, read_rows(file, min(size, len(self) - start), self.dim, np.dtype(np.float16))

    def close(self) -> None:
        """Release the map; no row can be read afterwards. Calling it twice is harmless."""
        self._rows = np.empty((0, self.dim), dtype=np.float16)
        try:
            self._map.close()
        except BufferError:
            # Somebody still holds rows; the map goes with the last of them.
            return


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
