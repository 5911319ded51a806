"""The episodes of self-critic training: the policy as it is plays tasks several times, on all processes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from transformers import AutoModelForCausalLM
from trl import DPOConfig

from aster_env.errors import InfrastructureError, UsageError
from aster_env.rollout import RolloutRunner
from aster_env.tasks import TaskSet
from aster_env.tokenizers import Tokenizer
from aster_env.types import StopReason, Task, Trajectory
from aster_train.dpo_config import DPOSettings, Sampling
from aster_train.policies.hf import OPTIONS, HFPolicy, check_options
from aster_train.ranks import raise_together


def play_tasks(
    settings: DPOSettings, sampling: Sampling, model: str, args: DPOConfig, tokenizer: Tokenizer
) -> list[Trajectory]:
    """Return the episodes that the processes play, all of them on each.

    Args:
        settings: the environment and the policy.
        sampling: the tasks, and how they are played.
        model: a folder or a hub name; loaded whole here, and freed at the end.
        args: the seed, the device and the precision.
        tokenizer: the model's.

    Raises:
        UsageError: the environment cannot be made, or the policy's cache holds no episode; before a model is loaded.
        InfrastructureError: not one episode could be played, or another process failed.
    """
    check_options(settings.policy_kwargs)
    options = {**OPTIONS, "max_batch": settings.max_concurrent, **settings.policy_kwargs}
    env_kwargs = {**settings.env_kwargs, "tokenizer": tokenizer}
    with RolloutRunner(settings.env, max_concurrent=settings.max_concurrent, env_kwargs=env_kwargs) as runner:
        _check_cache(runner, options["max_cache_tokens"])
        tasks = draw(runner.envs[0].tasks, sampling, args.seed)
        runner.check_tasks(tasks[:: sampling.rollouts])
        played: list[Trajectory] = []
        failure: Exception | None = None
        try:
            policy = HFPolicy(
                _load(model, args), tokenizer, temperature=sampling.temperature, top_p=sampling.top_p, **options
            )
            place = (args.seed, args.process_index)
            seed = int(np.random.SeedSequence(place).generate_state(1)[0])
            played = runner.run(policy, tasks[args.process_index :: args.world_size], seed)
        except Exception as error:  # noqa: BLE001 (raised again below, on every process)
            failure = error
        raise_together(failure)
    return _everyones(played)


def draw(tasks: TaskSet, sampling: Sampling, seed: int) -> list[Task]:
    """Return tasks drawn at random, each as often in a row as it is played."""
    count = min(sampling.prompts, len(tasks))
    places = np.random.default_rng(seed).permutation(len(tasks))[:count]
    return [tasks[int(place)] for place in places for _ in range(sampling.rollouts)]


def _load(model: str, args: DPOConfig) -> Any:
    dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
    loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
    return loaded.to(args.device).eval()


def _check_cache(runner: RolloutRunner, most: int) -> None:
    longest = runner.envs[0].limits.max_tokens
    if longest > most:
        raise UsageError(
            f"policy_kwargs.max_cache_tokens={most} holds no episode of env_kwargs.max_tokens={longest}. "
            "Fix: raise the one, or lower the other."
        )


def _everyones(played: list[Trajectory]) -> list[Trajectory]:
    """Return the episodes of all processes in the order of the tasks, whose first is the first process's."""
    shares = gather_object([[t.to_json() for t in played]])
    rows = [row for turn in itertools.zip_longest(*shares) for row in turn if row is not None]
    episodes = [Trajectory.from_json(row) for row in rows]
    failed = [t.error for t in episodes if t.stop is StopReason.INFRASTRUCTURE]
    if len(failed) == len(episodes):
        raise InfrastructureError(
            f"Not one of {len(failed)} episodes could be played. The first failed so: {failed[0]} "
            "Fix: see to it, then start the run again."
        )
    return episodes
