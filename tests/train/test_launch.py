"""``accelerate launch`` with ZeRO-3 on two processes, sampling with transformers and with a colocated vLLM."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from aster_train.export import export

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "aster_train" / "configs"
pytestmark = [
    pytest.mark.deepspeed,
    pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed"),
]
needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed")

OTHER = ("--env_kwargs", "{}", "--per_device_train_batch_size", "4")
PARITY = ("--env", "tests.train.parity:Parity-v0", *OTHER, "--learning_rate", "1e-2")
"""A reward in which every model's samples vary: weights move."""


def launch(out, *arguments, zero=True, code=0, **variables):
    """Run grpo.py as the README says; return what it printed and its log."""
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    if zero:
        command += ["--config_file", str(CONFIGS / "accelerate" / "zero3-cpu.yaml"), "--main_process_port", "0"]
    command += ["aster_train/grpo.py", "--config", str(CONFIGS / "tiny.yaml"), "--output_dir", str(out), *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **variables}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == code, done.stdout + done.stderr
    state = out / "trainer_state.json"
    return done.stdout, json.loads(state.read_text())["log_history"] if state.exists() else []


def checkpoints(out):
    return sorted(path.name for path in out.iterdir() if path.name.startswith(("checkpoint", ".")))


def differences(log):
    return [row["sampling/logprob_difference_max"] for row in log if "sampling/logprob_difference_max" in row]


def logits(folder):
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder).eval()(torch.arange(5, 60)[None]).logits


def test_zero3_trains_saves_and_exports(tmp_path):
    out = tmp_path / "out"
    said, log = launch(out, *PARITY)
    assert "step 4/4" in said
    assert len(differences(log)) == 2
    assert max(differences(log)) < 1e-4
    assert checkpoints(out) == ["checkpoint-2", "checkpoint-4"]
    assert len(list((out / "checkpoint-4").glob("rng_state_*.pth"))) == 2
    # The whole weights that were saved, and those put together from the optimizer's shards, are the same model.
    (out / "checkpoint-4" / "model.safetensors").unlink()
    export(str(out / "checkpoint-4"), str(tmp_path / "shards"))
    export(str(out), str(tmp_path / "whole"))
    assert torch.allclose(logits(tmp_path / "shards"), logits(tmp_path / "whole"), atol=1e-5)
    assert not torch.allclose(logits(out / "embedded"), logits(tmp_path / "whole"), atol=1e-3)


@needs_vllm
@pytest.mark.vllm
def test_zero3_trains_on_what_vllm_samples(tmp_path):
    # The slow tests have the engine compile its model first, as it does by default.
    said, log = launch(tmp_path / "out", "--use_vllm", "true", TORCH_COMPILE_DISABLE="1")
    assert "step 4/4" in said
    assert len(differences(log)) == 2
    assert max(differences(log)) < 1e-4


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("lora", [[], ["--lora", "{r: 4}"]], ids=["full", "lora"])
def test_zero3_resumes_to_the_unbroken_run(tmp_path, lora):
    # One episode at a time: the same batches each time. Two batches an epoch: the run is cut within one.
    options = [*lora, *PARITY, "--num_generations", "8", "--max_concurrent", "1", "--lr_scheduler_type", "constant"]
    launch(tmp_path / "whole", *options)
    launch(tmp_path / "cut", *options, "--max_steps", "2")
    said, _ = launch(tmp_path / "cut", *options)
    assert "step 2/" not in said
    for name in ("whole", "cut"):
        export(str(tmp_path / name), str(tmp_path / f"{name}-plain"))
    assert torch.equal(logits(tmp_path / "cut-plain"), logits(tmp_path / "whole-plain"))
    assert not torch.allclose(logits(tmp_path / "cut" / "embedded"), logits(tmp_path / "cut-plain"), atol=1e-3)


@needs_vllm
@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.timeout(900)
@pytest.mark.parametrize("zero", [False, True], ids=["one process", "zero3"])
def test_adapters_reach_the_engine_after_every_update(tmp_path, zero):
    options = [*PARITY, "--lora", "{r: 4}", "--use_vllm", "true", "--max_steps", "6"]
    _, log = launch(tmp_path / "out", *options, zero=zero)
    assert max(differences(log)) < 1e-4
    export(str(tmp_path / "out"), str(tmp_path / "plain"))
    assert not torch.allclose(logits(tmp_path / "out" / "embedded"), logits(tmp_path / "plain"), atol=1e-3)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("vllm", [False, pytest.param(True, marks=[needs_vllm, pytest.mark.vllm])])
def test_processes_whose_episodes_differ_widely_in_length_do_not_wait_inside_one(tmp_path, vllm):
    options = ["--env", "tests.train.parity:Uneven-v0", *OTHER, "--use_vllm", str(vllm).lower()]
    said, log = launch(tmp_path / "out", *options)
    assert "step 4/4" in said
    assert max(differences(log)) < 1e-4
    lengths = []
    for rank in (0, 1):
        rows = (tmp_path / "out" / "trajectories" / f"train-000000-rank{rank}.jsonl").read_text().splitlines()
        lengths.append([sum(len(turn["ids"]) for turn in json.loads(row)["turns"][1:]) for row in rows])
    assert max(lengths[0]) < 40
    assert max(lengths[1]) > 100


def test_every_accelerate_configuration_is_one():
    from accelerate.commands.config.config_args import load_config_from_file

    for path in (CONFIGS / "accelerate").glob("*.yaml"):
        config = load_config_from_file(str(path))
        assert config.deepspeed_config["zero_stage"] == 3
        assert yaml.safe_load(path.read_text())["num_processes"] == config.num_processes
