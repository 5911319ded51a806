"""Self-critic DPO: pairs, their masks in TRL's loss, the command, and its rounds with GRPO."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import hypothesis.strategies as st
import pytest
import torch
import yaml
from hypothesis import given, settings
from transformers import AutoModelForCausalLM
from trl import DPOConfig, GRPOConfig, SFTConfig

from aster_env.errors import InfrastructureError, UsageError
from aster_env.types import StopReason, Task, Trajectory, Turn
from aster_train import dpo, grpo, self_critic
from aster_train.config import (
    ASTER,
    SFT,
    GRPOSettings,
    SFTSettings,
    build,
    load_tokenizer,
    lora_config,
    training_arguments,
)
from aster_train.critic import draw
from aster_train.dpo_config import DPO, DPOSettings, Sampling
from aster_train.preferences import Pair, make_pairs
from aster_train.self_critic import Stage, alternate, plan, read_overrides
from aster_train.values import read_yaml
from tests.support import EchoEnv
from tests.train.support import save_model

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "aster_train" / "configs"


def episode(task, reward, *model, prompt=(1, 2)):
    """An episode whose model's turns are these ids, with a result of the id 9 after each but the last."""
    turns = [Turn("environment", tuple(prompt), "")]
    for number, ids in enumerate(model):
        turns += [Turn("environment", (9,), "")] * (number > 0) + [Turn("model", tuple(ids), "")]
    return Trajectory(Task(task, "p", ("1",)), turns, reward=reward, stop=StopReason.ANSWERED)


def test_pairs_hold_exactly_what_was_sampled_and_mask_the_rest():
    pairs = make_pairs([episode("a", 1.0, (3, 4), (5,)), episode("a", -1.0, (6,))]).pairs
    assert pairs == [Pair([1, 2], [3, 4, 9, 5], [1, 1, 0, 1], [6], [1])]


def test_only_tasks_with_a_right_and_a_wrong_episode_give_pairs():
    found = make_pairs(
        [
            *(episode("paired", r, (n,)) for n, r in enumerate((0.0, 1.1, 0.99, 1.0, -1.0, None))),
            *(episode("right", r, (3,)) for r in (1.0, 1.1)),
            *(episode("wrong", r, (3,)) for r in (0.9, 0.0)),
            episode("unscored", None, (3,)),
            episode("unscored", 1.0),
        ],
        per_task=5,
    )
    assert len(found.pairs) == 2
    assert sorted(i for pair in found.pairs for i in pair.chosen_ids) == [1, 3]
    assert len({i for pair in found.pairs for i in pair.rejected_ids}) == 2
    assert found.tasks == {"paired": 1, "all_right": 1, "all_wrong": 1, "unscored": 1}
    assert "2 pairs from 4 tasks" in found.report()


def test_an_episode_whose_answer_was_not_judged_is_neither_right_nor_wrong():
    timed_out = episode("a", 0.0, (4,))
    timed_out.reward_terms["unjudged"] = 1.0
    found = make_pairs([episode("a", 1.0, (3,)), timed_out])
    assert not found.pairs
    assert (found.tasks, found.unjudged) == ({"all_right": 1}, 1)
    assert "1 unjudged" in found.report()
    assert make_pairs([episode("a", 1.0, (3,)), timed_out, episode("a", 0.0, (5,))]).pairs[0].rejected_ids == [5]


def test_an_overlong_episode_is_left_out_whole_and_counted():
    played = [episode("a", 1.0, (3, 4, 5)), episode("a", 0.0, (6,)), episode("a", 1.0, (7,))]
    found = make_pairs(played, per_task=9, max_length=4)
    assert found.overlong == 1
    assert [pair.chosen_ids for pair in found.pairs] == [[7]]


def test_episodes_of_different_prompts_are_no_pair():
    assert not make_pairs([episode("a", 1.0, (3,)), episode("a", 0.0, (4,), prompt=(1, 2, 3))]).pairs


