"""AsterGRPOTrainer: TRL's GRPO trainer with our episodes and our advantages; the only file that subclasses it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # rollout_func is the seam; tests pin what is used of it

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from aster_env.modules import check_modules
from aster_env.rollout import Policy, RolloutRunner
from aster_env.tokenizers import as_tokenizer
from aster_env.types import Trajectory
from aster_train.advantages import zero_variance
from aster_train.ahead import Ahead, check_ahead
from aster_train.check import check_arguments, check_count, check_length, updates_a_batch
from aster_train.checkpoints import WholeCheckpoints
from aster_train.engines import prepare_vllm
from aster_train.episodes import EpisodeFiles
from aster_train.ledger import Ledger, Timed
from aster_train.metrics import describe, summarize
from aster_train.playing import play
from aster_train.policies.hf import OPTIONS
from aster_train.policies.vllm import VLLMPolicy
from aster_train.recipe import Recipe, Shaped
from aster_train.serving import Serving
from aster_train.stopping import EXIT_CODE, Preempted, Stopping
from aster_train.tasks import Epochs, TaskSampler, as_dataset, environment_reward, training_row
from aster_train.watch import CollapseCallback


class AsterGRPOTrainer(Serving, WholeCheckpoints, Timed, GRPOTrainer):
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
        policy: a Policy whose weights follow the model's by its own means. None: ``VLLMPolicy`` if ``args.use_vllm``,
            with an engine in each process, else ``HFPolicy``; temperature, top_p and seed are those of ``args``, which
            the loss uses too.
        policy_kwargs: of ``HFPolicy``: ``max_batch`` (``max_concurrent`` where it is left out) and
            ``max_cache_tokens``.
        max_concurrent: episodes that live at once in this process.
        ahead: play the next batch while the model is updated on this one; see ``aster_train.ahead``.
        patience: seconds for which a batch is tried again of which not one episode could be played.
        recipe: what is added to plain GRPO in training; see ``aster_train.recipe``.
        modules: names of ``aster_env.modules``, around the policy in training and evaluation.
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
        policy: Policy | None = None,
        policy_kwargs: Mapping[str, Any] | None = None,
        max_concurrent: int = 64,
        ahead: bool = False,
        patience: float = 120,
        recipe: Recipe | None = None,
        modules: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        check_arguments(args, policy, policy_kwargs or {})
        self._recipe, self._modules = recipe or Recipe(), check_modules(modules)
        self._recipe.check(args)
        if ahead:
            check_ahead(args, own_policy=policy is not None)
        options = {**OPTIONS, "max_batch": max_concurrent, **(policy_kwargs or {})}
        tokenizer = as_tokenizer(processing_class)
        settings = {**(env_kwargs or {}), "tokenizer": tokenizer}
        runner = partial(RolloutRunner, env, max_concurrent=max_concurrent)
        self._runners = {"train": runner(env_kwargs=settings, wrappers=self._recipe.wrappers)}
        if eval_env_kwargs is not None:
            self._runners["eval"] = runner(env_kwargs={**settings, **eval_env_kwargs})
        self._trajectories, self._played = list[Trajectory](), list[Trajectory]()
        try:
            datasets = self._check_runners(args, None if policy else options)
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
            self._ahead = Ahead(self.accelerator.device) if ahead else None
            self.policy: Policy = policy or self._make_policy(tokenizer, options)
        except BaseException:
            self.close()
            raise
        self._patience = patience
        self._keep_books(args)

    def _keep_books(self, args: GRPOConfig) -> None:
        """Set up what a run is written to and watched by."""
        self._chosen: dict[str, float] = {}
        self._evaluated: list[dict[str, float]] = []
        self._files = EpisodeFiles(args.output_dir, self.accelerator.process_index, self.accelerator.num_processes)
        self._ledger = Ledger(self._metrics["train"])
        self._stopping = Stopping(updates_a_batch(args), self._give_up)
        watch = CollapseCallback(self._metrics["train"])
        for callback in (self._ledger, self._stopping, Epochs(lambda: self._sampler), watch):
            self.add_callback(callback)

    def _check_runners(self, args: GRPOConfig, options: Mapping[str, int] | None) -> dict[str, Dataset]:
        """Return the tasks, once they and the engine's context are seen to fit; no model is loaded yet."""
        longest = max(runner.envs[0].limits.max_tokens for runner in self._runners.values())
        if options is not None:
            check_length(longest, args, options)
        self._recipe.fit(self._runners["train"].envs)
        for runner in self._runners.values():
            runner.check_tasks()
        datasets = {name: as_dataset(runner.envs[0].tasks) for name, runner in self._runners.items()}
        check_count(len(datasets["train"]), args)
        if args.use_vllm:
            prepare_vllm("bfloat16" if args.bf16 else "float16" if args.fp16 else "float32")
            args.vllm_max_model_length = args.vllm_max_model_length or longest
        return datasets

    def close(self) -> None:
        """End every session, process and engine; calling it twice is harmless."""
        if self._ahead:
            self._give_up()
            self._ahead.close()
        for runner in self._runners.values():
            runner.close()
        if isinstance(policy := getattr(self, "policy", None), VLLMPolicy):
            policy.close()

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train; see ``transformers.Trainer``.

        Raises:
            SystemExit: SIGTERM ended the run. A checkpoint of it is saved.
        """
        with self._stopping.listen():
            try:
                return super().train(*args, **kwargs)
            except Preempted:
                self._stopping.restore()
                self._save_checkpoint(self.model, trial=None)
        if self.accelerator.is_main_process:
            print(f"SIGTERM: saved checkpoint-{self.state.global_step}. The same command goes on from there.")
        sys.exit(EXIT_CODE)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Compute a micro-batch's gradients; see ``transformers.Trainer``."""
        with self._ledger.book("train"):
            gradients: torch.Tensor = super().training_step(*args, **kwargs)
        return gradients

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """Compute a micro-batch's loss; see ``trl.GRPOTrainer``.

        Raises:
            FloatingPointError: it is no number; before any gradient, on every process.
        """
        loss = super().compute_loss(*args, **kwargs)
        self._check_finite("loss", self.accelerator.gather(loss.detach().view(1)))
        return loss

    def _clip_grad_norm(self, model: Any) -> Any:
        """Clip the gradients; see ``transformers.Trainer``.

        Raises:
            FloatingPointError: their norm, the same on every process, is no number. DeepSpeed has taken the step by
                then, but it is not saved. Where fp16 is scaled, such steps are part of finding the scale, and skipped.
        """
        norm = super()._clip_grad_norm(model)
        if norm is not None and self.accelerator.mixed_precision != "fp16":
            self._check_finite("gradient", torch.as_tensor(norm))
        return norm

    def _check_finite(self, what: str, values: torch.Tensor) -> None:
        if not values.isfinite().all():
            raise FloatingPointError(
                f"The {what} of step {self.state.global_step + 1} is {values.sum().item():g}. No checkpoint is "
                "touched. Fix: lower train.learning_rate or train.max_grad_norm; the same command resumes."
            )

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate, into a file of its own; the scores hold the metrics of the episodes, as ``eval_accuracy``."""
        self._sync()
        self._files.begin("eval")
        self._evaluated = []
        scores: dict[str, float] = super().evaluate(*args, **kwargs)
        return {**scores, **{f"eval_{name}": value for name, value in summarize(self._evaluated).items()}}

    def _get_train_sampler(self, dataset: Dataset | None = None) -> TaskSampler:
        """Return TRL's sampler, in an order that a resumed run repeats."""
        theirs = super()._get_train_sampler(dataset)
        names = ("data_source", "mini_repeat_count", "batch_size", "repeat_count", "shuffle", "seed")
        self._sampler = TaskSampler(**{name: getattr(theirs, name) for name in names})
        return self._sampler

    def _rollout(self, prompts: Sequence[str], _trainer: Any = None) -> dict[str, Any]:
        """Play one episode for each task id; TRL's ``rollout_func``.

        Returns:
            ``prompt_ids``, ``completion_ids``, ``logprobs`` and ``env_mask`` (1 where the model sampled), a list an
            episode each, and ``reward``, None where an episode is masked.

        Raises:
            InfrastructureError: not one episode could be played, on any process, as long as ``patience`` lasted;
                raised on all of them.
            Preempted: SIGTERM came; raised on all of them.
        """
        runner, mode = self._runners[self._mode], self._mode
        batch = self._files.open(mode, self.state.global_step)
        seed = self._seed(2 * batch + (mode == "eval"), self.state.global_step)
        tasks = self._planned(prompts, seed) if mode == "train" else [runner.envs[0].tasks.get(i) for i in prompts]

        def once() -> list[Trajectory]:
            played = self._ahead.take(prompts) if self._ahead and mode == "train" else None
            if played is not None:
                return played
            with self._serving():
                if self._stopping.requested():
                    raise asyncio.CancelledError
                return runner.run(self._player(runner), tasks, seed)

        started = self._clocks(runner)
        self._trajectories = play(once, self._stopping, self._patience, self.accelerator.print)
        self._played = []
        if mode == "train":
            seconds, generation, idle = self._clocks(runner) - started
            self._ledger.add(seconds, generation, idle, self._trajectories)
            self._play_ahead(prompts, batch)
            self._played = self._trajectories
            self._trajectories, self._chosen = self._recipe.prepare(
                self._trajectories, self.num_generations, len(prompts), seed, runner.envs[0].limits.max_tokens
            )
        pad, masks = self._tokenizer.pad_token_id, self._recipe.selection.masks
        rows = [training_row(t, pad, masked=mode == "train" and masks(t)) for t in self._trajectories]
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        return {**columns, "reward": [t.reward for t in self._trajectories]}

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Play and score a batch, with the advantages of ``aster_train.advantages``; log it."""
        if self._mode == "train":
            self._sync()
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if self._snapshot:
            # The ratio of the update is to the weights that sampled. With vLLM, TRL's own correction says the same.
            output["old_per_token_logps"] = output["sampling_per_token_logps"]
        training = self._mode == "train"
        recipe = self._recipe if training else Recipe()
        given = output["advantages"]
        # In single precision, equal rewards such as 0.3 have a deviation, which would be divided by.
        dtype = torch.float32 if given.device.type == "mps" else torch.float64
        local = torch.tensor(recipe.rows(self._trajectories), dtype=dtype, device=given.device)
        rows = self.accelerator.gather(local)
        group_size = self.num_generations if training else self.num_generations_eval
        shaped = recipe.advantages(rows, group_size, scale=self.scale_rewards != "none")
        start = self.accelerator.process_index * len(local)
        own = Shaped(*(column[start : start + len(local)] for column in shaped.columns))
        output["advantages"] = own.advantages.to(given.dtype)
        self._log_episodes(output, zero_variance(rows[:, 0], group_size), shaped.metrics() if recipe.shaping else {})
        self._files.write(self._trajectories, own.lists() if recipe.shaping else {"advantage": own.advantages.tolist()})
        return output

    def _log_episodes(self, output: Mapping[str, Any], flat: torch.Tensor, shaping: Mapping[str, float]) -> None:
        metrics = self._metrics[self._mode]
        # What a selection left out was played all the same: without it, the metrics would be of its choice.
        rows = gather_object([describe(t) for t in self._played or self._trajectories])
        if self._mode == "eval":
            self._evaluated += rows
        summary = {**summarize(rows), **shaping}
        if self._mode == "train" and self._chosen:
            chosen = gather_object([self._chosen])
            for name in self._chosen:
                values = [part[name] for part in chosen if not np.isnan(part[name])]
                summary[name] = float(np.mean(values)) if values else float("nan")
            summary["selection/played"] = float(sum(part["selection/played"] for part in chosen))
        summary["groups_without_variance"] = flat.float().mean().item()
        if not self._snapshot and "old_per_token_logps" in output and "sampling_per_token_logps" in output:
            # What was sampled is what is trained: the update's own forward pass gives the sampler's probabilities.
            difference = (output["old_per_token_logps"] - output["sampling_per_token_logps"]).abs()
            sampled = (output["completion_mask"] * output["tool_mask"]).bool()
            worst = difference[sampled].max() if sampled.any() else difference.new_tensor(float("nan"))
            everywhere = self.accelerator.gather(worst.view(1))
            if not everywhere.isnan().all():
                summary["sampling/logprob_difference_max"] = float(np.nanmax(everywhere.cpu().numpy()))
        for name, value in summary.items():
            metrics[name].append(value)

    @property
    def _mode(self) -> str:
        return "train" if self.model.training else "eval"
