"""What is used of TRL: repetition of prompts, merging of extras, the override of advantages, the loss and its mask."""

from __future__ import annotations

import json
import math
import time

import pytest
import torch
from trl import GRPOTrainer

from aster_env.errors import InfrastructureError, KernelError, UsageError
from aster_env.rollout import Completion
from aster_train.config import ASTER, training_arguments
from aster_train.tasks import training_row
from aster_train.trainer import AsterGRPOTrainer
from tests.train.support import save_model

PROBLEMS = {"tasks": "generated", "task_options": {"size": 16, "level": 1}, "instruction": "", "max_tokens": 160}


class Guesser:
    """Answers with a sampled boxed number, right or wrong by the episode's seed; some episodes cannot be played."""

    def __init__(self, tokenizer, answers, broken=()):
        self.tokenizer, self.answers, self.broken = tokenizer, answers, set(broken)
        self.requests = []

    async def generate(self, request):
        self.requests.append(request)
        if len(self.requests) - 1 in self.broken:
            from aster_env.errors import PolicyError

            raise PolicyError("the engine is down")
        right = request.seed % 3 == 0
        prompt = self.tokenizer.decode(request.ids)
        answer = next(a for p, a in self.answers.items() if p in prompt) if right else "1"
        ids = tuple(self.tokenizer.encode(f"\\boxed{{{answer}}}<|im_end|>"))
        return Completion(ids, tuple(-1.0 for _ in ids))

    async def release(self, episode):
        pass


def make_trainer(
    tmp_path,
    policy=None,
    env_kwargs=None,
    max_concurrent=4,
    policy_kwargs=None,
    eval_env_kwargs=None,
    patience=0,
    recipe=None,
    ahead=False,
    modules=(),
    **train,
):
    from transformers import AutoTokenizer
    from trl import GRPOConfig

    folder = save_model(tmp_path / "model")
    values = {
        "output_dir": str(tmp_path / "out"),
        "per_device_train_batch_size": 4,
        "steps_per_generation": 2,
        "num_generations": 4,
        "max_steps": 4,
        "save_strategy": "no",
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "use_cpu": True,
        **train,
    }
    args = training_arguments(GRPOConfig, ASTER, values)
    kwargs = {**PROBLEMS, **(env_kwargs or {})}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    options = {"env_kwargs": kwargs, "policy": policy, "max_concurrent": max_concurrent}
    options |= {"policy_kwargs": policy_kwargs, "eval_env_kwargs": eval_env_kwargs, "patience": patience}
    options |= {"recipe": recipe, "ahead": ahead, "modules": modules}
    return AsterGRPOTrainer(folder, args, tokenizer, env="ASTER/PythonMath-v0", **options)


@pytest.fixture
def trainer(tmp_path):
    made = []

    def make(*args, **kwargs):
        made.append(make_trainer(tmp_path, *args, **kwargs))
        return made[-1]

    yield make
    for one in made:
        one.close()


def with_guesser(trainer, broken=()):
    tasks = [task for runner in trainer._runners.values() for task in runner.envs[0].tasks]
    trainer.policy = Guesser(
        trainer._runners["train"].envs[0].tokenizer, {t.prompt: t.answers[0] for t in tasks}, broken
    )
    return trainer


def test_each_task_is_played_as_a_group_and_the_advantages_are_ours(trainer, monkeypatch):
    trainer = with_guesser(trainer())
    seen = {}
    original = trainer._rollout

    def spy(prompts, _=None):
        seen["prompts"], seen["output"] = list(prompts), original(prompts)
        return seen["output"]

    trainer.rollout_func = spy
    monkeypatch.setattr("aster_train.recipe.group_relative", lambda rewards, size, scale: torch.arange(8.0))
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    output = trainer._generate_and_score_completions(batch)
    assert len(seen["prompts"]) == 8
    assert seen["prompts"][:4] == [seen["prompts"][0]] * 4
    assert seen["prompts"][4:] == [seen["prompts"][4]] * 4
    assert [t.task.id for t in trainer._trajectories] == seen["prompts"]
    assert output["advantages"].tolist() == list(range(8))
    for row, mask, ids, given in zip(
        output["completion_ids"],
        output["completion_mask"],
        seen["output"]["completion_ids"],
        trainer._trajectories,
        strict=True,
    ):
        assert row[mask.bool()].tolist() == ids == given.ids[len(given.prompt_ids) :]
    assert torch.equal(output["tool_mask"].bool() & output["completion_mask"].bool(), output["completion_mask"].bool())


