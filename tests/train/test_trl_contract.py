"""What is used of TRL: repetition of prompts, merging of extras, the override of advantages, the loss and its mask."""

from __future__ import annotations

import json
import math

import pytest
import torch

from aster_env.errors import InfrastructureError, KernelError, UsageError
from aster_env.rollout import Completion
from aster_train.config import ASTER, training_arguments
from aster_train.trainer import AsterGRPOTrainer, training_row
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


def make_trainer(tmp_path, policy="hf", env_kwargs=None, max_concurrent=4, **train):
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
    kwargs = {**PROBLEMS, "allow_unsandboxed": True, **(env_kwargs or {})}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    options = {"env_kwargs": kwargs, "policy": policy, "max_concurrent": max_concurrent}
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
    tasks = trainer._runners["train"].envs[0].tasks
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
    monkeypatch.setattr("aster_train.trainer.group_relative", lambda rewards, size, scale: torch.arange(8.0))
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


def test_our_advantages_are_trls_where_nothing_is_masked(trainer):
    trainer = with_guesser(trainer())
    ours = {}
    trainer._write_trajectories = lambda advantages: ours.update(a=list(advantages))
    original = type(trainer).__mro__[1]._generate_and_score_completions
    theirs = {}

    def spy(self, inputs):
        output = original(self, inputs)
        theirs["a"] = output["advantages"].tolist()
        return output

    type(trainer).__mro__[1]._generate_and_score_completions = spy
    try:
        trainer.model.train()
        trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
    finally:
        type(trainer).__mro__[1]._generate_and_score_completions = original
    assert any(theirs["a"])
    assert ours["a"] == pytest.approx(theirs["a"], abs=1e-5)


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


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"policy": "hff"}, "Did you mean 'hf'"),
        ({"env_kwargs": {"dialect": "herms"}}, "Did you mean 'hermes'"),
        ({"save_strategy": "steps", "save_steps": 3}, "multiple of 2"),
        ({"scale_rewards": "batch"}, "'group' or 'none'"),
        ({"use_vllm": True, "vllm_mode": "colocate"}, "use_vllm"),
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
