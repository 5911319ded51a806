"""AsterGRPOTrainer: TRL's GRPO trainer with our episodes and our advantages; the only file that subclasses TRL."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # rollout_func is the seam; tests pin what is used of it

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import RepeatSampler

from aster_env.errors import InfrastructureError, UsageError, check_name
from aster_env.rollout import Policy, RolloutRunner
from aster_env.tokenizers import as_tokenizer
from aster_env.types import StopReason, Trajectory
from aster_train.advantages import group_relative, zero_variance
from aster_train.metrics import describe, summarize
from aster_train.policies.hf import HFPolicy

POLICIES = ("hf",)


class AsterGRPOTrainer(GRPOTrainer):
    """GRPO on a Gymnasium tool-use environment.

    TRL repeats each task ``num_generations`` times; ``_rollout`` plays one episode for each, all on one event loop;
    ``_generate_and_score_completions`` puts our advantages in place of TRL's; the loss is TRL's.

    Writes ``output_dir/trajectories/{train,eval}-STEP.jsonl``: each episode with its advantage.

    Args:
        model: a causal language model.
        args: TRL's configuration.
        processing_class: its tokenizer.
        env: a Gymnasium id of a ``ToolEnv``.
        env_kwargs: passed to ``gymnasium.make``; its tasks are the training tasks.
        eval_env_kwargs: what differs in evaluation.
        policy: ``"hf"``, or a Policy whose weights follow the model's by its own means.
        policy_kwargs: passed to the policy.
        max_concurrent: episodes that live at once in this process.
        **kwargs: see ``trl.GRPOTrainer``: ``callbacks``, ``optimizers``, ``peft_config``.

    Raises:
        UsageError: the environment cannot be made, or the arguments contradict each other.
    """

    def __init__(
        self,
        model: Any,
        args: GRPOConfig,
        processing_class: Any,
        *,
        env: str,
        env_kwargs: Mapping[str, Any] | None = None,
        eval_env_kwargs: Mapping[str, Any] | None = None,
        policy: str | Policy = "hf",
        policy_kwargs: Mapping[str, Any] | None = None,
        max_concurrent: int = 64,
        **kwargs: Any,
    ) -> None:
        check_arguments(args, policy)
        tokenizer = as_tokenizer(processing_class)
        settings = {**(env_kwargs or {}), "tokenizer": tokenizer}
        self._runners = {"train": RolloutRunner(env, max_concurrent=max_concurrent, env_kwargs=settings)}
        if eval_env_kwargs is not None:
            settings = {**settings, **eval_env_kwargs}
            self._runners["eval"] = RolloutRunner(env, max_concurrent=max_concurrent, env_kwargs=settings)
        datasets = {name: _as_dataset(runner) for name, runner in self._runners.items()}
        self._trajectories: list[Trajectory] = []
        self._rollout_seconds = 0.0
        super().__init__(
            model,
            reward_funcs=[environment_reward],
            args=args,
            processing_class=processing_class,
            train_dataset=datasets["train"],
            eval_dataset=datasets.get("eval"),
            rollout_func=self._rollout,
            **kwargs,
        )
        if isinstance(policy, str):
            policy = self._hf_policy(tokenizer, max_concurrent, dict(policy_kwargs or {}))
        self.policy: Policy = policy

    def close(self) -> None:
        """End every session and process; calling it twice is harmless."""
        for runner in self._runners.values():
            runner.close()

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Time TRL's step, the episodes apart from the update."""
        started, self._rollout_seconds = time.perf_counter(), 0.0
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        metrics = self._metrics["train"]
        metrics["time/update"].append(time.perf_counter() - started - self._rollout_seconds)
        return loss

    def _get_train_sampler(self, dataset: Dataset | None = None) -> TaskSampler:
        """Return TRL's sampler, in an order that a resumed run repeats."""
        theirs = super()._get_train_sampler(dataset)
        names = ("data_source", "mini_repeat_count", "batch_size", "repeat_count", "shuffle", "seed")
        return TaskSampler(**{name: getattr(theirs, name) for name in names})

    def _hf_policy(self, tokenizer: Any, max_concurrent: int, settings: dict[str, Any]) -> HFPolicy:
        if self.is_deepspeed_enabled and self.accelerator.state.deepspeed_plugin.zero_stage == 3:
            raise UsageError("policy: 'hf' reads whole weights, and ZeRO-3 splits them. Fix: use ZeRO stage 2 or less.")
        defaults = {
            "temperature": self.args.temperature,
            "top_p": self.args.top_p,
            "max_batch": max_concurrent,
            "seed": self.args.seed,
        }
        return HFPolicy(self.accelerator.unwrap_model(self.model), tokenizer, **{**defaults, **settings})

    def _rollout(self, prompts: Sequence[str], _trainer: Any = None) -> dict[str, Any]:
        """Play one episode for each task id; TRL's ``rollout_func``.

        Returns:
            ``prompt_ids``, ``completion_ids``, ``logprobs`` and ``env_mask`` (1 where the model sampled), a list an
            episode each, and ``reward``, None where an episode is masked.
        """
        runner = self._runners[self._mode]
        tasks = [runner.envs[0].tasks.get(task_id) for task_id in prompts]
        place = (self.args.seed, self._mode == "eval", self.state.global_step, self.accelerator.process_index)
        seed = int(np.random.SeedSequence(place).generate_state(1)[0])
        if isinstance(self.policy, HFPolicy):
            self.policy.reset()
        started = time.perf_counter()
        self._trajectories = runner.run(self.policy, tasks, seed)
        self._rollout_seconds = time.perf_counter() - started
        self._metrics[self._mode]["time/rollout"].append(self._rollout_seconds)
        failures = [t.error for t in self._trajectories if t.stop is StopReason.INFRASTRUCTURE]
        if len(failures) == len(prompts):
            raise InfrastructureError(
                f"Not one of {len(prompts)} episodes could be played. The first failed so: {failures[0]} "
                "Fix: see to it, then start the run again; it resumes from its last checkpoint."
            )
        rows = [training_row(t, self._tokenizer.pad_token_id) for t in self._trajectories]
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        return {**columns, "reward": [t.reward for t in self._trajectories]}

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Play and score a batch, with the advantages of ``aster_train.advantages``; log it."""
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        device = output["advantages"].device
        local = torch.tensor([_or_nan(t.reward) for t in self._trajectories], device=device)
        rewards = self.accelerator.gather(local)
        group_size = self.num_generations if self._mode == "train" else self.num_generations_eval
        advantages = group_relative(rewards, group_size, scale=self.scale_rewards != "none")
        start = self.accelerator.process_index * len(local)
        output["advantages"] = advantages[start : start + len(local)]
        self._log_episodes(output, zero_variance(rewards, group_size))
        self._write_trajectories(output["advantages"].tolist())
        return output

    def _log_episodes(self, output: Mapping[str, Any], flat: torch.Tensor) -> None:
        metrics = self._metrics[self._mode]
        summary = summarize(gather_object([describe(t) for t in self._trajectories]))
        summary["groups_without_variance"] = flat.float().mean().item()
        if "old_per_token_logps" in output and "sampling_per_token_logps" in output:
            # What was sampled is what is trained: the update's own forward pass gives the sampler's probabilities.
            difference = (output["old_per_token_logps"] - output["sampling_per_token_logps"]).abs()
            sampled = (output["completion_mask"] * output["tool_mask"]).bool()
            summary["sampling/logprob_difference_max"] = difference[sampled].max().item()
        for name, value in summary.items():
            metrics[name].append(value)

    def _write_trajectories(self, advantages: Sequence[float]) -> None:
        rank = f"-rank{self.accelerator.process_index}" if self.accelerator.num_processes > 1 else ""
        folder = Path(self.args.output_dir) / "trajectories"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self._mode}-{self.state.global_step:06d}{rank}.jsonl"
        with open(path.with_suffix(".partial"), "w", encoding="utf-8") as file:
            for trajectory, advantage in zip(self._trajectories, advantages, strict=True):
                file.write(json.dumps({"advantage": advantage, **trajectory.to_json()}) + "\n")
        path.with_suffix(".partial").replace(path)

    @property
    def _mode(self) -> str:
        return "train" if self.model.training else "eval"


class TaskSampler(RepeatSampler):
    """TRL's sampler with an order drawn from the seed and the epoch.

    TRL's own generator only ever goes on, so that a run resumed in its second epoch would go through the first again.
    """

    def set_epoch(self, epoch: int) -> None:
        """Draw the order of this epoch; called by the trainer at its start."""
        if self.shuffle:
            self.generator.manual_seed(int(np.random.SeedSequence((self.seed, epoch)).generate_state(1)[0]))


def training_row(trajectory: Trajectory, pad_id: int) -> dict[str, list[Any]]:
    """Return an episode as TRL takes it: the ids after the prompt, and for each whether the model sampled it.

    An episode that failed for reasons outside the model is masked whole; TRL needs at least one id, so an episode
    without any gets a pad, masked too.
    """
    start = len(trajectory.prompt_ids)
    ids, mask, logprobs = trajectory.ids[start:], trajectory.mask[start:], trajectory.logprobs[start:]
    if trajectory.stop is StopReason.INFRASTRUCTURE:
        mask = [0] * len(ids)
    if not ids:
        ids, mask, logprobs = [pad_id], [0], [0.0]
    return {"prompt_ids": trajectory.prompt_ids, "completion_ids": ids, "logprobs": logprobs, "env_mask": mask}


def environment_reward(reward: list[float | None], **_: Any) -> list[float | None]:
    """Hand the environment's rewards to TRL; None leaves an episode out."""
    return reward