PLAYED = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([None, -1.0, 0.5, 1.0, 1.1])), max_size=12)


@given(PLAYED, st.integers(1, 4), st.integers(0, 3))
@settings(max_examples=60)
def test_every_pair_is_of_one_task_a_right_one_first_and_no_episode_is_in_two(rewards, per_task, seed):
    played = [episode(task, reward, (n + 10,), prompt=(ord(task),)) for n, (task, reward) in enumerate(rewards)]
    found = make_pairs(played, per_task=per_task, seed=seed)
    used = [i - 10 for pair in found.pairs for i in (*pair.chosen_ids, *pair.rejected_ids)]
    assert len(set(used)) == len(used)
    for pair in found.pairs:
        chosen, rejected = (rewards[ids[0] - 10] for ids in (pair.chosen_ids, pair.rejected_ids))
        assert chosen[1] >= 1 > rejected[1]
        assert pair.prompt_ids == [ord(chosen[0])] == [ord(rejected[0])]
    for task in "ab":
        scores = [reward for name, reward in rewards if name == task and reward is not None]
        right = sum(score >= 1 for score in scores)
        count = sum(pair.prompt_ids == [ord(task)] for pair in found.pairs)
        assert count == min(right, len(scores) - right, per_task)
    assert found == make_pairs(played, per_task=per_task, seed=seed)


def test_tasks_are_drawn_without_repetition_and_played_side_by_side():
    tasks = EchoEnv().tasks
    drawn = [task.id for task in draw(tasks, Sampling(prompts=3, rollouts=2), 0)]
    assert drawn[::2] == drawn[1::2]
    assert len(set(drawn)) == 3
    assert len(draw(tasks, Sampling(prompts=99, rollouts=2), 0)) == 10
    assert len({tuple(t.id for t in draw(tasks, Sampling(prompts=3, rollouts=2), seed)) for seed in range(5)}) > 1


def train_values(out, **values):
    return {
        "output_dir": str(out), "per_device_train_batch_size": 2, "gradient_checkpointing": False, "use_cpu": True,
        "disable_tqdm": True, "save_strategy": "no", **values,
    }  # fmt: skip


def test_trls_loss_is_that_of_the_sampled_tokens_alone(tmp_path):
    folder = save_model(tmp_path / "model")
    args = training_arguments(DPOConfig, DPO, train_values(tmp_path / "out"))
    pairs = make_pairs([episode("a", 1.0, (30, 40), (50,)), episode("a", 0.0, (60,), (70, 80, 90))]).pairs
    pairs += make_pairs(
        [episode("b", 1.0, (33,), prompt=(4, 5, 6)), episode("b", 0.0, (66, 7), prompt=(4, 5, 6))]
    ).pairs
    trainer = dpo.PairTrainer(
        folder, args=args, data_collator=dpo.PairCollator(0), processing_class=load_tokenizer(folder),
        train_dataset=dpo.Dataset.from_list([pair.row() for pair in pairs]), peft_config=dpo.lora_config(dpo.LORA),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    for name, weights in trainer.model.named_parameters():
        if "lora_" in name:
            weights.data = torch.randn(weights.shape, generator=generator) * 0.3
    batch = next(iter(trainer.get_train_dataloader()))
    assert set(map(tuple, batch["input_ids"].tolist())) == {
        (1, 2, 30, 40, 9, 50, 0), (1, 2, 60, 9, 70, 80, 90), (4, 5, 6, 33, 0, 0, 0), (4, 5, 6, 66, 7, 0, 0),
    }  # fmt: skip

    def score(pair, side):
        ids, mask = getattr(pair, f"{side}_ids"), getattr(pair, f"{side}_mask")
        start = len(pair.prompt_ids) - 1

        def total():
            logits = trainer.model(torch.tensor([[*pair.prompt_ids, *ids]])).logits[0].log_softmax(-1)
            return sum(logits[start + n, i] for n, (i, kept) in enumerate(zip(ids, mask, strict=True)) if kept)

        with torch.no_grad(), trainer.model.disable_adapter():
            reference = total()
        return total() - reference

    margins = torch.stack([0.1 * (score(pair, "chosen") - score(pair, "rejected")) for pair in pairs])
    assert margins.abs().min() > 1e-3
    expected = -torch.nn.functional.logsigmoid(margins).mean()
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(expected.item(), abs=1e-5)


def dpo_config(folder, out, **values):
    return {
        "model": str(folder),
        "env": "tests.train.parity:Parity-v0",
        "env_kwargs": {"max_tokens": 90},
        "sampling": {"prompts": 3, "rollouts": 4, "threshold": 0.5},
        "max_concurrent": 4,
        "train": train_values(out, max_steps=2, learning_rate=1e-2),
        **values,
    }


def run_dpo(path, config, *arguments):
    path.write_text(yaml.safe_dump(config))
    dpo.main(["--config", str(path), *arguments])


def logits(folder):
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder).eval()(torch.arange(5, 60)[None]).logits


