"""The published recipes: files that hold what they say, plans of them, and each in small."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from aster_env import cli
from aster_env.errors import UsageError
from aster_train import grpo, sft
from aster_train.check import check_arguments, check_length
from aster_train.planning.command import add_arguments, make_request
from aster_train.planning.fit import make_plan
from aster_train.planning.memory import total
from aster_train.policies.hf import OPTIONS
from aster_train.recipe import Recipe
from aster_train.recipes.arithmetic import example_batches, grpo_batches
from aster_train.recipes.dryrun import arguments, dry_run, read
from aster_train.recipes.listing import CONFIGS, RECIPES, find
from aster_train.recipes.resolve import check_cached, load_environment
from aster_train.recipes.tiny import scaled
from aster_train.tiny.embedded import make_embedded
from aster_train.values import read_yaml

DOCS = Path(__file__).parents[2] / "docs" / "recipes.md"
NAMES = [entry.name for entry in RECIPES]
RUNNABLE = [entry.name for entry in RECIPES if entry.kind != "dpo"]
OWN = {"train.output_dir"}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Take the hub to be out of reach, and leave the other core alone: more threads are slower for so small a model."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_embedded(str(tmp_path_factory.mktemp("model")))


def flat(name):
    """Return a recipe's values by their dotted keys."""
    out = {}
    for key, value in find(name).values().items():
        nested = key in ("env_kwargs", "eval_env_kwargs", "train", "sampling")
        out |= {f"{key}.{inner}": it for inner, it in value.items()} if nested else {key: value}
    return out


def differences(name, other):
    ours, theirs = flat(name), flat(other)
    return {key for key in ours | theirs if ours.get(key) != theirs.get(key)}


def test_the_list_holds_every_file_and_every_file_is_in_the_list():
    files = {str(path.relative_to(CONFIGS).with_suffix("")) for path in CONFIGS.glob("*/*.yaml")}
    assert {name for name in files if not name.startswith(("accelerate/", "tiny-"))} == set(NAMES)
    assert {name for entry in RECIPES for name in entry.after} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_is_accepted_by_its_entry_point(name):
    entry = find(name)
    settings = read(entry)
    args = arguments(entry, settings, entry.gpus)
    assert args.bf16
    assert settings.train["output_dir"] == f"runs/{name}"
    if entry.kind == "grpo":
        check_arguments(args, None, settings.policy_kwargs)
        check_length(settings.env_kwargs["max_tokens"], args, {**OPTIONS, **settings.policy_kwargs})
        recipe = Recipe.read(settings.shaping, settings.penalties, settings.selection)
        recipe.penalties.check(settings.env_kwargs["max_tokens"])
        args.per_device_train_batch_size = settings.train["per_device_train_batch_size"]
        recipe.check(args)


@pytest.mark.parametrize(
    ("name", "prompts", "group", "played", "updates", "batches", "steps"),
    [
        ("aster-4b/stage1", 128, 8, 1024, 2, 135, 2 * 405),  # 405 batches are published
        ("aster-4b/stage2", 128, 8, 1024, 2, 39, 2 * 39 * 6),
        ("aspo/bigram", 32, 4, 128, 1, None, 30),
        ("tool-star-3b/grpo", 128, 8, 1024, 8, None, 48),
        ("demyagent/grpo", 64, 16, 1024, 1, None, None),
        ("rstar2/grpo", 128, 16, 2 * 2048, 1, 135, 200),
        ("simpletir/grpo", 512, 16, 3 * 8192, 4, None, None),
    ],
)
def test_batches_are_those_of_the_source(name, prompts, group, played, updates, batches, steps):
    entry = find(name)
    settings = read(entry)
    args = arguments(entry, settings, entry.gpus)
    found = grpo_batches(args, settings.train["per_device_train_batch_size"], settings.selection, entry.tasks)
    assert (found.prompts, found.group, found.batch) == (prompts, group, prompts * group)
    assert (found.played, found.updates) == (played, updates)
    assert (found.batches, found.steps) == (batches, steps)


@pytest.mark.parametrize("name", ["aster-4b/sft", "tool-star-3b/sft"])
def test_a_batch_of_sft_has_128_examples(name):
    entry = find(name)
    settings = read(entry)
    found = example_batches(arguments(entry, settings, entry.gpus), 1, 4000)
    assert (found.batch, found.batches, found.steps) == (128, 32, 32 * settings.train["num_train_epochs"])


