"""What a cell prints: bounded at its source, and sent on in order."""

from __future__ import annotations

import fcntl
import io
import os
import threading
import time
from collections.abc import Callable
from typing import Any

_SEND_AT = 1 << 15
_SEND_AFTER = 0.2
_MOST_FLUSHES, _BETWEEN_FLUSHES = 256, 0.05


class OutputLimitExceeded(RuntimeError):
    """A cell printed more than the session allows; raised at each further print."""


class Outlet:
    """Collects what the running cell prints.

    Args:
        limit: characters a cell may print.
        send: called with a stream's name and text; it may be called from any thread.
    """

    def __init__(self, limit: int, send: Callable[[str, str], None]) -> None:
        self._limit, self._send = limit, send
        self._lock = threading.RLock()
        self._pending: list[tuple[str, str]] = []
        self._size = 0
        self._since = self._sent = 0.0
        self.printed = self._flushes = 0

    @property
    def dropped(self) -> int:
        """Characters of this cell that were printed beyond the limit."""
        return max(0, self.printed - self._limit)

    def begin(self) -> None:
        """Start a cell: it may print the whole limit."""
        self.printed = self._flushes = 0

    def write(self, name: str, text: str) -> None:
        """Add ``text`` to the stream ``name``.

        Raises:
            OutputLimitExceeded: the limit is reached; what fitted is kept.
        """
        with self._lock:
            room = self._limit - self.printed
            self.printed += len(text)
            if room > 0 and text:
                kept = text[:room]
                if not self._pending:
                    self._since = time.monotonic()
                self._pending.append((name, kept))
                self._size += len(kept)
            if self._size > _SEND_AT or (self._pending and time.monotonic() - self._since > _SEND_AFTER):
                self.flush()
        if self.printed > self._limit:
            raise OutputLimitExceeded(f"The cell printed more than {self._limit} characters. Print less.")

    def flush_soon(self) -> None:
        """Send what is pending; of a cell that flushes all the time, not more often than its reader could use."""
        self._flushes += 1
        if self._flushes <= _MOST_FLUSHES or time.monotonic() - self._sent > _BETWEEN_FLUSHES:
            self.flush()

    def flush(self) -> None:
        """Send what is pending, neighbours of one stream together."""
        with self._lock:
            self._sent = time.monotonic()
            pending, self._pending, self._size = self._pending, [], 0
            while pending:
                name = pending[0][0]
                count = next((i for i, (other, _) in enumerate(pending) if other != name), len(pending))
                self._send(name, "".join(text for _, text in pending[:count]))
                del pending[:count]


class Stream(io.TextIOBase):
    """``sys.stdout`` or ``sys.stderr`` of a session."""

    def __init__(self, outlet: Outlet, name: str, fd: int) -> None:
        self._outlet, self._name, self._fd = outlet, name, fd
        self.buffer = _Bytes(self)

    encoding = "utf-8"
    errors = "backslashreplace"

    @property
    def name(self) -> str:
        """The name that Python's own streams have."""
        return f"<{self._name}>"

    def write(self, text: str) -> int:
        """Print ``text``."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self._outlet.write(self._name, text)
        return len(text)

    def flush(self) -> None:
        """Send what is pending."""
        self._outlet.flush_soon()

    def fileno(self) -> int:
        """Return the descriptor that C code prints to."""
        return self._fd

    def writable(self) -> bool:
        """Return True."""
        return True


class _Bytes(io.RawIOBase):
    """The bytes below a ``Stream``."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def write(self, data: Any) -> int:
        raw = bytes(data)
        self._stream.write(raw.decode("utf-8", "replace"))
        return len(raw)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream.fileno()


class Captured:
    """What C code and ``os.write`` put on descriptors 1 and 2: files in memory, read after each cell."""

    def __init__(self) -> None:
        for fd in (1, 2):
            made = os.memfd_create("output")
            os.dup2(made, fd)
            os.close(made)
        # Appending, so that a file cut to nothing is filled from its start again.
        for fd in (1, 2):
            fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND | os.O_RDWR)

    def take(self, limit: int) -> tuple[list[tuple[str, str]], int]:
        """Return what was printed since the last call, at most ``limit`` bytes of each stream, and how many more."""
        taken, beyond = [], 0
        for fd, name in ((1, "stdout"), (2, "stderr")):
            try:
                size = os.fstat(fd).st_size
                if size:
                    taken.append((name, os.pread(fd, min(size, limit), 0).decode("utf-8", "replace")))
                    os.ftruncate(fd, 0)
                    beyond += max(0, size - limit)
            except OSError:
                # The cell closed or replaced the descriptor; nothing can be read from it any more.
                continue
        return taken, beyond