def interrupt(*_):
    raise KeyboardInterrupt


def test_the_command_samples_pairs_trains_and_leaves_a_plain_model(tmp_path, monkeypatch, capsys):
    model, out = save_model(tmp_path / "model"), tmp_path / "out"
    config = dpo_config(model, out)
    config["train"] |= {"save_strategy": "steps", "save_steps": 2}
    with monkeypatch.context() as patch:
        patch.setattr(dpo, "export", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_dpo(tmp_path / "c.yaml", config)
    assert "with a right and a wrong episode" in capsys.readouterr().out
    written = (out / "trajectories" / "sampled.jsonl").read_text()
    played = [Trajectory.from_json(json.loads(row)) for row in written.splitlines()]
    assert len(played) == 12
    assert [t.task.id for t in played[::4]] == [t.task.id for t in played[3::4]]
    log = json.loads((out / "checkpoint-2" / "trainer_state.json").read_text())["log_history"]
    assert log[0]["loss"] == pytest.approx(0.6931, abs=1e-3)
    # A run that was stopped goes on with the episodes that it had played, and from its checkpoint.
    monkeypatch.setattr(dpo, "play_tasks", lambda *_: pytest.fail("played again"))
    run_dpo(tmp_path / "c.yaml", config)
    assert not torch.allclose(logits(out / "model"), logits(model), atol=1e-4)
    assert "step 1/2" not in capsys.readouterr().out
    run_dpo(tmp_path / "c.yaml", config)
    assert "This run is finished" in capsys.readouterr().out


def test_without_a_pair_the_run_says_what_it_found_and_plays_anew_next_time(tmp_path):
    config = dpo_config(save_model(tmp_path / "model"), tmp_path / "out")
    config["sampling"] |= {"threshold": 2.0}
    for _ in range(2):
        with pytest.raises(UsageError, match=r"No pair to learn from: 0 pairs from 3 tasks.* 3 all wrong"):
            run_dpo(tmp_path / "c.yaml", config)
        assert [path.name for path in (tmp_path / "out" / "trajectories").iterdir()] == ["unpaired.jsonl"]


def prefer_kept(out, monkeypatch, process=0, **changed):
    """Pair two episodes that are kept in ``out``, or played by nobody where none are kept."""
    values = {
        "model": "hub/name",
        "env": "E-v0",
        "env_kwargs": {"k": (1, 2)},
        "sampling": {"threshold": 1.0},
        "seed": 3,
    }
    values |= changed
    played = [episode("a", 1.0, (3,)), episode("a", 0.0, (4,))]
    monkeypatch.setattr(dpo, "play_tasks", lambda *_: played)
    args = SimpleNamespace(
        output_dir=str(out), max_length=None, seed=values.pop("seed"), process_index=process, deepspeed_plugin=None
    )
    made = DPOSettings(**values)
    return dpo.prefer(made, Sampling.read(made.sampling), made.model, args, None)


def test_episodes_are_paired_again_only_if_they_were_played_with_the_same(tmp_path, monkeypatch):
    assert prefer_kept(tmp_path, monkeypatch) == prefer_kept(tmp_path, monkeypatch)
    # What decides how they are paired, and how fast they are played, may change.
    again = {"sampling": {"threshold": 0.5, "pairs_per_task": 2}, "policy_kwargs": {"max_batch": 3}}
    assert len(prefer_kept(tmp_path, monkeypatch, **again).pairs) == 1
    for changed, says in [
        ({"model": "hub/other"}, "model was 'hub/name' and is 'hub/other'"),
        ({"env": "F-v0"}, "env was 'E-v0'"),
        ({"env_kwargs": {"k": (1, 3)}}, "env_kwargs was"),
        ({"sampling": {"temperature": 0.5}}, "sampling was"),
        ({"seed": 4}, "seed was 3 and is 4"),
    ]:
        with pytest.raises(UsageError, match=says) as raised:
            prefer_kept(tmp_path, monkeypatch, **changed)
        assert f"another train.output_dir, or delete the folder {tmp_path}" in str(raised.value)
        assert str(raised.value).count(" was ") == 1
    (tmp_path / "trajectories" / "sampled.json").unlink()
    with pytest.raises(UsageError, match="were not played with this configuration"):
        prefer_kept(tmp_path, monkeypatch)


def test_kept_episodes_that_give_no_pair_are_named_where_they_are(tmp_path, monkeypatch):
    prefer_kept(tmp_path, monkeypatch)
    with pytest.raises(UsageError, match=r"The episodes are in \S*/sampled.jsonl"):
        prefer_kept(tmp_path, monkeypatch, sampling={"threshold": 2.0})
    assert not (tmp_path / "trajectories" / "unpaired.jsonl").exists()


def test_a_process_does_not_end_before_the_first_one_has_written(tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr(dpo, "raise_together", waited.append)
    with pytest.raises(UsageError, match="No pair"):
        prefer_kept(tmp_path, monkeypatch, process=1, sampling={"threshold": 2.0})
    assert waited == [None]
    assert not list(tmp_path.iterdir())


def test_a_first_process_that_cannot_write_says_so_to_all(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        prefer_kept(tmp_path / "file", monkeypatch)


def test_episodes_that_could_not_be_played_end_the_run(tmp_path, monkeypatch):
    async def broken(*_):
        raise InfrastructureError("no such endpoint")

    monkeypatch.setattr("aster_train.critic.HFPolicy.generate", broken)
    with pytest.raises(InfrastructureError, match=r"Not one of 12 episodes could be played.*no such endpoint"):
        run_dpo(tmp_path / "c.yaml", dpo_config(save_model(tmp_path / "model"), tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--sampling.rollout", "4"], "Did you mean 'rollouts'"),
        (["--sampling.rollouts", "1"], "Allowed: at least 2"),
        (["--sampling.prompts", "many"], "Allowed: an integer"),
        (["--sampling.temperature", "0"], "Allowed: temperature > 0"),
        (["--train.bta", "1"], "Did you mean 'beta'"),
        (["--lora.rank", "1"], "Unknown key of 'lora'"),
        (["--env_kwargs.max_token", "1"], "Did you mean 'max_tokens'"),
        (["--policy_kwargs.max_cache_tokens", "64"], "holds no episode of env_kwargs.max_tokens=90"),
        (["--modle", "x"], "Did you mean 'model'"),
    ],
)
def test_a_wrong_configuration_is_named_before_a_model_is_loaded(tmp_path, monkeypatch, arguments, says):
    monkeypatch.setattr("aster_train.critic._load", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(UsageError, match=says):
        run_dpo(tmp_path / "c.yaml", dpo_config(save_model(tmp_path / "model"), tmp_path / "out"), *arguments)
    assert not (tmp_path / "out").exists()


def test_the_shipped_configurations_are_valid():
    kinds = {
        "sft": (SFTSettings, SFTConfig, SFT), "grpo": (GRPOSettings, GRPOConfig, ASTER),
        "dpo": (DPOSettings, DPOConfig, DPO),
    }  # fmt: skip
    for path in (path for folder in ("tool-star-3b", "tiny-self-critic") for path in (CONFIGS / folder).iterdir()):
        kind, arguments, defaults = kinds[path.stem]
        values = build(kind, read_yaml(path.read_text()))
        training_arguments(arguments, defaults, {**values.train, "use_cpu": True, "report_to": "none"})
        if kind is DPOSettings:
            Sampling.read(values.sampling)
            lora_config(values.lora)
        if path.parent.name == "tool-star-3b" and kind is not SFTSettings:
            assert values.env_kwargs["reward"] == "toolstar"


def make_recipe(folder):
    """A recipe of two tiny stages on an environment in which rewards vary."""
    folder.mkdir()
    train = {**train_values("x"), "per_device_train_batch_size": 4, "num_generations": 4, "max_steps": 1}
    stages = {
        "grpo": {"model": "x", "env": "tests.train.parity:Parity-v0", "max_concurrent": 4, "train": train},
        "dpo": dpo_config("x", "x"),
    }
    for name, values in stages.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))


def run_here(stage, model):
    {"grpo": grpo, "dpo": dpo}[stage.kind].main(["--model", model, *stage.arguments])
    return 0


def test_rounds_of_grpo_and_dpo_each_go_on_from_the_model_before(tmp_path):
    make_recipe(tmp_path / "recipe")
    out = tmp_path / "out"
    out.mkdir()
    model, used = save_model(tmp_path / "model"), []

    def run(stage, model):
        used.append(model)
        return run_here(stage, model)

    stages = plan(str(tmp_path / "recipe"), str(out), 2, 7, {"grpo": ["--train.learning_rate", "1e-2"]})[:3]
    last = alternate(stages, model, out, run)
    assert used == [model, str(out / "round-1" / "grpo"), str(out / "round-1" / "dpo" / "model")]
    assert last == str(out / "round-2" / "grpo")
    everyone = [logits(folder) for folder in (*used, last)]
    assert all(not torch.equal(one, other) for one, other in itertools.pairwise(everyone))


def test_what_is_finished_is_not_run_again(tmp_path):
    (tmp_path / "recipe").mkdir()
    for name in ("grpo.yaml", "dpo.yaml"):
        (tmp_path / "recipe" / name).touch()
    ran = []

    def run(stage, model):
        ran.append((stage.name, model))
        if len(ran) == 3:
            return 143
        stage.folder.mkdir(parents=True)
        (stage.folder / "config.json").touch()
        return 0

    stages = plan(str(tmp_path / "recipe"), str(tmp_path), 2, 42)
    with pytest.raises(SystemExit) as stopped:
        alternate(stages, "start", tmp_path, run)
    assert stopped.value.code == 143
    last = alternate(stages, "start", tmp_path, run)
    r1g, r1d, r2g, r2d = (str(stage.folder) for stage in stages)
    assert last == r2d
    names = ["round-1/grpo", "round-1/dpo", "round-2/grpo", "round-2/grpo", "round-2/dpo"]
    assert ran == list(zip(names, ["start", r1g, r1d, r1d, r2g], strict=True))


def test_rounds_that_are_finished_are_not_taken_for_those_of_another_command(tmp_path):
    for name in ("grpo.yaml", "dpo.yaml"):
        (tmp_path / name).touch()

    def run(stage, model):
        stage.folder.mkdir(parents=True)
        (stage.folder / "config.json").touch()
        return 0

    def stages(rounds=1, seed=1, **overrides):
        return plan(str(tmp_path), str(tmp_path), rounds, seed, overrides)

    alternate(stages(), "start", tmp_path, run)
    for others, model, says in [
        (stages(), "other", "round-1/grpo is finished.* model was start and is other"),
        (stages(seed=2), "start", "arguments was .*'--train.seed', '1'"),
        (stages(dpo=["--train.beta", "1"]), "start", "round-1/dpo is finished.* '--train.beta', '1'"),
    ]:
        with pytest.raises(UsageError, match=says):
            alternate(others, model, tmp_path, run)
    # More rounds may follow.
    assert alternate(stages(rounds=2), "start", tmp_path, run) == str(tmp_path / "round-2" / "dpo")


def test_each_round_draws_with_a_seed_of_its_own_and_overrides_come_last(tmp_path):
    for name in ("grpo.yaml", "dpo.yaml"):
        (tmp_path / name).touch()
    stages = plan(str(tmp_path), "out", 2, 5, read_overrides(["--grpo.train.seed", "9", "--dpo.lora=null"]))
    assert [stage.arguments[4:] for stage in stages] == [
        ("--train.seed", "5", "--train.seed", "9"), ("--train.seed", "5", "--lora", "null"),
        ("--train.seed", "6", "--train.seed", "9"), ("--train.seed", "6", "--lora", "null"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--config", "none"], "has no grpo.yaml"),
        (["--rounds", "0"], "at least 1"),
        (["--gprp.x", "1"], "Did you mean 'grpo'"),
        (["--grpo.x"], "--grpo.x has no value"),
        (["--steps", "3"], "'--steps' was not expected"),
    ],
)
def test_wrong_arguments_of_the_rounds_are_named(arguments, says):
    given = ["--config", str(CONFIGS / "tool-star-3b"), "--model", "x", "--output-dir", "x", *arguments]
    with pytest.raises(UsageError, match=says):
        self_critic.main(given)


def test_a_stage_is_run_as_a_command_and_its_exit_code_comes_back(tmp_path):
    assert self_critic.launch(["sh", "-c", "exit 3"]) == 3
    assert Stage("dpo", 2, tmp_path, ()).name == "round-2/dpo"


SAVES = 'trap "sleep 0.5; touch saved; exit 143" TERM; echo ready; while :; do sleep 0.05; done'


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_processes_and_the_last_one_is_waited_for(tmp_path, number):
    # The outer shell, as a launcher does, dies of the signal at once; the inner one still saves.
    program = (
        "import sys; from aster_train.self_critic import launch; sys.exit(launch(['sh', '-c', 'sh -c \"$0\" & wait', "
        "sys.argv[1]]))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, SAVES], stdout=subprocess.PIPE, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:  # fmt: skip
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.wait(20) == 128 + signal.SIGTERM
        assert (tmp_path / "saved").exists()


def test_a_command_that_a_signal_ended_has_the_exit_code_of_a_shell():
    assert self_critic.launch(["sh", "-c", "kill -KILL $$"]) == 128 + signal.SIGKILL


@pytest.mark.slow
@pytest.mark.deepspeed
@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed")
def test_zero3_on_two_processes_samples_with_whole_models_and_trains_on_the_same_pairs(tmp_path):
    config, out = dpo_config(save_model(tmp_path / "model"), tmp_path / "out"), tmp_path / "out"
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    zero = ["--config_file", str(CONFIGS / "accelerate" / "zero3-cpu.yaml"), "--main_process_port", "0"]
    script = [str(Path(dpo.__file__)), "--config", str(tmp_path / "c.yaml")]
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *zero, *script],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 pairs from 3 tasks" in done.stdout
    assert len((out / "trajectories" / "sampled.jsonl").read_text().splitlines()) == 12
    assert not torch.allclose(logits(out / "model"), logits(config["model"]), atol=1e-4)
