"""Where the seconds of a training step went: entries that add up to the step's wall time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback

from aster_env.types import Trajectory

PARTS = ("generation", "tools", "reward", "train", "overhead")
WAITS = ("tools", "reward")


class Ledger(TrainerCallback):
    """Books one entry an optimizer step, in seconds of wall time of this process.

    - ``time/step``: from the first micro-batch to the end of the optimizer's step; what comes between steps (logging,
      evaluation, checkpoints) is left out.
    - ``time/generation``: the policy's engine was stepping.
    - ``time/tools``, ``time/reward``: every episode waited, the engine too. Divided between the two in proportion to
      the seconds that episodes spent in each; those of a policy that is no engine in this process count likewise as
      generation. Tools that ran while the engine was stepping cost nothing, and are not here.
    - ``time/train``: forward and backward passes, and the optimizer.
    - ``time/overhead``: the rest: environments, padding, weights brought to the engine, metrics, episodes written.

    These five add up to ``time/step``. So do ``time/rollout``, in which episodes were played (0 where a step trains on
    an earlier batch), and ``time/update``, the rest of the step. Several steps between two logs are averaged. A GPU's
    work is booked where it is waited for.

    Args:
        metrics: the lists that the trainer averages at each log.
    """

    def __init__(self, metrics: dict[str, list[float]]) -> None:
        self._metrics = metrics
        self._restart()

    @contextmanager
    def book(self, part: str, *, rollout: bool = False) -> Iterator[None]:
        """Book the seconds inside as ``part``, but for those that are booked as another further inside.

        Args:
            part: one of ``PARTS``.
            rollout: whether they are also part of ``time/rollout``.
        """
        before, started = self._turn_to(part), time.perf_counter()
        try:
            yield
        finally:
            self._turn_to(before)
            self._rollout += rollout * (time.perf_counter() - started)

    def add(self, seconds: float, generation: float, idle: float, trajectories: Sequence[Trajectory]) -> None:
        """Divide the seconds of a rollout, which are overhead until then.

        Args:
            seconds: that it took.
            generation: of these, while the policy's engine was stepping; 0 for one that is elsewhere.
            idle: of these, while every episode waited.
            trajectories: its episodes.
        """
        self._rollout += seconds
        waits = WAITS if generation else ("generation", *WAITS)
        spent = {name: sum(t.seconds.get(name, 0.0) for t in trajectories) for name in waits}
        total = sum(spent.values())
        self._move("generation", generation)
        for name in waits:
            self._move(name, idle * spent[name] / total if total else 0.0)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self._restart()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Book what follows as training."""
        self._turn_to("train")

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Book what follows as overhead."""
        self._turn_to("overhead")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Book the step."""
        self._turn_to("overhead")
        step = sum(self._seconds.values())
        totals = {"rollout": self._rollout, "update": step - self._rollout, "step": step}
        for name, seconds in {**self._seconds, **totals}.items():
            self._metrics[f"time/{name}"].append(seconds)

    def _restart(self) -> None:
        self._since, self._part = time.perf_counter(), "overhead"
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._rollout = 0.0

    def _turn_to(self, part: str) -> str:
        """Book the seconds since the last turn; return the part that they were booked as."""
        now, before = time.perf_counter(), self._part
        self._seconds[before] += now - self._since
        self._since, self._part = now, part
        return before

    def _move(self, part: str, seconds: float) -> None:
        self._seconds["overhead"] -= seconds
        self._seconds[part] += seconds


class Timed:
    """A TRL trainer whose forward passes are booked as training, and what else it does to a batch as overhead."""

    _ledger: Ledger

    def _prepare_inputs(self, *args: Any, **kwargs: Any) -> Any:
        with self._ledger.book("overhead"):
            return super()._prepare_inputs(*args, **kwargs)  # type: ignore[misc]

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        with self._ledger.book("train"):
            return super()._get_per_token_logps_and_entropies(*args, **kwargs)  # type: ignore[misc]