@pytest.mark.parametrize(
    ("name", "other", "keys"),
    [
        ("aster-4b/stage2", "aster-4b/stage1",
         {"model", "env_kwargs.max_tokens", "curriculum", "train.num_train_epochs"}),
        ("aster-1.7b/sft", "aster-4b/sft", {"model"}),
        ("aster-1.7b/stage1", "aster-4b/stage1", {"model"}),
        ("aster-1.7b/stage2", "aster-4b/stage2", {"model", "curriculum"}),
        ("coldstart/zero", "aster-4b/stage1", {"model"}),
        ("coldstart/zero-force-tool", "coldstart/zero", {"env_kwargs.require_tool"}),
        ("coldstart/aster", "aster-4b/sft", set()),
        ("coldstart/retool", "aster-4b/sft", {"data"}),
        ("coldstart/demyagent", "aster-4b/sft", {"data"}),
        ("aspo/conservative", "aster-4b/stage1",
         {"model", "shaping", "train.num_train_epochs", "train.vllm_gpu_memory_utilization"}),
        ("aspo/aggressive", "aspo/conservative", {"shaping"}),
        ("aspo/bigram-clipped", "aspo/bigram", {"shaping"}),
        ("aspo/early-only", "aspo/bigram", {"shaping"}),
    ],
)  # fmt: skip
def test_what_is_compared_differs_in_one_thing_alone(name, other, keys):
    assert differences(name, other) == keys | OWN


def documented():
    """Return, for each recipe of the page, what it is compared with and the rows of its table."""
    found = {}
    for part in re.split(r"^## ", DOCS.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        base = re.search(r"^All else as in (\S+):$", part, re.MULTILINE)
        rows = re.findall(r"^\| `([\w.]+)` \| `(.*?)` \| (.+?) \| (.+?) \| (.*?) ?\|$", part, re.MULTILINE)
        found[part.splitlines()[0]] = base and base[1], rows
    return found


def test_the_page_holds_every_value_of_every_recipe():
    assert list(documented()) == NAMES
    for name, (base, rows) in documented().items():
        here = {key: read_yaml(value) for key, value, *_ in rows}
        values = flat(name)
        assert here.keys() == (differences(name, base) if base else values.keys()), name
        assert here == {key: values[key] for key in here}, name


def test_the_page_gives_a_source_or_says_that_there_is_none():
    for name, (_, rows) in documented().items():
        for key, _, source, mark, _ in rows:
            assert mark in ("[F]", "[P]", "[R]", "ours"), (name, key)
            assert (mark == "ours") >= (source == "not published"), (name, key)


def test_a_file_marks_a_value_as_the_page_does():
    for name, (_, rows) in documented().items():
        text = find(name).path.read_text(encoding="utf-8")
        for key, _, _, mark, _ in rows:
            lines = re.findall(rf"^ *{key.split('.')[-1]}: .*?  +# (.+)$", text, re.MULTILINE)
            marks = {one for line in lines for one in re.findall(r"(?<=\[)[FPR]\b|ours", line)}
            assert not marks or mark.strip("[]") in marks, (name, key, marks)


def test_a_dry_run_says_what_is_not_here_and_plans_all_the_same(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["recipes", "aster-4b/stage2", "--dry-run"]) == 1
    said = capsys.readouterr().out
    assert "not here: no folder 'runs/aster-4b/stage1'; aster-4b/stage1 writes it" in said
    assert "not here: 'BytedTsinghua-SIA/DAPO-Math-17k' is on the hub, which is out of reach" in said
    assert "curriculum   not here: 'runs/aster-4b/stage1' is no folder" in said
    assert "a batch: 1,024 episodes = 128 prompts x 8 rollouts, 1 in a forward pass on each GPU" in said
    assert "It fits" in said
    assert said.rstrip().endswith("model, tokenizer, tasks, lengths, curriculum, eval tasks, eval lengths.")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["aspo/conservative", "rstar2/grpo", "simpletir/grpo"])
def test_a_recipe_fits_the_gpus_that_it_is_written_for(name):
    found = dry_run(find(name))
    assert found.plan is not None
    assert found.plan.fits
    assert found.plan.request.training.gpus == found.gpus == 8


def test_a_dry_run_with_everything_at_hand_is_ready_and_loads_no_weights(model, monkeypatch, capsys):
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", lambda *a, **k: pytest.fail("weights"))
    line = [
        "recipes", "--json", "aster-4b/stage1", "--dry-run", "--gpus", "2", "--model", model,
        "--env_kwargs.tasks", "generated", "--env_kwargs.task_options", "{size: 300}",
        "--num_generations_eval", "2", "--steps_per_generation", "64",
        "--eval_env_kwargs", "{tasks: generated, task_options: {size: 20}}",
    ]  # fmt: skip
    assert cli.main(line) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ready"]
    assert [line["what"] for line in report["lines"]] == [
        "model", "tokenizer", "tasks", "lengths", "eval tasks", "eval lengths",
    ]  # fmt: skip
    assert report["lines"][-2]["found"].startswith("20 of ")
    assert report["batches"]["batch"] == 128
    assert report["batches"]["batches"] == 300 // 16
    assert report["plan"]["training"]["gpus"] == 2


