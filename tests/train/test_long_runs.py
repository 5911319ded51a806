"""What a long run meets: SIGTERM, a full disk, a loss that is no number, tools and engines that fail or hang."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig

from aster_env.errors import InfrastructureError, JudgeError, PolicyError
from aster_env.limits import Limits
from aster_env.rollout import Completion
from aster_train.checkpoints import resume_from
from aster_train.config import ASTER, lora_config, training_arguments
from aster_train.export import export
from aster_train.serving import Serving
from aster_train.trainer import AsterGRPOTrainer
from benchmarks.kernels.measure import below
from tests.train.support import save_model

TRAIN = {
    "per_device_train_batch_size": 4, "steps_per_generation": 2, "num_generations": 2, "max_steps": 8, "save_steps": 2,
    "learning_rate": 1e-2, "gradient_checkpointing": False, "seed": 7, "disable_tqdm": True, "use_cpu": True,
}  # fmt: skip
EPISODES = 8
"""In a batch."""


def make_trainer(model, out, lora=None, patience=0, ahead=False, **train):
    """Return a trainer on an environment whose reward every model's samples vary in."""
    args = training_arguments(GRPOConfig, ASTER, {**TRAIN, "output_dir": str(out), **train})
    tokenizer = AutoTokenizer.from_pretrained(model)
    options = {"env": "tests.train.parity:Parity-v0", "max_concurrent": 1, "patience": patience, "ahead": ahead}
    return AsterGRPOTrainer(model, args, tokenizer, peft_config=lora_config(lora), **options)


@pytest.fixture
def make(tmp_path):
    model, made = save_model(tmp_path / "model"), []

    def trainer(out="out", **options):
        made.append(make_trainer(model, tmp_path / out, **options))
        return made[-1]

    yield trainer
    for one in made:
        one.close()


def weights(trainer):
    model = trainer.accelerator.unwrap_model(trainer.model)
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def on_rollout(trainer, number, do):
    """Call ``do`` when the policy gets the first request of rollout ``number``, and then serve it."""
    policy, state = trainer.policy, {"rollout": -1}
    generate, serving = policy.generate, trainer._serving

    def counted():
        state["rollout"] += 1
        state["done"] = False
        return serving()

    async def watched(request):
        if state["rollout"] == number and not state["done"]:
            state["done"] = True
            do()
        return await generate(request)

    trainer._serving, policy.generate = counted, watched


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the weights of the run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    trainer = make_trainer(save_model(folder / "model"), folder / "out")
    trainer.train()
    trainer.close()
    return weights(trainer)


def resumed(make, **options):
    trainer = make(**options)
    trainer.train(resume_from_checkpoint=resume_from(trainer.args.output_dir))
    return weights(trainer)


def test_sigterm_while_episodes_are_played_saves_and_the_resumed_run_is_the_unbroken_one(make, whole, tmp_path, capsys):
    trainer, handler, asked = make(save_steps=100), signal.getsignal(signal.SIGTERM), []
    on_rollout(trainer, 2, terminate)
    generate = trainer.policy.generate

    async def counted(request):
        asked.append(trainer.state.global_step)
        return await generate(request)

    trainer.policy.generate = counted
    with pytest.raises(SystemExit) as ended:
        trainer.train()
    assert asked.count(4) <= 2 < 8 <= asked.count(2)  # of eight episodes, one after the other
    assert ended.value.code == 128 + signal.SIGTERM
    assert "SIGTERM: saved checkpoint-4. The same command goes on" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) is handler
    assert [p.name for p in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-4"]
    assert same(resumed(make, save_steps=100), whole)


def test_sigterm_between_two_updates_on_a_batch_finishes_the_batch(make, whole, tmp_path):
    trainer = make(save_strategy="no")
    compute, steps = trainer._compute_loss, []

    def watched(*args, **kwargs):
        steps.append(trainer.state.global_step)
        if len(steps) == 3:  # the first of two updates on the second batch
            terminate()
        return compute(*args, **kwargs)

    trainer._compute_loss = watched
    with pytest.raises(SystemExit):
        trainer.train()
    assert [p.name for p in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-4"]
    assert steps == [0, 1, 2, 3]
    assert same(resumed(make, save_strategy="no"), whole)


def test_sigterm_after_the_last_step_ends_a_run_that_is_over(make):
    trainer = make(max_steps=2)
    trainer._save_checkpoint = lambda *a, **k: terminate()
    trainer.train()
    assert trainer.state.global_step == 2


def test_a_checkpoint_that_cannot_be_written_leaves_the_earlier_ones_whole(make, whole, tmp_path):
    trainer = make()
    save, limit = trainer._save_checkpoint, resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(*args, **kwargs):
        if trainer.state.global_step == 4:
            # No file may grow past this: what a full disk does to a write, in the middle of it.
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))
        try:
            return save(*args, **kwargs)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)

    trainer._save_checkpoint = full
    with pytest.raises(Exception, match=r"(?i)file|write"):
        trainer.train()
    assert [p.name for p in (tmp_path / "out").iterdir() if p.name.startswith(("checkpoint", ".saving"))] == [
        "checkpoint-2"
    ]
    assert same(resumed(make), whole)


