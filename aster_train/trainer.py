"""AsterGRPOTrainer: TRL's GRPO trainer with our episodes and our advantages; the only file that subclasses TRL."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # rollout_func is the seam; tests pin what is used of it

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import RepeatSampler

from aster_env.errors import InfrastructureError, UsageError
from aster_env.rollout import Policy, RolloutRunner
from aster_env.tokenizers import as_tokenizer
from aster_env.types import StopReason, Trajectory
from aster_train.advantages import group_relative, zero_variance
from aster_train.check import check_arguments, check_count, check_length
from aster_train.episodes import EpisodeFiles
from aster_train.ledger import Ledger
from aster_train.metrics import describe, summarize
from aster_train.policies.hf import OPTIONS, HFPolicy


class AsterGRPOTrainer(GRPOTrainer):
    """GRPO on a Gymnasium tool-use environment.

    TRL repeats each task ``num_generations`` times; ``_rollout`` plays one episode for each, all on one event loop;
    ``_generate_and_score_completions`` puts our advantages in place of TRL's; the loss is TRL's.

    Writes ``output_dir/trajectories/{train,eval}-STEP.jsonl``: each episode with its advantage. Logs where a step's
    seconds went, see ``aster_train.ledger``.

    Args:
        model: a causal language model.
        args: TRL's configuration.
        processing_class: its tokenizer.
        env: a Gymnasium id of a ``ToolEnv``.
        env_kwargs: passed to ``gymnasium.make``; its tasks are the training tasks.
        eval_env_kwargs: what differs in evaluation.
        policy: ``"hf"``, or a Policy whose weights follow the model's by its own means.
        policy_kwargs: of the policy ``"hf"``: ``max_batch`` (``max_concurrent`` where it is left out) and
            ``max_cache_tokens``; temperature, top_p and seed are those of ``args``, which the loss uses too.
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
        options = {**OPTIONS, "max_batch": max_concurrent, **(policy_kwargs or {})}
        check_arguments(args, policy, options if isinstance(policy, str) else policy_kwargs or {})
        tokenizer = as_tokenizer(processing_class)
        settings = {**(env_kwargs or {}), "tokenizer": tokenizer}
        self._runners = {"train": RolloutRunner(env, max_concurrent=max_concurrent, env_kwargs=settings)}
        if eval_env_kwargs is not None:
            settings = {**settings, **eval_env_kwargs}
            self._runners["eval"] = RolloutRunner(env, max_concurrent=max_concurrent, env_kwargs=settings)
        self._trajectories: list[Trajectory] = []
        try:
            for runner in self._runners.values():
                if isinstance(policy, str):
                    check_length(runner.envs[0].limits.max_tokens, options)
                runner.check_tasks()
            datasets = {name: _as_dataset(runner) for name, runner in self._runners.items()}
            check_count(len(datasets["train"]), args)
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
            self.policy: Policy = self._hf_policy(tokenizer, options) if isinstance(policy, str) else policy
        except BaseException:
            self.close()
            raise
        self._files = EpisodeFiles(args.output_dir, self.accelerator.process_index, self.accelerator.num_processes)
        self._ledger = Ledger(self._metrics["train"])
        self.add_callback(self._ledger)

    def close(self) -> None:
        """End every session and process; calling it twice is harmless."""
        for runner in self._runners.values():
            runner.close()

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate, into a file of its own."""
        self._files.begin("eval")
        scores: dict[str, float] = super().evaluate(*args, **kwargs)
        return scores

    def _get_train_sampler(self, dataset: Dataset | None = None) -> TaskSampler:
        """Return TRL's sampler, in an order that a resumed run repeats."""
        theirs = super()._get_train_sampler(dataset)
        names = ("data_source", "mini_repeat_count", "batch_size", "repeat_count", "shuffle", "seed")
        return TaskSampler(**{name: getattr(theirs, name) for name in names})

    def _hf_policy(self, tokenizer: Any, options: Mapping[str, int]) -> HFPolicy:
        if self.is_deepspeed_enabled and self.accelerator.state.deepspeed_plugin.zero_stage == 3:
            raise UsageError("policy: 'hf' reads whole weights, and ZeRO-3 splits them. Fix: use ZeRO stage 2 or less.")
        sampling = {"temperature": self.args.temperature, "top_p": self.args.top_p, "seed": self.args.seed}
        return HFPolicy(self.accelerator.unwrap_model(self.model), tokenizer, **sampling, **options)

    def _rollout(self, prompts: Sequence[str], _trainer: Any = None) -> dict[str, Any]:
        """Play one episode for each task id; TRL's ``rollout_func``.

        Returns:
            ``prompt_ids``, ``completion_ids``, ``logprobs`` and ``env_mask`` (1 where the model sampled), a list an
            episode each, and ``reward``, None where an episode is masked.

        Raises:
            InfrastructureError: not one episode could be played, on any process; raised on all of them.
        """
        runner, mode = self._runners[self._mode], self._mode
        tasks = [runner.envs[0].tasks.get(task_id) for task_id in prompts]
        batch = self._files.open(mode, self.state.global_step)
        # Which batch of which kind, at which step and where: a resumed run counts the same.
        place = (self.args.seed, 2 * batch + (mode == "eval"), self.state.global_step, self.accelerator.process_index)
        seed = int(np.random.SeedSequence(place).generate_state(1)[0])
        started = time.perf_counter()
        try:
            self._trajectories = runner.run(self.policy, tasks, seed)
        finally:
            if isinstance(self.policy, HFPolicy):
                # The weights will change, and the update needs the memory.
                self.policy.reset()
        if mode == "train":
            self._ledger.add(time.perf_counter() - started, self._trajectories)
        _stop_if_none_was_played(self._trajectories)
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
        self._files.write(self._trajectories, output["advantages"].tolist())
        return output

    def _log_episodes(self, output: Mapping[str, Any], flat: torch.Tensor) -> None:
        metrics = self._metrics[self._mode]
        summary = summarize(gather_object([describe(t) for t in self._trajectories]))
        summary["groups_without_variance"] = flat.float().mean().item()
        if "old_per_token_logps" in output and "sampling_per_token_logps" in output:
            # What was sampled is what is trained: the update's own forward pass gives the sampler's probabilities.
            difference = (output["old_per_token_logps"] - output["sampling_per_token_logps"]).abs()
            sampled = (output["completion_mask"] * output["tool_mask"]).bool()
            if sampled.any():
                summary["sampling/logprob_difference_max"] = difference[sampled].max().item()
        for name, value in summary.items():
            metrics[name].append(value)

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


def _stop_if_none_was_played(trajectories: Sequence[Trajectory]) -> None:
    """Raise if no process could play an episode: on all of them, for one alone would leave the others waiting."""
    failures = gather_object([t.error if t.stop is StopReason.INFRASTRUCTURE else None for t in trajectories])
    if all(failure is not None for failure in failures):
        raise InfrastructureError(
            f"Not one of {len(failures)} episodes could be played. The first failed so: {failures[0]} "
            "Fix: see to it, then start the run again; it resumes from its last checkpoint."
        )


def _as_dataset(runner: RolloutRunner) -> Dataset:
    return Dataset.from_dict({"prompt": [task.id for task in runner.envs[0].tasks]})


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value