def test_modules_go_around_the_policy_that_plays(trainer):
    class CallsFirst(Guesser):
        async def generate(self, request):
            if len(request.turns) > 1:
                return await super().generate(request)
            text = 'One.\nTwo.\n<tool_call>\n{"name": "python", "arguments": {"code": "1 / 0"}}\n</tool_call>'
            return Completion(ids := tuple(self.tokenizer.encode(text)), tuple(-1.0 for _ in ids))

    trainer = trainer(modules=("backtracker",), env_kwargs={"max_tokens": 1000})
    tasks = trainer._runners["train"].envs[0].tasks
    trainer.policy = CallsFirst(trainer._runners["train"].envs[0].tokenizer, {t.prompt: t.answers[0] for t in tasks})
    trainer.model.train()
    trainer._rollout([tasks[0].id] * 4)
    assert [t.usage["backtracker"] for t in trainer._trajectories] == [1] * 4
    assert {t.tool_calls for t in trainer._trajectories} == {1}, "what was taken back stays counted"


def test_modules_by_wrong_names_are_refused_before_a_model_is_loaded(tmp_path):
    with pytest.raises(UsageError, match="backtracker"):
        make_trainer(tmp_path, modules=("backtraker",))


def test_what_a_rollout_returns_besides_reaches_the_rows_and_the_rewards(trainer, monkeypatch):
    trainer = with_guesser(trainer())
    original, given = trainer._rollout, {}
    extras = {"phi": [float(n) for n in range(8)], "note": "one for all"}
    trainer.rollout_func = lambda prompts, trl: {**original(prompts), **extras}
    trainer.reward_funcs = [lambda **columns: given.update(columns) or columns["reward"]]
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    trainer._generate_and_score_completions(batch)
    assert [row["phi"] for row in batch] == given["phi"] == extras["phi"]
    assert [row["note"] for row in batch] == given["note"] == ["one for all"] * 8
    rewards = [t.reward for t in trainer._trajectories]
    assert len(set(rewards)) == 2
    assert [row["reward"] for row in batch] == given["reward"] == rewards
    assert not {"env_mask", "prompt_ids", "completion_ids", "logprobs"} & set(batch[0])


def test_our_advantages_are_trls_where_nothing_is_masked(trainer):
    trainer = with_guesser(trainer())
    original = GRPOTrainer._generate_and_score_completions
    theirs = {}

    def spy(self, inputs):
        output = original(self, inputs)
        theirs["a"] = output["advantages"].tolist()
        return output

    GRPOTrainer._generate_and_score_completions = spy
    try:
        trainer.model.train()
        ours = trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))["advantages"]
    finally:
        GRPOTrainer._generate_and_score_completions = original
    assert any(theirs["a"])
    assert ours.tolist() == pytest.approx(theirs["a"], abs=1e-5)


def test_a_masked_episode_trains_nothing_and_is_counted(trainer):
    trainer = with_guesser(trainer(), broken=[0, 5])
    trainer.model.train()
    output = trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
    masked = [n for n, t in enumerate(trainer._trajectories) if t.reward is None]
    assert len(masked) == 2
    assert (output["tool_mask"] * output["completion_mask"])[masked].sum() == 0
    assert output["advantages"][masked].tolist() == [0.0, 0.0]
    assert trainer._metrics["train"]["masked_episodes"] == [2.0]
    kept = output["tool_mask"] * output["completion_mask"]
    assert int(output["num_items_in_batch"]) == int(kept.sum())


