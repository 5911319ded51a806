"""Where the seconds of a training step went: entries that add up to the step's wall time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from transformers import TrainerCallback

from aster_env.types import Trajectory

PARTS = ("generation", "tools", "reward")


class Ledger(TrainerCallback):
    """Books one entry an optimizer step, in seconds of wall time of this process.

    - ``time/step``: from the first micro-batch to the end of the optimizer's step; what comes between steps (logging,
      evaluation, checkpoints) is left out.
    - ``time/rollout``: of these, the seconds in which episodes were played; 0 where a step trains on an earlier batch.
    - ``time/generation``, ``time/tools``, ``time/reward``: these divide ``time/rollout``. Episodes run side by side, so
      it is divided in proportion to the seconds that they spent in each, waiting for their turn included.
    - ``time/update``: the rest of the step: log-probabilities, forward and backward passes, the optimizer.

    So generation + tools + reward = rollout, and rollout + update = step. Several steps between two logs are averaged.

    Args:
        metrics: the lists that the trainer averages at each log.
    """

    def __init__(self, metrics: dict[str, list[float]]) -> None:
        self._metrics = metrics
        self._started = time.perf_counter()
        self._rollout = dict.fromkeys(PARTS, 0.0)

    def add(self, seconds: float, trajectories: Sequence[Trajectory]) -> None:
        """Book a rollout that took so many seconds."""
        spent = {name: sum(t.seconds.get(name, 0.0) for t in trajectories) for name in PARTS}
        total = sum(spent.values())
        for name in PARTS:
            share = spent[name] / total if total else float(name == "generation")
            self._rollout[name] += seconds * share

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self._started = time.perf_counter()
        self._rollout = dict.fromkeys(PARTS, 0.0)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Book the step."""
        step, rollout = time.perf_counter() - self._started, sum(self._rollout.values())
        for name, seconds in {**self._rollout, "rollout": rollout, "update": step - rollout, "step": step}.items():
            self._metrics[f"time/{name}"].append(seconds)
