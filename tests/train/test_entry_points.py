"""grpo.py and sft.py as commands: configuration, checkpoints, and a run killed in the middle."""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from trl import GRPOConfig, SFTConfig

from aster_env.dialects import make_dialect
from aster_env.errors import UsageError
from aster_env.tokenizers import ByteTokenizer, as_tokenizer
from aster_env.types import Task, Trajectory, Turn
from aster_train import grpo, sft
from aster_train.check import check_arguments, check_length
from aster_train.checkpoints import resume_from
from aster_train.config import (
    ASTER,
    SFT,
    GRPOSettings,
    SFTSettings,
    build,
    find_model,
    load_tokenizer,
    read_settings,
    training_arguments,
)
from aster_train.examples import IGNORED, read_examples
from aster_train.policies.hf import OPTIONS
from aster_train.tiny.tokenizer import make_tokenizer
from tests.train.support import save_model

ROOT = Path(__file__).parents[2]


def grpo_config(folder, out, **train):
    return {
        "model": save_model(folder / "model"),
        "env_kwargs": {
            "tasks": "generated", "task_options": {"size": 16, "level": 1}, "instruction": "", "max_tokens": 120,
            "max_tool_calls": 2,
        },
        # One episode at a time: what shares a batch decides the last bits of a probability.
        "max_concurrent": 1,
        "train": {
            "output_dir": str(out), "per_device_train_batch_size": 4, "steps_per_generation": 2, "num_generations": 2,
            "max_steps": 8, "save_steps": 2, "learning_rate": 1e-2, "gradient_checkpointing": False, "seed": 7,
            "disable_tqdm": True, "use_cpu": True, **train,
        },
    }  # fmt: skip


def write(config):
    path = Path(config["train"]["output_dir"]).with_suffix(".yaml")
    path.write_text(yaml.safe_dump(config))
    return path


def launch(script, config, *arguments):
    path = write(config)
    command = [sys.executable, str(ROOT / "aster_train" / script), "--config", str(path), *arguments]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=path.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def finish(process, code=0):
    output = process.communicate(timeout=200)[0]
    assert process.returncode == code, output
    return output


def digest(folder):
    return hashlib.sha256((Path(folder) / "model.safetensors").read_bytes()).hexdigest()


def test_a_run_killed_with_sigkill_resumes_and_ends_with_the_same_weights(tmp_path, capsys):
    whole, cut = tmp_path / "whole", tmp_path / "cut"

    def configured(out):
        return {**grpo_config(tmp_path, out), "env": "tests.train.parity:Parity-v0", "env_kwargs": {}}

    grpo.main(["--config", str(write(configured(whole)))])
    assert "step 8/8" in capsys.readouterr().out
    process = launch("grpo.py", configured(cut))
    deadline = time.monotonic() + 150
    while not (cut / "checkpoint-4" / "trainer_state.json").exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)  # polling with a deadline
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (cut / "model.safetensors").exists()
    output = finish(launch("grpo.py", configured(cut)))
    assert digest(cut) == digest(whole)
    assert digest(cut) != digest(tmp_path / "model")
    assert "step 2/8" not in output
    names = sorted(path.name for path in (cut / "trajectories").iterdir())
    assert names == [f"train-{step:06d}.jsonl" for step in (0, 2, 4, 6)]
    for name in names:
        ours, theirs = (
            [json.loads(row)["turns"][1]["ids"] for row in (folder / "trajectories" / name).read_text().splitlines()]
            for folder in (cut, whole)
        )
        assert ours == theirs


def test_the_last_checkpoint_is_the_one_of_the_most_steps(tmp_path):
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-best", ".saving/checkpoint-12"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "trainer_state.json").write_text("{}")
    (tmp_path / "checkpoint-11").mkdir()
    assert resume_from(tmp_path) == str(tmp_path / "checkpoint-10")
    assert resume_from(tmp_path / "none") is None


