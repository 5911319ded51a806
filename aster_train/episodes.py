"""The episodes of a run as files, one for each step that played any."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from aster_env.types import Trajectory


class EpisodeFiles:
    """Writes ``output_dir/trajectories/{train,eval}-STEP.jsonl``, with ``-rankN`` where there are several processes.

    The batches of a step share a file: its first begins it, the others add to it. A run that resumes plays a step that
    it had begun from its first batch, so nothing is there twice.

    Args:
        output_dir: where the folder ``trajectories`` is made.
        rank: of this process.
        processes: how many there are.
    """

    def __init__(self, output_dir: str, rank: int = 0, processes: int = 1) -> None:
        self._folder = Path(output_dir) / "trajectories"
        self._rank, self._processes = rank, processes
        self._suffix = f"-rank{rank}" if processes > 1 else ""
        self._last: dict[str, tuple[int, int]] = {}
        self._open = self._folder

    def begin(self, mode: str) -> None:
        """Start again at batch 0, in a step that may have been written before."""
        self._last.pop(mode, None)

    def open(self, mode: str, step: int) -> int:
        """Turn to the step's next batch, and return its number in the step."""
        last, batch = self._last.get(mode, (-1, -1))
        batch = batch + 1 if last == step else 0
        self._last[mode] = (step, batch)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._open = self._folder / f"{mode}-{step:06d}{self._suffix}.jsonl"
        if batch == 0:
            if self._rank == 0:
                self._remove_strangers(f"{mode}-{step:06d}")
            self._open.write_bytes(b"")
        return batch

    def _remove_strangers(self, stem: str) -> None:
        """Remove what a run on another number of processes wrote of this step, before it was resumed on these."""
        own = {f"{stem}-rank{rank}" for rank in range(self._processes)} if self._processes > 1 else {stem}
        for path in self._folder.glob(f"{stem}*.jsonl"):
            if path.stem not in own:
                path.unlink()

    def write(self, trajectories: Sequence[Trajectory], columns: Mapping[str, Sequence[float]]) -> None:
        """Add a batch to the file turned to, each episode with its ``advantage`` and other numbers of the trainer."""
        rows = (
            json.dumps({**dict(zip(columns, values, strict=True)), **trajectory.to_json()}) + "\n"
            for trajectory, *values in zip(trajectories, *columns.values(), strict=True)
        )
        with open(self._open, "a", encoding="utf-8") as file:
            file.write("".join(rows))
