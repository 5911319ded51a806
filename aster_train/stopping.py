"""SIGTERM, as a cluster sends it: a run saves a checkpoint as soon as one can be resumed from, and ends."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback

EXIT_CODE = 128 + signal.SIGTERM
"""What a run that SIGTERM ended exits with: it is not finished, and the same command goes on with it."""


class Preempted(Exception):
    """SIGTERM came; raised on every process, where a checkpoint can be resumed from."""


class Stopping(TrainerCallback):
    """Ends a run on SIGTERM.

    Episodes that are being played are given up; updates on a batch of episodes that has begun are finished, for a
    resumed run could not repeat them. A process that the signal did not reach plays its batch to the end before it
    learns of it; launchers send it to all.

    Args:
        updates: optimizer steps on one batch of episodes: a checkpoint between two batches can be resumed from.
        interrupt: called in the signal's handler, when a batch of episodes may be given up.
    """

    def __init__(self, updates: int, interrupt: Callable[[], None]) -> None:
        self._updates, self._interrupt = updates, interrupt
        self._requested = threading.Event()
        self._step = 0

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Handle SIGTERM; in a thread other than the main one, where Python has no handlers, do nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, self._handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def wait(self, seconds: float) -> None:
        """Sleep, but not past a SIGTERM."""
        self._requested.wait(seconds)

    def requested(self) -> bool:
        """Whether SIGTERM reached this process and what it does now may be given up."""
        return self._requested.is_set() and self.between_batches()

    def agreed(self) -> bool:
        """Return whether SIGTERM reached any process. Collective: every process must call it."""
        return any(gather_object([self._requested.is_set()]))

    def between_batches(self) -> bool:
        """Whether no update on the current batch of episodes is done yet, or all of them are."""
        return self._step % self._updates == 0

    def restore(self) -> None:
        """Set the generators of random numbers to what they were at the end of the last step.

        What has begun since, the next epoch's data for one, a resumed run begins again.
        """
        python, numpy, cpu, devices = self._random
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if devices:
            torch.cuda.set_rng_state_all(devices)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the generators of random numbers."""
        self._note()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the step."""
        self._step = state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End the run where it can be resumed and is not over.

        Raises:
            Preempted: SIGTERM came. Control flags would have an evaluation come first, and other callbacks undo them.
        """
        self._note()
        self._step = state.global_step
        if self.agreed() and self.between_batches() and self._step < state.max_steps:
            raise Preempted

    def _note(self) -> None:
        devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        self._random = random.getstate(), np.random.get_state(), torch.get_rng_state(), devices

    def _handle(self, number: int, frame: Any) -> None:
        self._requested.set()
        if self.between_batches():
            self._interrupt()