def test_sft_learns_from_trajectories_that_grpo_wrote(tmp_path, capsys):
    config = grpo_config(tmp_path, tmp_path / "grpo", max_steps=2, save_strategy="no")
    config["max_concurrent"] = 4
    grpo.main(["--config", str(write(config))])
    data = tmp_path / "grpo" / "trajectories" / "train-000000.jsonl"
    out = tmp_path / "sft"
    settings = {
        "model": config["model"], "data": str(data),
        "train": {"output_dir": str(out), "max_steps": 4, "save_steps": 2, "per_device_train_batch_size": 2,
                  "gradient_checkpointing": False, "use_cpu": True, "max_length": 400},
    }  # fmt: skip
    sft.main(["--config", str(write(settings))])
    output = capsys.readouterr().out
    assert "8 examples" in output
    assert "0 overlong dropped; 0 written with another tokenizer" in output
    assert digest(out) != digest(config["model"])
    settings["train"]["max_steps"] = 6
    output = finish(launch("sft.py", settings))
    assert "step 6/6" in output
    assert "step 3/6" not in output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--modle", "x"], "Did you mean 'model'"),
        (["--train.learning_rte", "1"], "Did you mean 'learning_rate'"),
        (["--train.learning_rate", "abc"], "learning_rate: 'abc' is not allowed. Allowed: a number"),
        (["--env", "ASTER/PythonMaths-v0"], "PythonMath"),
        (["--env_kwargs.dialect", "herms"], "Did you mean 'hermes'"),
        (["--env_kwargs.tasks", "aime_25"], "Did you mean"),
        (["--env_kwargs.max_calls", "3"], "max_tool_calls|max_calls"),
        (["--model", "./no/such/model"], "no/such/model"),
        (["--model", "modle"], "could not be loaded.*Did you mean 'model'"),
        (["--use_vlm", "true"], "Unknown configuration key 'use_vlm'"),
        (["--policy_kwargs.temprature", "1"], "train.temperature|Unknown key of 'policy_kwargs'"),
    ],
)
def test_a_wrong_configuration_says_what_to_write_before_a_model_is_loaded(tmp_path, monkeypatch, arguments, says):
    monkeypatch.setattr(
        "trl.trainer.grpo_trainer.create_model_from_path", lambda *a, **k: pytest.fail("a model was loaded")
    )
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(yaml.safe_dump(grpo_config(tmp_path, tmp_path / "out")))
    with pytest.raises(UsageError, match=says):
        grpo.main(["--config", "c.yaml", *arguments])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("script", ["grpo.py", "sft.py"])
def test_a_command_ends_on_a_wrong_configuration_with_one_line(tmp_path, monkeypatch, script):
    path = write({"model": "x", "train": {"output_dir": str(tmp_path / "out")}})
    monkeypatch.setattr(sys, "argv", [script, "--config", str(path), "--modle", "x"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "aster_train" / script), run_name="__main__")
    assert "Did you mean 'model'" in ended.value.code  # what the interpreter prints, and no traceback
    assert "\n" not in ended.value.code


def test_settings_come_from_the_file_and_the_command_line_over_it(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("model: a\ntrain: {output_dir: x, seed: 1}\n")
    arguments = [
        "--config",
        str(path),
        "--train.seed",
        "2",
        "--train.learning_rate=1e-6",
        "--env_kwargs.tasks",
        "gsm8k",
    ]
    settings = read_settings(GRPOSettings, arguments, "")
    assert settings.model == "a"
    assert settings.train == {"output_dir": "x", "seed": 2, "learning_rate": 1e-6}
    assert settings.env_kwargs == {"tasks": "gsm8k"}


@pytest.mark.parametrize(
    ("kind", "values", "says"),
    [
        (GRPOSettings, {}, "lacks 'model'"),
        (GRPOSettings, {"model": 3}, "a string"),
        (GRPOSettings, {"model": "m", "train": 1}, "a mapping"),
        (GRPOSettings, {"model": "m", "max_concurrent": "many"}, "an integer"),
        (SFTSettings, {"model": "m", "dta": "x"}, "Did you mean 'data'"),
    ],
)
def test_wrong_values_are_named(kind, values, says):
    with pytest.raises(UsageError, match=says):
        build(kind, values)


@pytest.mark.parametrize("text", ["[1]", "a: [", "\x00"])
def test_a_file_that_is_no_mapping_is_named(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"c\.yaml"):
        read_settings(GRPOSettings, ["--config", str(path)], "")
    with pytest.raises(UsageError, match=r"d\.yaml.*Beside it: c\.yaml"):
        read_settings(GRPOSettings, ["--config", str(tmp_path / "d.yaml")], "")


def test_a_model_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"has no config\.json"):
        find_model(str(tmp_path))
    (tmp_path / "model").mkdir()
    with pytest.raises(UsageError, match=r"is no folder\. Did you mean '.*/model'"):
        find_model(str(tmp_path / "modle"))
    assert find_model("owner/name") == "owner/name"
    with pytest.raises(UsageError, match="'owner/name' could not be loaded"):
        load_tokenizer("owner/name")


def test_the_embedded_model_is_made_in_the_runs_folder_and_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="'train' lacks 'output_dir'"):
        grpo.main(["--model", "embedded"])
    assert not list(tmp_path.iterdir())
    folder = find_model("embedded", "out")
    assert len(load_tokenizer(folder)) > 256
    made = digest(folder)
    assert find_model("embedded", "out") == folder
    assert digest(find_model("embedded", "other")) == made
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["embedded"]


def test_a_model_in_the_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = save_model(tmp_path / "model")
    assert find_model("~/model") == folder
    assert len(load_tokenizer(folder)) > 256