def test_a_loss_that_is_no_number_ends_the_run_before_the_weights_are_touched(make, whole, tmp_path):
    trainer = make()
    compute = trainer._compute_loss

    def broken(*args, **kwargs):
        loss = compute(*args, **kwargs)
        return loss * float("nan") if trainer.state.global_step == 3 else loss

    trainer._compute_loss = broken
    with pytest.raises(FloatingPointError, match=r"The loss of step 4 is nan\..* the same command resumes"):
        trainer.train()
    assert all(value.isfinite().all() for value in weights(trainer).values())
    assert resume_from(tmp_path / "out") == str(tmp_path / "out" / "checkpoint-2")
    assert same(resumed(make), whole)


def test_a_gradient_that_is_no_number_ends_the_run_before_the_weights_are_touched(make, whole):
    trainer = make()
    compute, before = trainer._compute_loss, {}

    def broken(*args, **kwargs):
        loss = compute(*args, **kwargs)
        if trainer.state.global_step == 3:
            before.update(weights(trainer))
            loss.register_hook(lambda gradient: gradient * float("inf"))
        return loss

    trainer._compute_loss = broken
    with pytest.raises(FloatingPointError, match=r"The gradient of step 4 is (nan|inf)\..* the same command resumes"):
        trainer.train()
    assert same(weights(trainer), before)
    assert same(resumed(make), whole)


def test_an_engine_that_is_down_for_a_while_is_waited_for(make, whole, capsys):
    trainer = make(patience=60)
    generate, failures = trainer.policy.generate, []

    async def down(request):
        if trainer.state.global_step == 2 and len(failures) < EPISODES:
            failures.append(request)
            raise PolicyError("the endpoint restarts")
        return await generate(request)

    trainer.policy.generate = down
    trainer.train()
    assert "Not one of 8 episodes could be played. The first failed so: " in capsys.readouterr().out
    assert same(weights(trainer), whole)


def test_an_engine_that_stays_down_ends_the_run_after_its_patience_and_loses_no_checkpoint(make, whole, tmp_path):
    trainer = make(patience=3)
    generate = trainer.policy.generate

    async def down(request):
        if trainer.state.global_step == 4:
            raise PolicyError("the endpoint is gone")
        return await generate(request)

    trainer.policy.generate = down
    started = time.monotonic()
    with pytest.raises(InfrastructureError, match=r"the endpoint is gone.* it resumes from its last checkpoint"):
        trainer.train()
    assert time.monotonic() - started < 30
    assert same(resumed(make), whole)


def test_a_judge_that_is_down_for_a_while_is_waited_for(make, whole):
    trainer = make(patience=60)
    env, failures = trainer._runners["train"].envs[0], []
    judge = env.reward

    class Down:
        async def __call__(self, task, trajectory):
            if trainer.state.global_step == 2 and len(failures) < EPISODES:
                failures.append(task)
                raise JudgeError("the judge answers 503")
            return await judge(task, trajectory)

        async def close(self):
            await judge.close()

    env.reward = Down()
    trainer.train()
    assert same(weights(trainer), whole)


def test_a_run_goes_on_after_its_kernel_pool_died(tmp_path):
    from tests.train.test_trl_contract import make_trainer as on_sessions

    class CallsOnce:
        """Calls Python in its first turn, and answers in its second; kills the pool before the third batch."""

        async def generate(self, request):
            first = "tool_response" not in trainer._tokenizer.decode(request.ids)
            if trainer.state.global_step == 4 and not killed:
                pools = set(below(os.getpid())[0]) - others
                killed.extend(pid for pool in pools for pids in below(pool) for pid in pids)
                for pid in killed:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            call = '<tool_call>\n{"name": "python", "arguments": {"code": "1"}}\n</tool_call>'
            ids = trainer._tokenizer.encode((call if first else "\\boxed{1}") + "<|im_end|>")
            return Completion(tuple(ids), (-1.0,) * len(ids))

        async def release(self, episode):
            pass

    killed, others = [], set(next(iter(below(os.getpid())), ()))
    trainer = on_sessions(tmp_path, policy=CallsOnce(), max_steps=8, patience=60)
    try:
        trainer.train()
    finally:
        trainer.close()
    assert killed
    batches = [row for row in trainer.state.log_history if "tools/calls_mean" in row]
    assert len(batches) == 4
    assert [row["masked_episodes"] for row in batches[:2]] == [0, 0]
    assert batches[3]["masked_episodes"] == 0
    assert batches[3]["tools/calls_mean"] == 1


