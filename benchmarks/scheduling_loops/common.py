"""What both loops share: the slow tool, the tasks, the configuration, and a clock."""

from __future__ import annotations

import argparse
import asyncio
import math
import time
import zlib
from collections import Counter
from functools import wraps
from typing import Any, ClassVar

import numpy as np
from transformers import TrainerCallback
from trl import GRPOConfig

from aster_env.tools.python import PythonTool
from aster_train.config import ASTER, training_arguments

MEDIAN, P99 = 0.05, 5.0
"""Of a call's wait, in seconds."""
SIGMA = math.log(P99 / MEDIAN) / 2.3263
GROUP, MAX_TOKENS, MAX_CALLS, TIMEOUT = 8, 224, 8, 10


def wait(task_id: str, episode: int, call: int) -> float:
    """Return how long a call waits, in seconds: that of a task's ``episode``-th episode, both counted from 0."""
    rng = np.random.default_rng((zlib.crc32(task_id.encode()), episode, call))
    return float(MEDIAN * math.exp(SIGMA * rng.standard_normal()))


class Slow:
    """A tool whose calls wait before they run.

    Args:
        tool: what runs then.
    """

    episodes: ClassVar[Counter[str]] = Counter()

    def __init__(self, tool: PythonTool) -> None:
        self.tool, self.name, self.aliases, self.schema = tool, tool.name, tool.aliases, tool.schema
        self.reset, self.close = tool.reset, tool.close

    def begin(self, task_id: str) -> None:
        """Begin the task's next episode."""
        self._task, self._episode, self._calls = task_id, Slow.episodes[task_id], 0
        Slow.episodes[task_id] += 1

    async def __call__(self, **arguments: Any) -> Any:
        """Wait, then run the call."""
        seconds = wait(self._task, self._episode, self._calls)
        self._calls += 1
        await asyncio.sleep(seconds)
        return await self.tool(**arguments)


class Clock(TrainerCallback):
    """Seconds of each step, and of the calls in it that are timed, by name."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start a step."""
        self.steps.append({"step": -time.perf_counter()})

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End it."""
        self.steps[-1]["step"] += time.perf_counter()

    def time(self, owner: Any, method: str, name: str) -> None:
        """Time the calls of a method from now on."""
        call = getattr(owner, method)

        @wraps(call)
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self.steps[-1][name] = self.steps[-1].get(name, 0.0) + time.perf_counter() - started

        setattr(owner, method, timed)


def environment(options: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of the environment; it has the tasks of all steps, and of the one that is not counted."""
    return {
        "tasks": "generated",
        "task_options": {"level": 2, "size": (options.steps + 1) * options.episodes // GROUP},
        "instruction": "",
        "max_tokens": MAX_TOKENS,
        "max_tool_calls": MAX_CALLS,
        "timeout": TIMEOUT,
        # Forked while others wait or the model is trained, instead of all at once when the first calls come.
        "pool_options": {"spares": options.episodes},
    }


def arguments(options: argparse.Namespace, out: str, **changes: Any) -> GRPOConfig:
    """Return what both trainers are configured with; ``changes`` are one's own."""
    values = {
        "output_dir": out,
        "max_steps": options.steps + 1,
        "per_device_train_batch_size": options.episodes,
        "steps_per_generation": 1,
        "num_generations": GROUP,
        "shuffle_dataset": False,
        "learning_rate": 0.0,
        "lr_scheduler_type": "constant",
        "use_vllm": True,
        "vllm_max_model_length": MAX_TOKENS,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        **changes,
    }
    args: GRPOConfig = training_arguments(GRPOConfig, ASTER, values)
    return args


def logged(trainer: Any) -> list[dict[str, float]]:
    """Return what was logged at each step."""
    return [row for row in trainer.state.log_history if "completions/mean_length" in row]