def test_every_shipped_configuration_is_valid():
    for path in (ROOT / "aster_train" / "configs").glob("*.yaml"):
        values = yaml.safe_load(path.read_text())
        settings = build(SFTSettings if "data" in values else GRPOSettings, {"model": "m", **values})
        kind, defaults = (SFTConfig, SFT) if "data" in values else (GRPOConfig, ASTER)
        # bf16 asks for a GPU, or for this.
        args = training_arguments(kind, defaults, {"output_dir": "x", **settings.train, "use_cpu": True})
        assert args.bf16 == values["train"].get("bf16", False)
        if kind is GRPOConfig:
            options = {**OPTIONS, **settings.policy_kwargs}
            check_arguments(args, None, settings.policy_kwargs)
            check_length(settings.env_kwargs["max_tokens"], args, options)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"learning_rate": "abc"}, r"train\.learning_rate: 'abc' .*Allowed: a number\."),
        ({"learning_rate": True}, "train.learning_rate: True .*a number"),
        ({"max_steps": 1.5}, "train.max_steps: 1.5 .*an integer"),
        ({"use_cpu": "yes"}, "train.use_cpu: 'yes' .*true or false"),
        ({"top_p": None}, "train.top_p: None .*a number"),
        ({"save_strategy": False}, "train.save_strategy: False .*a string"),
        ({"report_to": "trakio"}, "Did you mean 'trackio'"),
        ({"report_to": ["tensorboard", "wandb"]}, "'wandb', which is not installed. Fix: pip install wandb"),
    ],
)
def test_wrong_values_of_train_are_named(values, says, monkeypatch):
    monkeypatch.setattr("transformers.integrations.get_available_reporting_integrations", lambda: ["tensorboard"])
    with pytest.raises(UsageError, match=says):
        training_arguments(GRPOConfig, ASTER, {"output_dir": "x", "use_cpu": True, **values})


def test_a_number_with_an_exponent_is_a_number(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("model: a1e5\ntrain: {output_dir: 1e, learning_rate: 1e-6, weight_decay: 2E1, max_steps: 3}\n")
    settings = read_settings(GRPOSettings, ["--config", str(path), "--env_kwargs.timeout", "1.5e1"], "")
    assert settings.model == "a1e5"
    assert settings.train == {"output_dir": "1e", "learning_rate": 1e-6, "weight_decay": 20.0, "max_steps": 3}
    assert settings.env_kwargs == {"timeout": 15.0}


def test_examples_drop_what_is_too_long_and_count_it(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A" * n}]} for n in (3, 2000)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    examples = read_examples(str(path), make_dialect("hermes", ByteTokenizer()), 500)
    assert (len(examples.rows), examples.overlong) == (1, 1)
    row = examples.rows[0]
    learned = [i for i, label in zip(row["input_ids"], row["labels"], strict=True) if label != IGNORED]
    assert ByteTokenizer().decode(learned) == "AAA<|im_end|>"
    with pytest.raises(UsageError, match="no example"):
        read_examples(str(path), make_dialect("hermes", ByteTokenizer()), 5)


def test_a_trajectory_of_another_tokenizer_is_tokenised_anew_and_counted(tmp_path):
    path = tmp_path / "rows.jsonl"
    text = "What is 12? \\boxed{12}"
    turns = [Turn(role, tuple(text.encode()), text) for role in ("environment", "model")]
    path.write_text(json.dumps(Trajectory(Task("t", "p", ("1",)), turns).to_json()))
    bpe = as_tokenizer(make_tokenizer([text * 5], 300))
    assert read_examples(str(path), make_dialect("hermes", ByteTokenizer()), None).retokenized == 0
    examples = read_examples(str(path), make_dialect("hermes", bpe), None)
    assert examples.retokenized == 1
    assert bpe.decode(examples.rows[0]["input_ids"]) == text * 2


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 1"),
        ("{}", "'turns'"),
        ('{"messages": [{"role": "user", "content": "Q"}]}', "no episode"),
        ('{"messages": [{"role": "assistent", "content": "Q"}]}', "Did you mean 'assistant'"),
        ('{"messages": [{"role": "user", "content": null}]}', "line 1.*'user' is None"),
        ('{"turns": [3], "task": null}', "line 1"),
        ('{"messages": [3]}', "line 1"),
    ],
)
def test_bad_examples_are_named_with_their_line(tmp_path, line, says):
    path = tmp_path / "rows.jsonl"
    path.write_text(line)
    with pytest.raises(UsageError, match=says):
        read_examples(str(path), make_dialect("hermes", ByteTokenizer()), None)
    with pytest.raises(UsageError, match=r"Beside it: rows\.jsonl"):
        read_examples(str(tmp_path / "row.jsonl"), make_dialect("hermes", ByteTokenizer()), None)


def test_a_file_that_is_not_utf_8_is_named_with_its_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    row = '{"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "é"}]}\n'
    path.write_bytes(row.encode() + row.encode("latin-1"))
    with pytest.raises(UsageError, match=r"line 2: UnicodeDecodeError.*UTF-8"):
        read_examples(str(path), make_dialect("hermes", ByteTokenizer()), None)
