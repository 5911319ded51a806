"""Where a step's seconds are booked: exactly one entry each, and nothing between steps."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import pytest
from trl import GRPOTrainer

from aster_env.env import ToolEnv
from aster_env.rollout import Completion, GenerateRequest, RolloutRunner
from aster_train.ledger import PARTS, Ledger, Timed
from aster_train.policies.hf import HFPolicy
from tests.train.test_hf_policy import MODEL, TOKENIZER
from tests.train.test_trl_contract import make_trainer


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

        def wait(self, seconds):
            self.now += seconds

    clock = Clock()
    monkeypatch.setattr("aster_train.ledger.time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


class Step:
    """A ledger, the step that it books, and what came of it."""

    def __init__(self):
        self.metrics = {f"time/{name}": [] for name in (*PARTS, "rollout", "update", "step")}
        self.ledger = Ledger(self.metrics)

    def __enter__(self):
        self.ledger.on_step_begin(None, None, None)
        return self.ledger

    def __exit__(self, *_):
        self.ledger.on_step_end(None, None, None)

    @property
    def last(self):
        return {name.removeprefix("time/"): values[-1] for name, values in self.metrics.items() if values[-1]}


def episode(**seconds):
    return SimpleNamespace(seconds=seconds)


def test_a_second_is_booked_once_as_what_it_was_spent_on_innermost(clock):
    step = Step()
    with step as ledger:
        clock.wait(1)
        with ledger.book("train"):
            clock.wait(2)
            with ledger.book("overhead"):
                clock.wait(4)
                with ledger.book("train"):
                    clock.wait(8)
            clock.wait(16)
        clock.wait(32)
    assert step.last == {"train": 26, "overhead": 37, "update": 63, "step": 63}


def test_the_optimizer_is_training(clock):
    step = Step()
    with step as ledger:
        clock.wait(1)
        ledger.on_pre_optimizer_step(None, None, None)
        clock.wait(2)
        ledger.on_optimizer_step(None, None, None)
        clock.wait(4)
    assert step.last == {"train": 2, "overhead": 5, "update": 7, "step": 7}


def test_what_comes_between_steps_is_left_out(clock):
    step = Step()
    with step:
        clock.wait(1)
    clock.wait(100)
    with step.ledger.book("train"):
        clock.wait(100)
    with step:
        clock.wait(2)
    assert step.metrics["time/step"] == [1, 2]
    assert step.last == {"overhead": 2, "update": 2, "step": 2}


def test_what_fails_is_booked_too_and_what_follows_is_not_its_part(clock):
    def fail(ledger):
        with ledger.book("train"):
            clock.wait(1)
            raise KeyError

    step = Step()
    with step as ledger:
        with pytest.raises(KeyError):
            fail(ledger)
        clock.wait(2)
    assert step.last == {"train": 1, "overhead": 2, "update": 3, "step": 3}


def test_the_seconds_in_which_all_wait_are_divided_by_what_they_wait_for(clock):
    step = Step()
    with step as ledger:
        clock.wait(20)
        # The engine's own seconds say what generation took; an episode's are mostly waiting for its turn.
        ledger.add(16, 5, 8, [episode(generation=99, tools=5), episode(generation=99, tools=1, reward=2)])
        clock.wait(10)
    assert step.last == {
        "generation": 5, "tools": 6, "reward": 2, "overhead": 17, "rollout": 16, "update": 14, "step": 30,
    }  # fmt: skip


def test_a_policy_elsewhere_is_waited_for_as_a_tool_is(clock):
    step = Step()
    with step as ledger:
        clock.wait(10)
        ledger.add(10, 0, 8, [episode(generation=3, tools=1)])
    assert step.last == {"generation": 6, "tools": 2, "overhead": 2, "rollout": 10, "step": 10}


def test_waits_of_episodes_that_waited_for_nothing_are_overhead(clock):
    step = Step()
    with step as ledger:
        clock.wait(10)
        ledger.add(10, 4, 1, [episode(generation=9)])
    assert step.last == {"generation": 4, "overhead": 6, "rollout": 10, "step": 10}


def test_forward_passes_are_training_and_the_rest_of_a_batch_is_not(clock):
    class Trainer:
        def _prepare_inputs(self):
            clock.wait(1)
            self._get_per_token_logps_and_entropies()
            return "inputs"

        def _get_per_token_logps_and_entropies(self):
            clock.wait(2)
            return "logprobs"

    class Booked(Timed, Trainer):
        pass

    step, trainer = Step(), Booked()
    trainer._ledger = step.ledger
    with step as ledger, ledger.book("train"):
        assert trainer._prepare_inputs() == "inputs"
        assert trainer._get_per_token_logps_and_entropies() == "logprobs"
        clock.wait(4)
    assert step.last == {"train": 8, "overhead": 1, "update": 9, "step": 9}


class Sleeper:
    """Waits, then works, then answers."""

    def __init__(self, waits, works):
        self.waits, self.works = waits, works

    async def generate(self, request):
        await asyncio.sleep(self.waits)
        time.sleep(self.works)
        return Completion(tuple(TOKENIZER.encode("\\boxed{1}<|im_end|>")))

    async def release(self, episode):
        pass


def test_a_runner_counts_the_seconds_in_which_all_its_episodes_wait():
    settings = {"tasks": "generated", "task_options": {"size": 4, "level": 1}, "tokenizer": TOKENIZER}
    with RolloutRunner("ASTER/PythonMath-v0", max_concurrent=4, env_kwargs=settings) as runner:
        runner.check_tasks()
        before, started = runner.idle, time.perf_counter()
        runner.run(Sleeper(0.3, 0.1), list(runner.envs[0].tasks))
        idle, seconds = runner.idle - before, time.perf_counter() - started
        # Four wait at once, and work one after the other.
        assert 0.25 < idle < seconds - 0.4


def test_a_model_counts_the_seconds_of_its_forward_passes(monkeypatch):
    policy, step = HFPolicy(MODEL, TOKENIZER), HFPolicy._step

    def slow(self, live):
        time.sleep(0.02)
        step(self, live)

    monkeypatch.setattr(HFPolicy, "_step", slow)

    async def main():
        await policy.generate(GenerateRequest(TOKENIZER.encode("What is 1 + 1?"), 9, episode="e"))
        await asyncio.sleep(0.2)

    started = time.perf_counter()
    asyncio.run(main())
    assert 0.02 * policy.steps <= policy.seconds <= time.perf_counter() - started - 0.2


def test_a_trainer_books_the_engine_the_waits_and_the_passes_apart(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, max_steps=2, env_kwargs={"max_tokens": 100})
    step, forward, reset = HFPolicy._step, GRPOTrainer._get_per_token_logps_and_entropies, ToolEnv.areset

    async def late(self, **kwargs):
        await asyncio.sleep(0.15)
        return await reset(self, **kwargs)

    def slow(call, seconds):
        return lambda *args, **kwargs: (time.sleep(seconds), call(*args, **kwargs))[1]

    monkeypatch.setattr(HFPolicy, "_step", slow(step, 0.01))
    monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", slow(forward, 0.3))
    monkeypatch.setattr(ToolEnv, "areset", late)
    try:
        trainer.train()
    finally:
        trainer.close()
    first, second = (row for row in trainer.state.log_history if "time/step" in row)
    # One batch of episodes for two updates; where it is played, its log-probabilities are taken too.
    assert 0.01 * trainer.policy.steps < first["time/generation"] <= trainer.policy.seconds < first["time/rollout"]
    assert second["time/generation"] == second["time/rollout"] == second["time/tools"] == 0
    assert first["time/train"] >= second["time/train"] >= 0.3
    for row in (first, second):
        assert sum(row[f"time/{part}"] for part in PARTS) == pytest.approx(row["time/step"])
        assert row["time/train"] < row["time/update"]
        assert row["time/overhead"] > 0
