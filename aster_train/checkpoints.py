"""Checkpoints that are there whole or not at all, and pruned by rule."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import rotate_checkpoints

from aster_env.errors import UsageError
from aster_train.ranks import raise_together

STAGED = ".saving"
"""Where in ``output_dir`` a checkpoint is written before it gets its name."""


class WholeCheckpoints:
    """A ``transformers`` trainer's checkpoints, each written beside, and renamed when every process has done its part.

    So a run that is killed while saving, or finds the disk full, leaves the checkpoints before it and nothing else.
    ``save_total_limit`` prunes the oldest; the best by ``metric_for_best_model`` and the newest stay. Several machines
    share ``output_dir``: the first process of all does the renaming.
    """

    args: Any
    accelerator: Any
    state: TrainerState
    _saving = False

    def _get_output_dir(self, trial: Any) -> str:
        """Return where a checkpoint is written; called by ``transformers``."""
        return str(Path(self.args.output_dir) / STAGED if self._saving else self.args.output_dir)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save a checkpoint, unless that of this step is there, as after a resumed run that is interrupted at once.

        Raises:
            OSError: it could not be written. Earlier checkpoints are as they were.
        """
        folder = Path(self.args.output_dir)
        staged, final = folder / STAGED, folder / f"checkpoint-{self.state.global_step}"
        if any(gather_object([resume_from(folder) == str(final)])):
            return
        self._first_process(lambda: shutil.rmtree(staged, ignore_errors=True))
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
            best = str(final)
        self.state.best_model_checkpoint = best
        self._first_process(lambda: self._publish(staged / final.name, final))

    def _publish(self, written: Path, final: Path) -> None:
        # Written a second time: the first names the best checkpoint by where it was written.
        self.state.save_to_json(str(written / "trainer_state.json"))
        if final.exists():  # no whole one, or this would not be here
            final.rename(written.parent / f"old-{final.name}")
        os.replace(written, final)
        shutil.rmtree(written.parent, ignore_errors=True)
        rotate_checkpoints(str(final.parent), self.args.save_total_limit, self.state.best_model_checkpoint)

    def _first_process(self, do: Callable[[], Any]) -> None:
        """Do something in the first process; go on once it has, or raise on all."""
        failure: Exception | None = None
        if self.args.process_index == 0:
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


def resume_together(output_dir: str) -> str | None:
    """Return the last checkpoint in ``output_dir``, or None; the same on every process.

    Raises:
        UsageError: the processes of the run do not see the same one.
    """
    seen = gather_object([resume_from(output_dir)])
    if len(set(seen)) > 1:
        raise UsageError(
            f"train.output_dir={output_dir!r}: its last checkpoint is {seen[0]} to one process and "
            f"{next(one for one in seen if one != seen[0])} to another. Fix: name a folder that all machines share."
        )
    return seen[0]


def is_finished(checkpoint: str | None, args: Any) -> bool:
    """Return whether a checkpoint is that of the last step of a run with these arguments."""
    if checkpoint is None:
        return False
    state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
    if args.max_steps > 0:
        return state.global_step >= args.max_steps
    return state.num_train_epochs == math.ceil(args.num_train_epochs) and state.global_step >= state.max_steps
