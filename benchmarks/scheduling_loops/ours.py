"""This trainer's loop, and what bounds it."""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import gymnasium as gym
from transformers import AutoTokenizer

from aster_env.envs.python_math.env import PythonMathEnv
from aster_env.rollout import GenerateRequest
from aster_train.ledger import PARTS
from aster_train.trainer import AsterGRPOTrainer

from .common import Clock, Slow, arguments, environment, logged, wait


class SlowMath(PythonMathEnv):
    """``ASTER/PythonMath-v0`` with a slow tool."""

    async def areset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> Any:
        """Start an episode; those of a batch begin in its order."""
        await self._open()
        self._slow.begin((options or {})["task"].id)
        return await super().areset(seed=seed, options=options)

    async def open_tools(self) -> Sequence[Any]:
        """Return the slow tool."""
        (tool,) = await super().open_tools()
        self._slow = Slow(tool)  # type: ignore[arg-type]
        return [self._slow]


def run(options: argparse.Namespace, out: str) -> list[dict[str, float]]:
    """Train; return what each step took, and the least that it could have taken."""
    gym.register("Bench/SlowMath-v0", entry_point=SlowMath)
    trainer = AsterGRPOTrainer(
        str(options.model),
        arguments(options, out),
        AutoTokenizer.from_pretrained(options.model),
        env="Bench/SlowMath-v0",
        env_kwargs=environment(options),
        max_concurrent=options.episodes,
    )
    try:
        clock, requests = Clock(), record(trainer.policy)
        trainer.add_callback(clock)
        clock.time(trainer, "_generate", "rollout")
        trainer.train()
        del trainer.policy.generate
        files = sorted(Path(out, "trajectories").iterdir())
        for step, row, file in zip(clock.steps, logged(trainer), files, strict=True):
            episodes = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            step |= {name: row[f"time/{name}"] for name in PARTS}
            step |= {"calls": sum(episode["tool_calls"] for episode in episodes)}
            step |= bound(trainer, requests, episodes)
        return clock.steps
    finally:
        trainer.close()


def record(policy: Any) -> dict[str, list[tuple[GenerateRequest, int]]]:
    """Return what will hold a policy's requests and the lengths of its completions, by task and place in the batch."""
    requests: dict[str, list[tuple[GenerateRequest, int]]] = {}
    generate = policy.generate

    async def recorded(request: GenerateRequest) -> Any:
        completion = await generate(request)
        requests.setdefault(request.episode.rpartition("#")[0], []).append((request, len(completion.ids)))
        return completion

    policy.generate = recorded
    return requests


def bound(trainer: Any, requests: Mapping[str, Any], episodes: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the seconds below which no schedule can play a batch: its generation alone, and its longest episode alone.

    The requests of the batch are made again, those of an episode one after the other, without environment or tool; then
    those of the episode that waited longest, by themselves.
    """
    count: Counter[str] = Counter()
    names, waits = [], []
    for place, episode in enumerate(episodes):
        task = episode["task"]["id"]
        names.append(f"{task}#{place}")
        waits.append([wait(task, count[task], call) for call in range(episode["tool_calls"])])
        count[task] += 1
    longest = max(range(len(waits)), key=lambda n: sum(waits[n]))
    alone, tokens = replay(trainer, [requests[name] for name in names])
    single, _ = replay(trainer, [requests[names[longest]]])
    return {
        "alone": alone,
        "longest": sum(waits[longest]) + single,
        "tokens": sum(length for name in names for _, length in requests[name]),
        "tokens again": tokens,
        "waits one by one": sum(sum(row) for row in waits),
        "waits turn by turn": sum(max(row) for row in zip_longest(*waits, fillvalue=0.0)),
    }


def replay(trainer: Any, episodes: Sequence[Sequence[tuple[GenerateRequest, int]]]) -> tuple[float, int]:
    """Make requests again, with an empty prefix cache; return the seconds, and how many tokens were sampled."""

    async def one(episode: Sequence[tuple[GenerateRequest, int]]) -> int:
        done = [await trainer.policy.generate(request) for request, _ in episode]
        return sum(len(completion.ids) for completion in done)

    async def main() -> tuple[float, int]:
        started = time.perf_counter()
        counts = await asyncio.gather(*(one(episode) for episode in episodes))
        return time.perf_counter() - started, sum(counts)

    trainer.policy.llm.reset_prefix_cache()
    return asyncio.run(main())