def check_arguments(args: GRPOConfig, policy: str | Policy) -> None:
    """Raise ``UsageError`` for arguments that contradict each other; reads no model."""
    if isinstance(policy, str):
        check_name("policy", policy, POLICIES)
    if args.use_vllm:
        raise UsageError("'use_vllm' is TRL's own engine, which plays no tool calls. Fix: leave it out; see 'policy'.")
    if args.multi_objective_aggregation != "sum_then_normalize" or args.scale_rewards not in ("group", "none"):
        raise UsageError(
            f"scale_rewards={args.scale_rewards!r} with {args.multi_objective_aggregation!r} is not allowed. "
            "Allowed: scale_rewards 'group' or 'none'."
        )
    cycle = args.steps_per_generation * args.num_iterations
    updates = max(1, cycle // args.gradient_accumulation_steps)
    if args.save_strategy == "steps" and args.save_steps % updates:
        raise UsageError(
            f"save_steps={args.save_steps:g} would save between two updates on one batch of episodes, which a resumed "
            f"run could not repeat. Allowed: a multiple of {updates} "
            "(steps_per_generation x num_iterations / gradient_accumulation_steps)."
        )


def _as_dataset(runner: RolloutRunner) -> Dataset:
    return Dataset.from_dict({"prompt": [task.id for task in runner.envs[0].tasks]})


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value
