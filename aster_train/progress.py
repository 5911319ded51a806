"""Progress for people: one line a logged step; the whole of the metrics goes to ``report_to``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from transformers import PrinterCallback, ProgressCallback, TrainerCallback


class OneLine(TrainerCallback):
    """Prints a few of the logged numbers, the step, and the time it has taken.

    Args:
        names: which numbers.
        every: print each so many logs.
    """

    def __init__(self, names: Sequence[str], every: int = 1) -> None:
        self.names, self.every = names, every
        self._started = time.monotonic()
        self._logs = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self._started = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Print the line."""
        shown = {n: logs[n] for n in self.names if logs and isinstance(logs.get(n), int | float)}
        self._logs += bool(shown)
        last = state.global_step >= state.max_steps
        if shown and state.is_world_process_zero and (last or self._logs % self.every == 0):
            numbers = "  ".join(f"{name} {_short(value)}" for name, value in shown.items())
            seconds = time.monotonic() - self._started
            print(f"step {state.global_step}/{state.max_steps}  {numbers}  ({seconds:.0f} s)", flush=True)


def show_progress(trainer: Any, names: Sequence[str]) -> None:
    """Let a trainer print one line for each log, in place of whole dictionaries; ``disable_tqdm`` keeps it quieter."""
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    steps = trainer.args.logging_steps
    trainer.add_callback(OneLine(names, every=max(1, round(10 / steps)) if trainer.args.disable_tqdm else 1))


def _short(value: float) -> str:
    return f"{value:.2e}" if 0 < abs(value) < 1e-2 else f"{value:.3g}"
