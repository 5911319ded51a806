"""One line that says how far a run is."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import TextIO

from aster_env.evaluate.intervals import interval
from aster_env.evaluate.records import Sample


class Progress:
    """Rewrites a line on a terminal; elsewhere writes one every ``every`` seconds.

    Args:
        name: what is evaluated.
        total: samples in all.
        done: samples of an earlier run.
        stream: where the line goes; None: standard error.
        every: seconds between two lines.
    """

    def __init__(
        self, name: str, total: int, done: Iterable[Sample] = (), stream: TextIO | None = None, every: float = 10.0
    ) -> None:
        self.name, self.total = name, total
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._every = 0.5 if self._terminal else every
        self._scores: dict[str, list[float]] = {}
        self._failed = self._fresh = 0
        for sample in done:
            self._count(sample)
        self._started = self._last = time.monotonic()

    def add(self, sample: Sample) -> None:
        """Count a sample, and write the line if it is time to."""
        self._count(sample)
        self._fresh += 1
        if time.monotonic() - self._last >= self._every:
            self._write(self.line())

    def close(self) -> None:
        """Write the line a last time."""
        self._write(self.line())
        if self._terminal:
            self._stream.write("\n")

    def line(self) -> str:
        """Return the line: done/total, average so far with its interval, failures, speed, time left."""
        done = self._failed + sum(map(len, self._scores.values()))
        means = [sum(scores) / len(scores) for scores in self._scores.values()]
        parts = [f"{self.name}  {done}/{self.total}"]
        if means:
            found = interval(means, done)
            value, low, high = (100 * (found[part] or 0.0) for part in ("value", "low", "high"))
            parts.append(f"avg {value:.1f} [{low:.1f}, {high:.1f}]")
        if self._failed:
            parts.append(f"{self._failed} failed")
        if self._fresh:
            speed = self._fresh / max(1e-9, time.monotonic() - self._started)
            parts.append(f"{speed:.2f} samples/s")
            if done < self.total:
                parts.append(f"{_duration((self.total - done) / speed)} left")
        return "  ".join(parts)

    def _count(self, sample: Sample) -> None:
        if sample.score is None:
            self._failed += 1
        else:
            self._scores.setdefault(sample.task, []).append(sample.score)

    def _write(self, line: str) -> None:
        self._last = time.monotonic()
        self._stream.write(f"\r\x1b[K{line}" if self._terminal else f"{line}\n")
        self._stream.flush()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
