"""What a run's folder holds: one line a finished sample, and the manifest."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from aster_env.errors import UsageError
from aster_env.types import StopReason, Trajectory

SAMPLES, MANIFEST = "samples.jsonl", "run.json"


@dataclass(frozen=True, slots=True)
class Sample:
    """One episode of an evaluation.

    Args:
        task: the task's id.
        sample: which of the task's samples, from 0.
        seed: what the episode was seeded with.
        score: the reward, bounded to [0, 1]; None after an infrastructure failure, which is never a wrong answer.
        stop: why the episode ended.
        answer: as it was read from the last turn.
        tokens: of the whole episode, by the policy's own count where it has one.
        tool_calls: calls that were executed.
        seconds: of generation and tools, until the answer; judging and waiting for a session are not in it.
        calls: how many were ``ok``, ended in an ``error`` or a ``timeout``, or were ``invalid``.
        trajectory: ``Trajectory.to_json()``; without ``turns`` where a run was read without them.
    """

    task: str
    sample: int
    seed: int
    score: float | None
    stop: str
    answer: str | None
    tokens: int
    tool_calls: int
    seconds: float
    calls: dict[str, int]
    trajectory: dict[str, Any]

    @property
    def key(self) -> tuple[str, int]:
        """Which sample of the run this is."""
        return self.task, self.sample


@dataclass(frozen=True, slots=True)
class Run:
    """A run's folder, read.

    Args:
        folder: where it is.
        manifest: ``run.json``.
        samples: the last record of each sample, in the order of task and number as first written.
    """

    folder: Path
    manifest: dict[str, Any]
    samples: list[Sample]


def make_sample(trajectory: Trajectory, number: int, seed: int) -> Sample:
    """Return the record of an episode that has ended."""
    failed = trajectory.stop is StopReason.INFRASTRUCTURE or trajectory.reward is None
    calls = {"ok": 0, "error": 0, "timeout": 0, "invalid": 0}
    for turn, heard in itertools.zip_longest(trajectory.turns, trajectory.turns[1:]):
        for call in turn.calls[:1]:
            if call.problem is not None:
                calls["invalid"] += 1
            elif heard is not None and heard.results:
                result = heard.results[0]
                calls["timeout" if result.timed_out else "ok" if result.ok else "error"] += 1
    return Sample(
        task=trajectory.task.id,
        sample=number,
        seed=seed,
        score=None if failed else min(1.0, max(0.0, float(trajectory.reward or 0.0))),
        stop=str(trajectory.stop or StopReason.INFRASTRUCTURE),
        answer=trajectory.answer,
        tokens=trajectory.usage.get("tokens", sum(len(turn.ids) for turn in trajectory.turns)),
        tool_calls=trajectory.tool_calls,
        seconds=sum(trajectory.seconds.get(part, 0.0) for part in ("generation", "tools")),
        calls=calls,
        trajectory=trajectory.to_json(),
    )


def read_run(folder: str | Path, *, turns: bool = False) -> Run:
    """Read a run, finished or not; a torn last line is ignored.

    Args:
        folder: of one task set.
        turns: whether the samples' trajectories keep their turns, which are most of the file.

    Raises:
        UsageError: the folder holds no run, or a line that is no sample.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if manifest is None:
        raise UsageError(f"There is no run in {str(folder)!r}: it has no {MANIFEST}. Fix: pass --out of `aster eval`.")
    return Run(folder, manifest, list(read_samples(folder, turns=turns).values()))


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return a folder's manifest, or None if there is none.

    Raises:
        UsageError: it is not readable.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{str(path)!r} is no JSON: {error}. Fix: choose another folder.") from error
    if not isinstance(manifest, dict) or "settings" not in manifest:
        raise UsageError(f"{str(path)!r} is no manifest of `aster eval`. Fix: choose another folder.")
    return manifest


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write a manifest whole or not at all."""
    path = folder / f"{MANIFEST}.part"
    with path.open("w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=2, default=str)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    path.replace(folder / MANIFEST)


def read_samples(folder: Path, *, turns: bool = False) -> dict[tuple[str, int], Sample]:
    """Return the last record of each sample.

    Raises:
        UsageError: a whole line is no sample.
    """
    path, found = folder / SAMPLES, dict[tuple[str, int], Sample]()
    if not path.is_file():
        return found
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break  # torn: its writer was killed
            try:
                sample = Sample(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise UsageError(
                    f"{str(path)!r}, line {number}: no sample ({error}). Fix: take the line out; it is played again."
                ) from error
            if not turns:
                sample.trajectory.pop("turns", None)
            found[sample.key] = sample
    return found


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made if need be, against other processes; a dead process holds nothing.

    Raises:
        UsageError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"Another process is writing to {str(folder)!r}. Fix: wait for it, or choose another --out."
            ) from error
        yield


class SampleWriter:
    """Appends samples to a run's file: each a whole line, on the disk when ``append`` returns.

    Lines that come while others are being written share the next write. Opening cuts a torn last line off.
    """

    def __init__(self, folder: Path) -> None:
        self._file = (folder / SAMPLES).open("ab")
        self._pending: list[bytes] = []
        self._turn = asyncio.Lock()
        self._guard, self._writing = threading.Lock(), threading.Lock()
        _cut_torn(folder / SAMPLES)

    async def append(self, sample: Sample) -> None:
        """Write one sample.

        Raises:
            OSError: the disk is full, say; what was written of the line is cut off when the run is resumed.
        """
        line = await asyncio.to_thread(_encode, sample)
        with self._guard:
            self._pending.append(line)
        async with self._turn:
            if self._pending:
                await asyncio.to_thread(self._write)

    def close(self) -> None:
        """Write what is left, and close the file."""
        try:
            self._write()
        finally:
            self._file.close()

    def _write(self) -> None:
        # A thread whose waiter was cancelled may still be in here.
        with self._writing:
            with self._guard:
                lines, self._pending = self._pending, []
            if lines:
                self._file.write(b"".join(lines))
                self._file.flush()
                os.fsync(self._file.fileno())


def _encode(sample: Sample) -> bytes:
    return json.dumps({field.name: getattr(sample, field.name) for field in fields(sample)}).encode() + b"\n"


def _cut_torn(path: Path) -> None:
    """Cut off a last line without an end."""
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        kept = end
        while kept > 0:
            start = max(0, kept - 65536)
            file.seek(start)
            found = file.read(kept - start).rfind(b"\n")
            if found >= 0:
                kept = start + found + 1
                break
            kept = start
        if kept < end:
            file.truncate(kept)


def hash_tasks(rows: Iterator[tuple[str, str, tuple[str, ...]]]) -> str:
    """Return the SHA-256 of tasks: ids, prompts and answers, in order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()