def test_sigterm_does_not_wait_for_the_patience(make):
    trainer = make(patience=1000)

    async def down(request):
        raise PolicyError("the endpoint is gone")

    trainer.policy.generate = down
    threading.Timer(2, terminate).start()
    started = time.monotonic()
    with pytest.raises(SystemExit):
        trainer.train()
    assert time.monotonic() - started < 30


def test_a_tool_that_never_comes_back_masks_its_episode(make):
    trainer = make(max_steps=2)
    for env in trainer._runners["train"].envs:
        env.hang_seconds, env.limits = 0.2, Limits(2, 120)
        env.tool.respond = lambda code: 1000.0
    ids = tuple(trainer._tokenizer.encode(
        '<tool_call>\n{"name": "python", "arguments": {"code": "1"}}\n</tool_call><|im_end|>'
    ))  # fmt: skip
    generate, asked = trainer.policy.generate, []

    async def call_first(request):
        asked.append(request)
        return Completion(ids, (-1.0,) * len(ids)) if len(asked) == 1 else await generate(request)

    trainer.policy.generate = call_first
    trainer.train()
    assert sum(row.get("masked_episodes", 0) for row in trainer.state.log_history) == 1
    first = json.loads(next((Path(trainer.args.output_dir) / "trajectories").iterdir()).read_text().splitlines()[0])
    assert "did not come back within 0.2 s" in first["error"]


def test_a_sleeping_engine_gets_its_weights_before_it_samples_and_sleeps_again():
    said = []

    class Engine:
        enable_sleep_mode, _llm_weights_sleeping = True, True

        def __init__(self):
            self.llm = self

        def sync_weights(self):
            said.append("weights")
            self._llm_weights_sleeping = False

        def wake_up(self, tags):
            said.append(tags)

        def sleep(self, level):
            said.append(level)

    trainer = Serving()
    trainer.policy, trainer.use_vllm, trainer.vllm_generation = object(), True, Engine()

    def play():
        with trainer._serving():
            said.append("episodes")
            raise KeyError

    with pytest.raises(KeyError):
        play()
    assert said == ["weights", ["kv_cache"], "episodes", 2]
    assert trainer.vllm_generation._llm_weights_sleeping


def test_old_checkpoints_are_pruned_and_the_best_by_held_out_score_is_kept(make, tmp_path, monkeypatch):
    trainer = make(save_total_limit=2, metric_for_best_model="accuracy", greater_is_better=True)
    scores = {2: 0.1, 4: 0.9, 6: 0.5, 8: 0.3}
    save = trainer._save_checkpoint

    def scored(*args, **kwargs):
        step = trainer.state.global_step
        trainer._determine_best_metric({"eval_accuracy": scores[step]}, None)
        return save(*args, **kwargs)

    monkeypatch.setattr(trainer, "_save_checkpoint", scored)
    trainer.train()
    left = {p.name for p in (tmp_path / "out").glob("checkpoint-*")}
    assert left == {"checkpoint-4", "checkpoint-8"}
    for name in left:
        state = json.loads((tmp_path / "out" / name / "trainer_state.json").read_text())
        assert state["best_model_checkpoint"] == str(tmp_path / "out" / "checkpoint-4")


@pytest.mark.parametrize("lora", [None, {"r": 4, "lora_dropout": 0.0}])
def test_a_run_resumes_and_exports_what_it_trained(make, tmp_path, lora):
    unbroken = make("unbroken", lora=lora, lr_scheduler_type="constant")
    unbroken.train()
    first = make(lora=lora, max_steps=4, lr_scheduler_type="constant")
    first.train()
    half = export(str(tmp_path / "out"), str(tmp_path / "half"))
    assert "checkpoint-4" in half
    second = make(lora=lora, lr_scheduler_type="constant")
    second.train(resume_from_checkpoint=resume_from(tmp_path / "out"))
    assert same(weights(second), weights(unbroken))
    second.save_model(second.args.output_dir)
    export(second.args.output_dir, str(tmp_path / "plain"))
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    ids = torch.arange(5, 60)[None]
    with torch.no_grad():
        ours, theirs = second.model.eval()(ids).logits, plain.eval()(ids).logits
        start = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()(ids).logits
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert not torch.allclose(start, theirs, atol=1e-3)
    assert AutoTokenizer.from_pretrained(tmp_path / "plain").chat_template
