"""Checkpoints that are there whole or not at all, and pruned by rule."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import rotate_checkpoints

from aster_train.ranks import raise_together

STAGED = ".saving"
"""Where in ``output_dir`` a checkpoint is written before it gets its name."""


class WholeCheckpoints:
    """A ``transformers`` trainer's checkpoints, each written beside, and renamed when every process has done its part.

    So a run that is killed while saving, or finds the disk full, leaves the checkpoints before it and nothing else.
    ``save_total_limit`` prunes the oldest; the best by ``metric_for_best_model`` and the newest stay.

    On several machines, ``output_dir`` may be shared or each one's own: the first process of each does the renaming.
    """

    args: Any
    accelerator: Any
    state: TrainerState
    _saving = False

    def _get_output_dir(self, trial: Any) -> str:
        """Return where a checkpoint is written; called by ``transformers``."""
        return str(Path(self.args.output_dir) / STAGED if self._saving else self.args.output_dir)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save a checkpoint.

        Raises:
            OSError: it could not be written. Earlier checkpoints are as they were.
        """
        staged, name = Path(self.args.output_dir) / STAGED, f"checkpoint-{self.state.global_step}"
        self._on_each_machine(lambda: shutil.rmtree(staged, ignore_errors=True))
        self._saving, best = True, self.state.best_model_checkpoint
        try:
            # Collective: a process that fails here ends, and with it the others, which its launcher sees to.
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
            self.accelerator.wait_for_everyone()
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise
        finally:
            self._saving = False
        if self.state.best_global_step == self.state.global_step:
            best = str(Path(self.args.output_dir) / name)
        self.state.best_model_checkpoint = best
        self._on_each_machine(lambda: self._publish(staged / name, name))

    def _publish(self, written: Path, name: str) -> None:
        if self.args.should_save:
            # Written a second time: the first names the best checkpoint by where it was written.
            self.state.save_to_json(str(written / "trainer_state.json"))
        final = Path(self.args.output_dir) / name
        if written.is_dir():
            shutil.rmtree(final, ignore_errors=True)
            os.replace(written, final)
        shutil.rmtree(written.parent, ignore_errors=True)
        if self.args.should_save:
            best = self.state.best_model_checkpoint
            rotate_checkpoints(str(self.args.output_dir), self.args.save_total_limit, best)

    def _on_each_machine(self, do: Callable[[], Any]) -> None:
        """Do something in the first process of each machine; go on once all have, or raise on all."""
        failure: Exception | None = None
        if self.args.local_process_index == 0:
            try:
                do()
            except OSError as error:
                failure = error
        raise_together(failure)


def resume_from(output_dir: str | os.PathLike[str]) -> str | None:
    """Return the last checkpoint in ``output_dir``, or None."""
    steps = {}
    for folder in Path(output_dir).glob("checkpoint-*"):
        step = folder.name.removeprefix("checkpoint-")
        if step.isdigit() and (folder / "trainer_state.json").is_file():
            steps[int(step)] = str(folder)
    return steps[max(steps)] if steps else None
