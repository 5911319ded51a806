"""`aster plan`: what it says follows from its formulas, grows where it must, and is an error where it can't be said."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aster_env import cli
from aster_env.errors import UsageError
from aster_train.planning.fit import Request, changes, make_plan
from aster_train.planning.memory import GiB, Training, total
from aster_train.planning.model import KNOWN, read_shape
from aster_train.planning.sampling import Sampling, engine_episode
from tests.train.support import save_model

CONFIGS = Path(__file__).parents[2] / "aster_train" / "configs"
shape_named = cache(read_shape)

PUBLISHED = {"Qwen3-0.6B": 596_049_920, "Qwen3-1.7B": 1_720_574_976, "Qwen3-4B": 4_022_468_096,
             "Qwen3-8B": 8_190_735_360, "Qwen3-14B": 14_768_307_200, "Qwen3-32B": 32_762_123_264,
             "Qwen2.5-0.5B": 494_032_768, "Qwen2.5-1.5B": 1_543_714_304, "Qwen2.5-3B": 3_085_938_688,
             "Qwen2.5-7B": 7_615_616_512, "Qwen2.5-14B": 14_770_033_664}  # fmt: skip
"""Parameters in the safetensors files at huggingface.co/Qwen."""


@pytest.mark.parametrize("name", KNOWN)
def test_known_models_have_the_published_number_of_parameters(name):
    assert shape_named(name).parameters == PUBLISHED[name]


requests = st.builds(
    Request,
    st.sampled_from([*KNOWN]).map(shape_named),
    st.builds(
        Training,
        gpus=st.integers(1, 64),
        zero=st.integers(0, 3),
        bf16=st.booleans(),
        lora=st.sampled_from([0, 0, 8, 64]),
        checkpointing=st.booleans(),
        micro_batch=st.integers(1, 8),
        context=st.integers(1, 131072),
    ),
    st.builds(
        Sampling,
        share=st.sampled_from([0.0, 0.3, 0.5]),
        sleeps=st.booleans(),
        episodes=st.integers(1, 256),
        rows=st.integers(1, 256),
    ),
    st.sampled_from([24 * GiB, 80 * GiB, 141 * GiB]),
)


def changed(request, **fields):
    """Return the request with other fields of its training or its sampling."""
    training = {name: value for name, value in fields.items() if name in Training.__slots__}
    sampling = {name: value for name, value in fields.items() if name in Sampling.__slots__}
    return replace(
        request,
        training=replace(request.training, **training),
        sampling=replace(request.sampling, **sampling),
    )


@given(requests, st.integers(0, 100_000), st.integers(0, 8), st.integers(0, 100))
def test_more_of_anything_never_needs_less(request, tokens, rows, episodes):
    before = make_plan(request)
    for fields in (
        {"context": request.training.context + tokens},
        {"micro_batch": request.training.micro_batch + rows},
        {"episodes": request.sampling.episodes + episodes},
    ):
        after = make_plan(changed(request, **fields))
        assert after.needed >= before.needed
        assert total(after.engine) >= total(before.engine)
        assert total(after.host) >= total(before.host)
        assert after.over >= before.over


@given(requests, st.integers(1, 64))
def test_more_gpus_under_zero_3_never_need_more_each(request, more):
    request = changed(request, zero=3)
    assert make_plan(changed(request, gpus=request.training.gpus + more)).needed <= make_plan(request).needed


@given(requests, st.sampled_from([1, 8, 16]), st.sampled_from([1, 2, 8, 16]))
def test_adapters_never_need_more_than_all_weights(request, rank, gpus):
    full = changed(request, lora=0, micro_batch=1, gpus=gpus)
    assert make_plan(changed(full, lora=rank)).needed <= make_plan(full).needed


@given(requests)
def test_each_stage_of_zero_holds_no_more_than_the_one_before(request):
    held = [total(make_plan(changed(request, zero=stage, gpus=8)).held[:3]) for stage in (1, 2, 3)]
    assert held == sorted(held, reverse=True)


def evaluate(formula):
    """Return the value of a formula as it is printed."""
    value = 0
    for term in formula.split(" + "):
        product, _, over = term.partition(" / ")
        numbers = [int(re.match(r"[\d,]+", factor)[0].replace(",", "")) for factor in product.split(" × ")]
        value += -(-math.prod(numbers) // (int(over.split()[0]) if over else 1))
    return value


@given(requests)
def test_every_formula_gives_its_own_size(request):
    plan = make_plan(request)
    lines = [*plan.held, *plan.engine, *plan.host, plan.ceiling]
    for phase in plan.phases:
        lines += [*phase.lines, *phase.one_of]
    for line in lines:
        assert evaluate(line.formula) == line.bytes, line.name


@given(requests)
def test_what_is_said_to_fit_does(request):
    plan = make_plan(request)
    assert plan.fits == (plan.needed <= request.memory and plan.engine_over <= 0)
    if not plan.fits:
        for words, other in changes(request):
            assert other.fits, words
            assert {word for word in words.split() if word.startswith("--")} <= OPTIONS


OPTIONS = {"--sleep", "--gradient-checkpointing", "--micro-batch", "--zero", "--vllm-memory", "--episodes", "--lora",
           "--gpus", "--context"}  # fmt: skip


def run(capsys, *arguments):
    status = cli.main(["plan", *arguments])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_a_plan_says_what_is_needed_and_that_it_fits(capsys):
    status, said, _ = run(capsys, "--model", "Qwen3-4B", "--context", "32768", "--gpus", "8")
    assert status == 0
    assert "4,022,468,096 parameters × 2 B / 8 GPUs" in said
    assert "It fits" in said
    status, said, _ = run(capsys, "--model", "Qwen/Qwen3-4B", "--context", "32768", "--gpus", "8", "--json")
    plan = json.loads(said)
    assert plan["fits"]
    assert plan["needed_bytes"] == sum(line["bytes"] for line in plan["held"]) + max(
        phase["bytes"] for phase in plan["phases"]
    )
    assert plan["episode_cache_bytes"] == 32768 * 2 * 36 * 8 * 128 * 2


def test_a_plan_that_does_not_fit_says_what_would(capsys):
    status, said, _ = run(capsys, "--model", "Qwen3-8B", "--gpus", "1")
    assert status == 1
    assert "It does not fit, by" in said
    assert "--lora 16: fits" in said or "--gpus" in said
    status, said, _ = run(capsys, "--model", "Qwen3-8B", "--gpus", "1", "--json")
    assert status == 1
    assert json.loads(said)["changes"]


def test_a_model_without_hope_gets_no_false_one(capsys):
    status, said, _ = run(capsys, "--model", "Qwen3-32B", "--gpu-memory", "2")
    assert status == 1
    assert "take a smaller model" in said


def test_a_folder_and_the_embedded_model_are_read(tmp_path, capsys):
    status, said, _ = run(capsys, "--model", save_model(tmp_path), "--context", "224", "--vllm-memory", "0")
    assert status == 0
    assert "HFPolicy" in said
    assert run(capsys, "--model", "embedded", "--context", "224")[0] == 0


def test_a_configuration_is_read_and_options_say_otherwise(capsys):
    name = str(CONFIGS / "grpo_python_math.yaml")
    _, said, _ = run(capsys, "--config", name, "--json")
    plan = json.loads(said)
    assert plan["model"]["name"] == "Qwen/Qwen3-0.6B"
    assert plan["training"] == {
        "gpus": 1, "zero": 0, "bf16": True, "lora": 0, "checkpointing": True, "micro_batch": 4, "context": 16384,
        "padded": True, "mode": "autocast",
    }  # fmt: skip
    assert plan["sampling"] == {"share": 0.0, "sleeps": False, "episodes": 32, "rows": 32, "cache_tokens": 65536}
    _, said, _ = run(capsys, "--config", name, "--gpus", "8", "--context", "4096", "--vllm-memory", "0.4", "--json")
    plan = json.loads(said)
    assert (plan["training"]["zero"], plan["training"]["context"]) == (3, 4096)
    assert plan["sampling"]["share"] == 0.4


def test_a_configuration_for_vllm_and_adapters_is_read(tmp_path, capsys):
    file = tmp_path / "one.yaml"
    file.write_text(
        "model: Qwen3-1.7B\nlora: {r: 4}\nenv_kwargs: {max_tokens: 2048}\nmax_concurrent: 100\n"
        "train: {use_vllm: true, vllm_gpu_memory_utilization: 0.5, vllm_enable_sleep_mode: true, bf16: true,\n"
        "        per_device_train_batch_size: 2, gradient_accumulation_steps: 8}\n"
    )
    plan = json.loads(run(capsys, "--config", str(file), "--json")[1])
    assert plan["sampling"] == {"share": 0.5, "sleeps": True, "episodes": 16, "rows": 16, "cache_tokens": 0}
    assert plan["training"]["lora"] == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "Qwen3-4b"], "Did you mean 'Qwen3-4B'?"),
        (["--model", "./nowhere"], "is no folder"),
        ([], "--model NAME"),
        (["--model", "Qwen3-4B", "--context", "0"], "--context 0 is not allowed. Allowed: above 0."),
        (["--model", "Qwen3-4B", "--gpus", "-1"], "--gpus -1"),
        (["--model", "Qwen3-4B", "--gpu-memory", "0"], "--gpu-memory 0"),
        (["--model", "Qwen3-4B", "--zero", "4"], "Allowed: 0 (no DeepSpeed), 1, 2 or 3."),
        (["--model", "Qwen3-4B", "--lora", "9999"], "2560"),
        (["--model", "Qwen3-4B", "--vllm-memory", "1.5"], "--vllm-memory 1.5"),
        (["--config", "nowhere.yaml"], "no such file"),
    ],
)
def test_errors_name_the_value_and_what_is_allowed(arguments, said, capsys):
    status, _, error = run(capsys, *arguments)
    assert status == 2
    assert said in error


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model: Qwen3-4B\nenv_kwargs: {max_tokens: many}\n", "env_kwargs.max_tokens: 'many'"),
        ("model: Qwen3-4B\ntrain: {model_init_kwargs: {attn_implementation: eager}}\n", "Allowed: 'sdpa'"),
        ("model: Qwen3-4B\ntrain: {model_init_kwargs: {dtype: bfloat16}}\n", "Allowed: 'float32'"),
        ("model: Qwen3-4B\npolicy_kwargs: {max_cache_tokens: 128}\n", "max_cache_tokens=128"),
    ],
)
def test_a_configuration_that_no_formula_describes_is_named(text, said, tmp_path, capsys):
    file = tmp_path / "one.yaml"
    file.write_text(text)
    status, _, error = run(capsys, "--config", str(file))
    assert status == 2
    assert said in error


def test_a_model_of_another_kind_is_refused_with_those_that_are_known(tmp_path):
    config = {"model_type": "mixtral", "hidden_size": 32}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=r"mixtral.*Allowed: llama"):
        read_shape(str(tmp_path))


def test_without_the_extra_the_other_commands_have_their_parsers():
    extra = ("torch", "transformers", "trl", "accelerate", "datasets", "peft", "yaml")
    code = f"import sys; sys.modules.update(dict.fromkeys({extra})); from aster_env import cli; cli._parser()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_the_extra_the_command_says_which(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "transformers", None)
    status, _, error = run(capsys, "--model", "Qwen3-4B")
    assert status == 2
    assert "aster-gym[train]" in error


def test_an_episode_takes_whole_blocks_of_the_engines_cache():
    shape = shape_named("Qwen3-4B")
    assert engine_episode(shape, 17).bytes == 2 * engine_episode(shape, 16).bytes
