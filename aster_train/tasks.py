"""Tasks as TRL takes them, in an order that a resumed run repeats; and episodes as it takes those."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl.trainer.utils import RepeatSampler

from aster_env.tasks import TaskSet
from aster_env.types import StopReason, Trajectory


class Epochs(TrainerCallback):
    """Tells a sampler which epoch begins.

    The data loaders' own wrappers do not hand it down on several processes, where a run resumes in an epoch.

    Args:
        sampler: returns the sampler in use.
    """

    def __init__(self, sampler: Callable[[], TaskSampler | None]) -> None:
        self._sampler = sampler

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Draw the epoch's order."""
        sampler = self._sampler()
        if sampler is not None:
            sampler.set_epoch(int(state.epoch + 1e-6))


class TaskSampler(RepeatSampler):
    """TRL's sampler with an order drawn from the seed and the epoch.

    TRL's own generator only ever goes on, so that a run resumed in its second epoch would go through the first again.
    """

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Draw the order of this epoch; called by the trainer at its start."""
        self.epoch = epoch
        if self.shuffle:
            self.generator.manual_seed(self._seed())

    def following(self, batch: Sequence[int], rank: int, processes: int) -> list[int] | None:
        """Return the batch that a process plays after this one, as positions of tasks; None after an epoch's last."""
        order = list(range(self.num_samples))
        if self.shuffle:
            order = torch.randperm(self.num_samples, generator=torch.Generator().manual_seed(self._seed())).tolist()
        share = self.batch_size * self.mini_repeat_count // processes
        found = False
        for start in range(0, self.num_samples - self.batch_size + 1, self.batch_size):
            all_of_it = [task for task in order[start : start + self.batch_size] for _ in range(self.mini_repeat_count)]
            own = all_of_it[rank * share : (rank + 1) * share]
            if found:
                return own
            found = own == list(batch)
        return None

    def _seed(self) -> int:
        return int(np.random.SeedSequence((self.seed, self.epoch)).generate_state(1)[0])


def as_dataset(tasks: TaskSet) -> Dataset:
    """Return the ids of tasks, under the name that TRL expects."""
    return Dataset.from_dict({"prompt": [task.id for task in tasks]})


def training_row(trajectory: Trajectory, pad_id: int, *, masked: bool = False) -> dict[str, list[Any]]:
    """Return an episode as TRL takes it: the ids after the prompt, and for each whether the model sampled it.

    An episode that failed for reasons outside the model is masked whole; TRL needs at least one id, so an episode
    without any gets a pad, masked too.

    Args:
        trajectory: the episode.
        pad_id: the pad token.
        masked: whether nothing of it is trained on, for whatever other reason.
    """
    start = len(trajectory.prompt_ids)
    ids, mask, logprobs = trajectory.ids[start:], trajectory.mask[start:], trajectory.logprobs[start:]
    if masked or trajectory.stop is StopReason.INFRASTRUCTURE:
        mask = [0] * len(ids)
    if not ids:
        ids, mask, logprobs = [pad_id], [0], [0.0]
    return {"prompt_ids": trajectory.prompt_ids, "completion_ids": ids, "logprobs": logprobs, "env_mask": mask}


def environment_reward(reward: list[float | None], **_: Any) -> list[float | None]:
    """Hand the environment's rewards to TRL; None leaves an episode out."""
    return reward
