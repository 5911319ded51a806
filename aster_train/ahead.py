"""The next batch of episodes, played in a thread while the model is updated: one step off-policy."""

from __future__ import annotations

import concurrent.futures
import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers.integrations import is_deepspeed_zero3_enabled

from aster_env.errors import UsageError
from aster_env.types import Trajectory


class Ahead:
    """Holds at most one batch that is played ahead.

    Args:
        device: of the engine; a thread of CUDA's has one of its own, which would be the first.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "ahead", self._settle)
        self._tasks: Sequence[str] = ()
        self._batch: concurrent.futures.Future[list[Trajectory]] | None = None

    def start(self, tasks: Sequence[str], play: Callable[[], list[Trajectory]]) -> None:
        """Begin to play a batch of these tasks."""
        self._settle()
        self._tasks, self._batch = tasks, self._thread.submit(play)

    def _settle(self) -> None:
        """Make the engine's device this thread's, and wait for weights that are on their way to it."""
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)
            torch.cuda.synchronize(self._device)

    def take(self, tasks: Sequence[str]) -> list[Trajectory] | None:
        """Return the episodes of these tasks once they are played, or None if another batch was, or none.

        Raises:
            Exception: what playing raised.
        """
        batch, self._batch = self._batch, None
        episodes = batch.result() if batch else None
        return episodes if list(tasks) == list(self._tasks) else None

    def wait(self) -> None:
        """Return when nothing is being played: the weights that it samples from may change now."""
        if self._batch is not None:
            concurrent.futures.wait([self._batch])

    def close(self) -> None:
        """Wait for what is being played, which was given up, and end the thread."""
        self._thread.shutdown()


class Snapshot:
    """A copy of a model that stays as it is while the model is updated, until ``renew``."""

    def __init__(self, model: Any) -> None:
        self._source = model
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        for module in self.model.modules():
            # What TRL and accelerate have put in place of a class's own leads back to the model that is updated.
            module.__dict__.pop("forward", None)

    def renew(self) -> None:
        """Copy the model's weights as they are now."""
        with torch.no_grad():
            for mine, theirs in zip(self.model.parameters(), self._source.parameters(), strict=True):
                mine.copy_(theirs)


def check_ahead(args: Any, *, own_policy: bool) -> None:
    """Raise ``UsageError`` where episodes cannot be played beside an update."""
    reason = ""
    if own_policy:
        reason = "the policy is your own, and when its weights change is its own affair. Fix: leave 'ahead' out"
    elif args.use_vllm and not args.vllm_importance_sampling_correction:
        reason = "nothing would correct for the older weights. Fix: train.vllm_importance_sampling_correction true"
    elif args.use_vllm and args.vllm_enable_sleep_mode:
        reason = "the engine sleeps while the model is updated. Fix: train.vllm_enable_sleep_mode false"
    elif is_deepspeed_zero3_enabled() and not args.use_vllm:
        reason = "it needs a whole copy of weights that ZeRO-3 splits. Fix: train.use_vllm true"
    if reason:
        raise UsageError(f"ahead=true is not allowed here: {reason}.")
