"""Interaction collapse in training itself: a run whose reward makes calls expensive, and the same run without that."""

from __future__ import annotations

import json

import gymnasium as gym
import pytest
import torch
from trl import GRPOConfig

from aster_env.dialects import make_dialect
from aster_env.envs.python_math.env import PythonMathEnv
from aster_env.rollout import RolloutRunner
from aster_env.tokenizers import as_tokenizer
from aster_env.types import RewardResult
from aster_train.config import ASTER, training_arguments
from aster_train.examples import read_examples
from aster_train.tiny.coldstart import _loss, embedded_tokenizer, play_expert
from aster_train.tiny.model import make_model
from aster_train.trainer import AsterGRPOTrainer
from aster_train.watch import read_warnings

KWARGS = {
    "task_options": {"level": 1, "size": 256},
    "split": "train",
    "instruction": "",
    "max_tokens": 224,
    "max_tool_calls": 8,
}
SHARES = {"expert": 0.8, "skip": 0.2}


class Charged:
    """1 for any answer, less a fifth for each call."""

    def __init__(self, price):
        self.price = price

    async def __call__(self, task, trajectory):
        return RewardResult(1.0 - self.price * trajectory.tool_calls, {"correct": 1.0})

    async def close(self):
        """Nothing to release."""


class ChargedEnv(PythonMathEnv):
    """The same environment, with a price on calls."""

    def __init__(self, *, price, **options):
        super().__init__(**options)
        self.reward = Charged(price)


@pytest.fixture(scope="module")
def primed(tmp_path_factory):
    """A model that makes two calls in four episodes of five, and its tokenizer."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("primed")
    tokenizer = embedded_tokenizer("ASTER/PythonMath-v0", KWARGS, 0)
    with RolloutRunner(
        "ASTER/PythonMath-v0", max_concurrent=8, env_kwargs={**KWARGS, "tokenizer": tokenizer}
    ) as runner:
        episodes = play_expert(runner, SHARES, 64, 0)
    (folder / "rows.jsonl").write_text("".join(json.dumps(t.to_json()) + "\n" for t in episodes))
    rows = read_examples(str(folder / "rows.jsonl"), make_dialect("hermes", as_tokenizer(tokenizer)), None).rows
    model = make_model(len(tokenizer), 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95))
    for step in range(120):
        loss, _ = _loss(model, [rows[n % len(rows)] for n in range(16 * step, 16 * step + 16)])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder), tokenizer


@pytest.mark.slow
@pytest.mark.parametrize("price", [0.2, 0.0], ids=["calls cost", "calls are free"])
def test_a_run_collapses_where_calls_cost_and_is_said_to(primed, tmp_path, price, capsys):
    model, tokenizer = primed
    gym.register("ASTER-Test/Charged-v0", entry_point=ChargedEnv)
    values = {
        "output_dir": str(tmp_path),
        "max_steps": 40,
        "learning_rate": 1e-3,
        "num_generations": 8,
        "per_device_train_batch_size": 32,
        "gradient_accumulation_steps": 1,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    try:
        trainer = AsterGRPOTrainer(
            model,
            training_arguments(GRPOConfig, ASTER, values),
            tokenizer,
            env="ASTER-Test/Charged-v0",
            env_kwargs={**KWARGS, "price": price},
            max_concurrent=32,
        )
        try:
            trainer.train()
        finally:
            trainer.close()
    finally:
        gym.registry.pop("ASTER-Test/Charged-v0")
    calls = [row["tools/calls_mean"] for row in trainer.state.log_history if "tools/calls_mean" in row]
    names = {row["name"] for row in read_warnings(str(tmp_path))}
    if price:
        assert sum(calls[-5:]) < 0.5 * sum(calls[:5])
        assert {"fewer_calls", "no_calls"} <= names
        assert "Interaction collapse" in capsys.readouterr().out
    else:
        assert sum(calls[-5:]) > 0.8 * sum(calls[:5])
        assert not names
