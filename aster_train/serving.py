"""What an ``AsterGRPOTrainer`` does so that a policy samples from the weights that it should."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import numpy as np
from trl.models import unwrap_model_for_generation

from aster_env.modules import with_modules
from aster_env.rollout import Policy, RolloutRunner
from aster_env.types import Task, Trajectory
from aster_train.ahead import Ahead, Snapshot
from aster_train.check import updates_a_batch
from aster_train.ledger import Ledger
from aster_train.policies.hf import HFPolicy
from aster_train.policies.vllm import VLLMPolicy
from aster_train.recipe import Recipe
from aster_train.tasks import TaskSampler


class Serving:
    """Of a TRL trainer: its policy, when that may sample, and what it plays ahead."""

    args: Any
    accelerator: Any
    model: Any
    model_wrapped: Any
    state: Any
    use_vllm: bool
    vllm_generation: Any
    policy: Policy
    _modules: tuple[str, ...]
    _runners: dict[str, RolloutRunner]
    _sampler: TaskSampler | None = None
    _ledger: Ledger
    _recipe: Recipe
    num_generations: int
    _ahead: Ahead | None = None
    _snapshot: Snapshot | None = None

    def _make_policy(self, tokenizer: Any, options: Mapping[str, int]) -> Policy:
        sampling = {"temperature": self.args.temperature, "top_p": self.args.top_p, "seed": self.args.seed}
        if self.use_vllm:
            return VLLMPolicy(self.vllm_generation.llm, tokenizer, **sampling)
        model = self.accelerator.unwrap_model(self.model)
        if self._ahead:
            self._snapshot = Snapshot(model)
            model = self._snapshot.model
        return HFPolicy(model, tokenizer, **sampling, **options)

    @contextmanager
    def _serving(self) -> Iterator[None]:
        """Let the policy sample from the weights as they are.

        All that is collective happens on entering and on leaving, which every process does once a batch: ZeRO-3's
        parameters are gathered, a sleeping engine gets its weights. Between the two a process waits for no other,
        however long its episodes.
        """
        if self._snapshot:
            with self._sampling():
                yield
        elif isinstance(self.policy, HFPolicy):
            with unwrap_model_for_generation(self.model_wrapped, self.accelerator):
                try:
                    yield
                finally:
                    # The weights will change, and the update needs the memory.
                    self.policy.reset()
        elif self.use_vllm and self.vllm_generation.enable_sleep_mode:
            engine = self.vllm_generation
            if engine._llm_weights_sleeping:
                engine.sync_weights()
            engine.llm.wake_up(tags=["kv_cache"])
            try:
                yield
            finally:
                engine.llm.sleep(level=2)
                engine._llm_weights_sleeping = True
        else:
            yield

    def _sampling(self) -> AbstractContextManager[Any]:
        """Compute in the update's precision: a snapshot has it not from ``accelerate``, and a thread has its own."""
        context: AbstractContextManager[Any] = self.accelerator.autocast() if self._snapshot else nullcontext()
        return context

    def _seed(self, batch: int, step: int) -> int:
        """Return a seed: which batch of which kind, at which step and where; a resumed run counts the same."""
        place = (self.args.seed, batch, step, self.accelerator.process_index)
        return int(np.random.SeedSequence(place).generate_state(1)[0])

    def _planned(self, prompts: Sequence[str], seed: int) -> list[Task]:
        """Return the tasks of a batch of training, with those that the recipe adds."""
        tasks = self._runners["train"].envs[0].tasks
        return [tasks.get(i) for i in self._recipe.plan(prompts, self.num_generations, tasks, seed)]

    def _play_ahead(self, prompts: Sequence[str], batch: int) -> None:
        """Begin the batch after this one, with the weights of the last ``_sync``."""
        if self._ahead is None or self._sampler is None:
            return
        # Where a step accumulates over several batches, the next may be of the same step.
        cycle = self.args.steps_per_generation * self.args.num_iterations
        same_step = (batch + 1) * cycle < self.args.gradient_accumulation_steps
        step = self.state.global_step + (0 if same_step else updates_a_batch(self.args))
        runner = self._runners["train"]
        tasks, processes = runner.envs[0].tasks, self.accelerator.num_processes
        place = {task.id: n for n, task in enumerate(tasks)}
        following = self._sampler.following([place[i] for i in prompts], self.accelerator.process_index, processes)
        if following is None or step >= self.state.max_steps:
            return
        seed, asked = self._seed(2 * (batch + 1) if same_step else 0, step), [tasks[n].id for n in following]
        chosen = self._planned(asked, seed)

        def run() -> list[Trajectory]:
            with self._sampling():
                return runner.run(self._player(runner), chosen, seed)

        self._ahead.start(asked, run)

    def _sync(self) -> None:
        """Wait until nothing is played ahead, and sample from the weights as they are from here on."""
        if self._ahead:
            with self._ledger.book("generation", rollout=True):
                self._ahead.wait()
        if self._snapshot:
            self._snapshot.renew()
            cast(HFPolicy, self.policy).reset()

    def _player(self, runner: RolloutRunner) -> Policy:
        """Return the policy, with the modules that were asked for around it."""
        return with_modules(self.policy, self._modules, runner.envs[0].dialect)

    def _clocks(self, runner: RolloutRunner) -> Any:
        """Return, in seconds: the time, how long the policy's engine has worked, how long its loop has waited."""
        return np.array([time.perf_counter(), getattr(self.policy, "seconds", 0.0), runner.idle])

    def _give_up(self) -> None:
        for runner in self._runners.values():
            runner.cancel()
