"""An environment whose reward any model's samples vary in: the share of even ids."""

from __future__ import annotations

import os
from typing import Any

import gymnasium as gym

from aster_env.limits import Limits
from aster_env.types import RewardResult, Task, Trajectory
from tests.support import EchoEnv


class EvenIds:
    async def __call__(self, task: Task, trajectory: Trajectory) -> RewardResult:
        ids = [i for turn in trajectory.model_turns for i in turn.ids]
        return RewardResult(sum(i % 2 == 0 for i in ids) / max(1, len(ids)))

    async def close(self) -> None:
        pass


class ParityEnv(EchoEnv):
    def __init__(self, max_tokens: int = 56, tokenizer: Any = None, render_mode: str | None = None) -> None:
        super().__init__(tokenizer=tokenizer, limits=Limits(2, max_tokens))
        self.reward = EvenIds()


gym.register("Parity-v0", entry_point=ParityEnv, disable_env_checker=True)


class UnevenEnv(ParityEnv):
    """Episodes of two tokens on the first process, and of two hundred on the others."""

    def __init__(self, tokenizer: Any = None, render_mode: str | None = None) -> None:
        super().__init__(tokenizer=tokenizer, render_mode=render_mode)
        prompt = max(len(self.tokenizer.encode(task.prompt)) for task in self.tasks) + 30
        self.limits = Limits(2, prompt + (200 if int(os.environ["RANK"]) else 2))


gym.register("Uneven-v0", entry_point=UnevenEnv, disable_env_checker=True)
