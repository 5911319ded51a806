"""How many episodes, updates and steps a configuration comes to on a number of GPUs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Batches:
    """What a run is made of.

    Args:
        unit: what a batch holds: ``"episodes"`` of a generation, ``"examples"`` of an update.
        batch: so many, trained on.
        prompts: of a batch; 0 where there is no group.
        group: episodes of a prompt.
        played: episodes that are played for a batch; more where a selection is made.
        updates: optimizer steps on a batch.
        micro: so many in a forward pass on a GPU.
        batches: of an epoch; None: the number of tasks is not known.
        steps: optimizer steps of the run; None likewise.
    """

    unit: str
    batch: int
    prompts: int
    group: int
    played: int
    updates: int
    micro: int
    batches: int | None
    steps: int | None

    def lines(self) -> list[str]:
        """Return it in words."""
        groups = f" = {self.prompts:,} prompts x {self.group} rollouts" if self.prompts else ""
        lines = [f"a batch: {self.batch:,} {self.unit}{groups}, {self.micro} in a forward pass on each GPU"]
        if self.played > self.batch:
            lines.append(f"played for it: {self.played:,} episodes, of which the selection keeps {self.batch:,}")
        lines.append(f"updates on a batch: {self.updates}, each on {self.batch // self.updates:,} {self.unit}")
        if self.batches is None or self.steps is None:
            return [*lines, "an epoch: the number of tasks is not known here"]
        return [*lines, f"an epoch: {self.batches:,} batches; the run: {self.steps:,} updates"]


def grpo_batches(args: Any, micro: int, selection: Mapping[str, Any] | None, tasks: int | None) -> Batches:
    """Return the arithmetic of a run of ``grpo.py``.

    TRL's sampler gives whole batches of prompts alone, so what is left of an epoch is dropped.

    Args:
        args: TRL's ``GRPOConfig``, with ``per_device_train_batch_size`` times the number of GPUs.
        micro: ``per_device_train_batch_size`` itself.
        selection: of the configuration.
        tasks: how many there are.
    """
    from aster_train.check import updates_a_batch

    chosen = selection or {}
    batch, group = args.generation_batch_size, args.num_generations
    batches = None if tasks is None else tasks // (batch // group)
    updates = updates_a_batch(args)
    steps = args.max_steps if args.max_steps > 0 else None
    if steps is None and batches is not None:
        steps = math.ceil(args.num_train_epochs * batches * updates)
    played = batch * chosen.get("resample", 1) * chosen.get("oversample", 3 if "accuracy_band" in chosen else 1)
    return Batches("episodes", batch, batch // group, group, played, updates, micro, batches, steps)


def example_batches(args: Any, micro: int, examples: int | None) -> Batches:
    """Return the arithmetic of a run on examples or pairs.

    Args:
        args: TRL's ``SFTConfig`` or ``DPOConfig``, with ``per_device_train_batch_size`` times the number of GPUs.
        micro: ``per_device_train_batch_size`` itself.
        examples: how many there are.
    """
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps
    batches = None if examples is None else math.ceil(examples / batch)
    steps = args.max_steps if args.max_steps > 0 else None
    if steps is None and batches is not None:
        steps = math.ceil(args.num_train_epochs * batches)
    return Batches("examples", batch, 0, 1, batch, 1, micro, batches, steps)