def played(folder, right):
    """Write the episodes of a run: of each task one, right or not."""
    rows = [
        {"task": {"id": name}, "reward": float(one), "stop": "answer", "reward_terms": {"correct": float(one)}}
        for name, one in right.items()
    ]
    (folder / "trajectories").mkdir(parents=True)
    (folder / "trajectories" / "train-0.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def test_a_dry_run_reckons_with_the_tasks_that_the_curriculum_keeps(model, tmp_path):
    options = {"level": 1, "size": 300}
    environment = load_environment("ASTER/PythonMath-v0", {"tasks": "generated", "task_options": options}, None, False)
    ids = [task.id for task in environment.tasks]
    environment.close()
    line = [
        "--model", model, "--env_kwargs.tasks", "generated", "--env_kwargs.task_options", json.dumps(options),
        "--eval_env_kwargs", "null", "--eval_strategy", '"no"', "--steps_per_generation", "64",
    ]  # fmt: skip
    run = played(tmp_path / "run", {name: n < 30 for n, name in enumerate(ids[:40])})
    found = dry_run(find("aster-4b/stage2"), [*line, "--curriculum.after", run], gpus=2)
    assert found.ready
    assert found.lines[-1].found == "270 of 300 tasks are kept, 260 of them as they were not played"
    assert found.batches is not None
    assert found.batches.batches == 270 // 16
    other = played(tmp_path / "other", {"elsewhere": False})
    found = dry_run(find("aster-4b/stage2"), [*line, "--curriculum.after", other], gpus=2)
    assert not found.ready
    assert [line.what for line in found.lines if not line.here] == ["curriculum"]
    assert "played none of these tasks" in found.text()


def test_tasks_are_found_in_the_cache_under_the_name_that_datasets_gives_them(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match="not in its cache"):
        check_cached("dapo17k", {})
    (tmp_path / "BytedTsinghua-SIA___dapo-math-17k").mkdir()
    check_cached("dapo17k", {})


@pytest.mark.parametrize(
    ("name", "line", "says"),
    [
        ("tool-star-3b/dpo", ["--sampling.rollouts", "1"], r"sampling\.rollouts=1 is not allowed"),
        ("tool-star-3b/dpo", ["--lora", "{rr: 4}"], "Did you mean 'r'"),
        ("tool-star-3b/dpo", ["--policy_kwargs", "{max_cache_tokens: 5000}"], r"holds no episode of .*=5632"),
        ("tool-star-3b/dpo", ["--policy_kwargs", "{max_batches: 5}"], "max_batch"),
        ("tool-star-3b/sft", ["--lora", "{rank: 4}"], "key of 'lora'"),
        ("aster-4b/stage1", ["--lora", "{rank: 4}"], "key of 'lora'"),
        ("aster-4b/stage1", ["--vllm_max_model_length", "18000"], r"holds no episode of .*=\s*18432"),
        ("aster-4b/stage1", ["--eval_env_kwargs.max_tokens", "92160", "--vllm_max_model_length", "32768"], "92160"),
        ("aster-4b/stage1", ["--ahead", "true"], "ahead=true is not allowed"),
    ],
)
def test_a_dry_run_makes_the_checks_of_the_entry_point(name, line, says):
    with pytest.raises(UsageError, match=says):
        dry_run(find(name), line)


def test_a_number_of_gpus_that_splits_groups_of_evaluation_is_refused_with_what_to_write():
    with pytest.raises(UsageError, match=r"no multiple of num_generations_eval=16\. Fix: .* --num_generations_eval 6"):
        dry_run(find("aster-4b/stage1"), gpus=3)


def test_the_update_of_sft_and_of_dpo_is_planned_without_a_sampler(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, rows, lora in (("aster-4b/sft", 1, 0), ("tool-star-3b/dpo", 2, 8)):
        entry = find(name)
        found = dry_run(entry)
        training = found.plan.request.training
        assert (training.micro_batch, training.lora, training.zero, training.gpus) == (rows, lora, 3, 8)
        # The same update in a run of GRPO needs the same, beside what plays its episodes.
        given = ["--model", entry.shape, "--gpus", "8", "--lora", str(lora), "--micro-batch", str(rows)]
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        asked = make_request(parser.parse_args([*given, "--context", str(training.context)]))
        whole = make_plan(replace(asked, training=replace(asked.training, padded=rows > 1)))
        assert [phase.name for phase in found.plan.phases] == [phase.name for phase in whole.phases[1:]]
        assert found.plan.phases[0].bytes == whole.phases[1].bytes
        assert f"planned with the shape of {entry.shape}" in found.text()
        assert "It fits" in found.text()
    small = dry_run(find("aster-4b/sft"), memory=16)
    assert not small.plan.fits
    assert "GiB too much" in small.text()
    assert total(dry_run(find("tool-star-3b/dpo"), ["--lora", "null"]).plan.held) > 1.2 * total(found.plan.held)


def test_a_dry_run_of_sft_counts_the_examples(model, tmp_path):
    line = scaled(read(find("aster-4b/sft")), tmp_path, model)
    found = dry_run(find("aster-4b/sft"), line, gpus=1)
    assert found.ready
    assert found.batches is not None
    assert found.batches.batches == 4
    assert "8 examples" in found.text()


def test_the_command_lists_shows_and_names_what_is_wrong(capsys):
    assert cli.main(["recipes"]) == 0
    said = capsys.readouterr().out
    assert all(f"{name} " in said for name in NAMES)
    assert cli.main(["recipes", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == NAMES
    assert next(row["tokens"] for row in rows if row["name"] == "aster-4b/stage1") == 18432
    assert cli.main(["recipes", "aster-4b/sft"]) == 0
    assert capsys.readouterr().out.strip() == find("aster-4b/sft").path.read_text().strip()
    for line, says in [
        (["aster-4b/stge1"], "Did you mean 'aster-4b/stage1'"),
        (["aster-4b/stage1", "--train.max_steps", "1"], "add --dry-run or --tiny"),
        (["aster-4b/stage1", "--dry-run", "--modl", "x"], "Did you mean 'model'"),
        (["aster-4b/stage1", "--dry-run", "--gpus", "0"], "--gpus 0 is not allowed"),
        (["aster-4b/stage1", "--dry-run", "--gpus", "x"], "invalid int value"),
        (["tool-star-3b/dpo", "--tiny"], "has no small form"),
        (["--dry-run"], "--dry-run needs a recipe"),
        (["aster-4b/stage1", "--dry-run", "--tiny"], "--dry-run beside --tiny"),
        (["aster-4b/stage1", "--gpus", "2"], "--gpus is of a dry run"),
        (["aster-4b/stage1", "--tiny", "--json"], "--json beside --tiny"),
    ]:
        assert cli.main(["recipes", *line]) == 2
        assert says in capsys.readouterr().err


def test_the_command_runs_a_recipe_in_small(capsys):
    assert cli.main(["recipes", "coldstart/retool", "--tiny", "--train.learning_rate", "1e-3"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("aster_train/sft.py --config")
    assert "step 2/2" in said


def small(name):
    """Return what tells recipes apart once they are small: all but names, rates and the numbers of a shaping."""
    settings = read(find(name), scaled(read(find(name)), "unused-folder"))
    values = dataclasses.asdict(settings)
    names = ("per_device_train_batch_size", "num_generations", "loss_type", "delta", "epsilon_high")
    train = {key: value for key, value in values.pop("train").items() if key in names}
    shaping = values["shaping"] and values["shaping"]["name"]
    return json.dumps({**values, **train, "shaping": shaping, "model": None}, sort_keys=True)


def distinct():
    """Return the recipes of which no earlier one is the same in small."""
    kept = {}
    for name in RUNNABLE:
        key = find(name).values()["dialect"] if find(name).kind == "sft" else small(name)
        kept.setdefault(key, name)
    return list(kept.values())


@pytest.mark.parametrize("name", distinct())
def test_every_recipe_makes_two_updates_of_the_tiny_model(name, model, tmp_path):
    entry = find(name)
    {"grpo": grpo, "sft": sft}[entry.kind].main(
        ["--config", str(entry.path), *scaled(read(entry), tmp_path / "run", model)]
    )
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    assert state["global_step"] == 2
    if entry.kind == "grpo":
        files = (tmp_path / "run" / "trajectories").iterdir()
        rows = [json.loads(row) for path in files for row in path.read_text().splitlines()]
        assert len(rows) >= 8
        assert all(row["reward"] is not None for row in rows)
        wanted = find(name).values()
        assert ("phi" in rows[0]) == ("shaping" in wanted)
        if "penalties" in wanted:
            assert {"penalty/overlong", "penalty/wrong_floor"} <= set(rows[0]["reward_terms"])


def test_a_recipe_of_pairs_has_no_small_form(tmp_path):
    with pytest.raises(UsageError, match=r"dpo\.py has no small form"):
        scaled(read(find("tool-star-3b/dpo")), tmp_path)