def test_a_batch_in_which_nothing_could_be_played_stops_the_run(trainer):
    trainer = with_guesser(trainer(), broken=range(8))
    trainer.model.train()
    with pytest.raises(InfrastructureError, match=r"Not one of 8 episodes.*the engine is down"):
        trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))


def test_an_episode_without_a_completion_becomes_a_masked_pad(trainer):
    from aster_env.types import StopReason, Task, Trajectory, Turn

    trajectory = Trajectory(Task("t", "?", ("1",)), [Turn("environment", (1, 2), "p")], stop=StopReason.INFRASTRUCTURE)
    assert training_row(trajectory, 9) == {
        "prompt_ids": [1, 2], "completion_ids": [9], "logprobs": [0.0], "env_mask": [0]
    }  # fmt: skip


def loss_inputs(trainer):
    """Two rows; the second is padded, and the first has environment tokens in the middle."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(10, 300, (2, 6), generator=generator)
    return {
        "prompt_ids": torch.randint(10, 300, (2, 3), generator=generator),
        "prompt_mask": torch.ones(2, 3, dtype=torch.long),
        "completion_ids": ids,
        "completion_mask": torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]]),
        "tool_mask": torch.tensor([[1, 1, 0, 0, 1, 1], [1, 1, 1, 1, 0, 0]]),
        "advantages": torch.tensor([1.5, -0.5]),
        "num_items_in_batch": torch.tensor(8.0),
    }


def logprobs_of(model, inputs):
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    logits = model(ids).logits[:, 2:-1]
    return logits.log_softmax(-1).gather(2, inputs["completion_ids"][..., None])[..., 0]


def test_the_token_mean_loss_is_the_one_computed_by_hand(trainer):
    trainer = trainer(gradient_accumulation_steps=1, steps_per_generation=1, per_device_train_batch_size=4)
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    inputs = loss_inputs(trainer)
    with torch.no_grad():
        new = logprobs_of(trainer.model, inputs)
    # Old probabilities that push some ratios over either bound of the clipping.
    shift = torch.tensor([[0.5, -0.5, 9.0, 9.0, 0.1, -0.1], [0.5, -0.5, 0.1, -0.1, 9.0, 9.0]])
    inputs["old_per_token_logps"] = new - shift
    loss = trainer._compute_loss(trainer.model, inputs).item()
    total = 0.0
    for row, advantage in enumerate((1.5, -0.5)):
        for column in range(6):
            if inputs["completion_mask"][row, column] and inputs["tool_mask"][row, column]:
                ratio = math.exp(shift[row, column].item())
                total -= min(ratio * advantage, min(max(ratio, 0.8), 1.28) * advantage)
    assert loss == pytest.approx(total / 8, rel=1e-4)


def test_the_environments_tokens_contribute_exactly_nothing(trainer):
    trainer = trainer(gradient_accumulation_steps=1, steps_per_generation=1, per_device_train_batch_size=4)
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    inputs = loss_inputs(trainer)
    captured = {}

    def keep(module, args, output):
        output.retain_grad()
        captured["hidden"] = output

    # What leaves the last norm at position p reaches nothing but the prediction of the token at p + 1.
    handle = trainer.model.model.norm.register_forward_hook(keep)
    trainer._compute_loss(trainer.model, inputs).backward()
    handle.remove()
    gradient = captured["hidden"].grad.abs().sum(-1)
    sampled = (inputs["completion_mask"] * inputs["tool_mask"]).bool()
    prompt = inputs["prompt_ids"].shape[1]
    predicts = gradient[:, prompt - 1 : prompt - 1 + sampled.shape[1]]
    assert (predicts[~sampled] == 0).all()
    assert (predicts[sampled] > 0).all()
    assert gradient.sum() == pytest.approx(predicts.sum().item())


def test_a_run_trains_logs_and_writes_every_episode(trainer, tmp_path):
    trainer = trainer(max_steps=4)
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    with_guesser(trainer)
    trainer.train()
    assert any(not torch.equal(p, before[n]) for n, p in trainer.model.named_parameters())
    logged = {name for row in trainer.state.log_history for name in row}
    expected = {
        "reward", "accuracy", "tools/calls_mean", "tools/calls_p50", "tools/calls_p90", "tools/use_ratio",
        "tools/error_ratio", "tools/timeout_ratio", "tools/first_call_position", "turns/length", "entropy",
        "groups_without_variance", "masked_episodes", "time/generation", "time/tools", "time/reward", "time/update",
        "time/rollout", "time/step",
    }  # fmt: skip
    assert expected <= logged
    files = sorted((tmp_path / "out" / "trajectories").iterdir())
    assert [f.name for f in files] == ["train-000000.jsonl", "train-000002.jsonl"]
    rows = [json.loads(line) for f in files for line in f.read_text().splitlines()]
    assert len(rows) == 16
    assert all(row["stop"] == "answered" and "advantage" in row for row in rows)


def test_the_update_gives_what_the_sampler_gave(trainer):
    trainer = trainer(max_steps=2)
    trainer.train()
    differences = [row.get("sampling/logprob_difference_max") for row in trainer.state.log_history]
    assert [d for d in differences if d is not None]
    assert all(d < 1e-4 for d in differences if d is not None)


def test_a_run_in_bf16_samples_and_trains(trainer):
    trainer = trainer(max_steps=2, bf16=True)
    trainer.train()
    rows = [row for row in trainer.state.log_history if "masked_episodes" in row]
    assert [row["masked_episodes"] for row in rows] == [0.0]
    assert all(row["sampling/logprob_difference_max"] < 0.2 for row in rows)


def test_a_batch_whose_tokens_are_all_masked_is_logged(trainer):
    trainer = with_guesser(trainer())
    none = torch.zeros(2, 3)
    output = {"old_per_token_logps": none, "sampling_per_token_logps": none, "completion_mask": none, "tool_mask": none}
    trainer._log_episodes(output, torch.tensor([True]), {})
    assert "sampling/logprob_difference_max" not in trainer._metrics[trainer._mode]


def test_the_seconds_of_a_step_add_up_to_its_wall_time_with_the_optimizer_in_the_update(trainer):
    trainer = with_guesser(trainer(max_steps=4))
    started, ended, pauses = [], [], {"rollout": 0.3, "optimizer": 0.2}
    play, begin, end = trainer._runners["train"].run, trainer._ledger.on_step_begin, trainer._ledger.on_step_end
    trainer.create_optimizer_and_scheduler(4)
    step = trainer.optimizer.step

    def slow(call, seconds):
        return lambda *args, **kwargs: (time.sleep(seconds), call(*args, **kwargs))[1]

    trainer._runners["train"].run = slow(play, pauses["rollout"])
    trainer.optimizer.step = slow(step, pauses["optimizer"])
    trainer._ledger.on_step_begin = lambda *a, **k: (started.append(time.perf_counter()), begin(*a, **k))[1]
    trainer._ledger.on_step_end = lambda *a, **k: (end(*a, **k), ended.append(time.perf_counter()))[0]
    trainer.train()
    rows = [row for row in trainer.state.log_history if "time/step" in row]
    assert len(rows) == 4
    for n, row in enumerate(rows):
        parts = [row[f"time/{name}"] for name in ("generation", "tools", "reward", "train", "overhead")]
        assert sum(parts) == pytest.approx(row["time/step"])
        assert min(parts) >= 0
        assert row["time/rollout"] + row["time/update"] == pytest.approx(row["time/step"])
        assert row["time/step"] == pytest.approx(ended[n] - started[n], rel=0.03)
        assert row["time/train"] > pauses["optimizer"]
        # Two updates on each batch of episodes.
        assert row["time/rollout"] > pauses["rollout"] if n % 2 == 0 else row["time/rollout"] == 0


def test_every_batch_of_a_step_has_seeds_of_its_own_and_a_place_in_the_file(trainer, tmp_path):
    trainer = trainer(
        max_steps=2, steps_per_generation=1, gradient_accumulation_steps=3, eval_strategy="steps", eval_steps=1,
        per_device_eval_batch_size=4, eval_env_kwargs={"split": "test", "task_options": {"size": 3, "level": 1}},
    )  # fmt: skip
    with_guesser(trainer)
    trainer.train()
    trainer.evaluate()
    folder = tmp_path / "out" / "trajectories"
    lines = {path.name: len(path.read_text().splitlines()) for path in sorted(folder.iterdir())}
    # Three batches of four a step; three tasks, four times each, in an evaluation, and the last is played twice.
    assert lines == {
        "eval-000001.jsonl": 12, "eval-000002.jsonl": 12, "train-000000.jsonl": 12, "train-000001.jsonl": 12
    }  # fmt: skip
    seeds = [asked.seed for asked in trainer.policy.requests]
    assert len(seeds) == 60
    assert len(set(seeds)) == 48
    assert seeds[-12:] == seeds[-24:-12]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"policy_kwargs": {"max_bach": 1}}, "Did you mean 'max_batch'"),
        ({"policy_kwargs": {"temperature": 0.7}}, "Fix: train.temperature"),
        ({"policy_kwargs": {"max_cache_tokens": 128}}, "max_cache_tokens=128 holds no episode of .*max_tokens=160"),
        ({"loss_type": "dapoo"}, "Did you mean 'dapo'"),
        ({"env_kwargs": {"max_tokens": 20}}, "max_tokens"),
        ({"env_kwargs": {"task_options": {"size": 1, "level": 1}}}, "There are 1 tasks, and a batch of .* takes 2"),
        ({"temperature": 0.0}, "the loss divides by it"),
        ({"top_k": 20}, "top_k=20 .*train.top_p"),
        ({"min_p": 0.1}, "min_p=0.1"),
        ({"repetition_penalty": 1.1}, "the loss would not know"),
        ({"max_completion_length": 64}, "env_kwargs.max_tokens"),
        ({"mask_truncated_completions": True}, "ends in a call or an observation"),
        ({"model_init_kwargs": {"attn_implementation": "flash_attention_2"}}, "Allowed: 'sdpa', 'eager'"),
        (
            {
                "save_strategy": "steps",
                "steps_per_generation": 3,
                "gradient_accumulation_steps": 2,
                "per_device_train_batch_size": 4,
                "save_steps": 2,
            },
            "multiple of 3",
        ),
        ({"env_kwargs": {"dialect": "herms"}}, "Did you mean 'hermes'"),
        ({"save_strategy": "steps", "save_steps": 3}, "multiple of 2"),
        ({"scale_rewards": "batch"}, "'group' or 'none'"),
        ({"use_vllm": True, "vllm_mode": "server"}, "Allowed: 'colocate'"),
        ({"use_vllm": True, "vllm_tensor_parallel_size": 2}, "wait for each other. Allowed: 1"),
        ({"use_vllm": True, "vllm_importance_sampling_mode": "token"}, "Allowed: 'token_truncate'"),
        ({"use_vllm": True, "vllm_max_model_length": 100}, "holds no episode of .*max_tokens=160"),
        ({"use_vllm": True, "policy_kwargs": {"max_batch": 4}}, "train.vllm_"),
    ],
)
def test_contradictions_are_named_before_the_model_is_loaded(tmp_path, monkeypatch, options, says):
    monkeypatch.setattr(
        "trl.trainer.grpo_trainer.create_model_from_path", lambda *a, **k: pytest.fail("a model was loaded")
    )
    with pytest.raises(UsageError, match=says):
        make_trainer(tmp_path, **options)


def test_an_error_of_a_kernel_is_an_infrastructure_failure():
    assert issubclass(KernelError, InfrastructureError)
