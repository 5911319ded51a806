"""What a run's files say about its tasks, and what the next stage keeps of them."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aster_env import cli
from aster_env.errors import UsageError
from aster_env.tasks import TaskSet
from aster_env.types import StopReason, Task, Trajectory, Turn
from aster_train import grpo
from aster_train.curriculum import Curriculum, Verdict, kept, last_epoch, read_curriculum, solved_counts
from aster_train.recipe import Recipe
from tests.train.support import save_model

RIGHT, WRONG, MASKED = (1.0, 1.0), (0.0, 0.0), (None, 0.0)


def episode(task_id, outcome, prompt="What is 1 + 1?", metadata=None):
    reward, correct = outcome
    masked = reward is None
    return Trajectory(
        Task(task_id, prompt, ("2",), metadata=metadata or {}),
        [Turn("environment", (1, 2), prompt), Turn("model", (3,), '"turns": [')],
        reward=reward,
        reward_terms={} if masked else {"correct": correct},
        stop=StopReason.INFRASTRUCTURE if masked else StopReason.ANSWERED,
    )


def write(folder, step, episodes, rank=None):
    path = folder / "trajectories" / f"train-{step:06d}{'' if rank is None else f'-rank{rank}'}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.dumps({"advantage": 0.5, **one.to_json()}) for one in episodes]
    path.write_text("\n".join(rows) + "\n")


def write_state(folder, step, epoch):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "epoch": epoch}))


def test_episodes_are_counted_over_all_processes_and_one_that_failed_is_not_right(tmp_path):
    write(tmp_path, 0, [episode("a", RIGHT), episode("a", WRONG)], rank=0)
    write(tmp_path, 0, [episode("b", RIGHT), episode("b", MASKED), episode("c", MASKED)], rank=1)
    (tmp_path / "trajectories" / "eval-000000.jsonl").write_text("not read")
    assert solved_counts(tmp_path) == {"a": (1, 2), "b": (1, 2), "c": (0, 1)}


def test_an_episode_is_right_by_its_answer_not_by_its_reward(tmp_path):
    write(tmp_path, 0, [episode("penalised", (0.4, 1.0)), episode("half", (0.5, 0.5)), episode("paid", (1.0, 0.0))])
    assert solved_counts(tmp_path) == {"penalised": (1, 1), "half": (0, 1), "paid": (0, 1)}


def test_a_task_that_speaks_of_turns_is_read_as_any_other(tmp_path):
    says = 'a row has {"x": 1, "turns": [1, 2]}, "turns": [3]'
    write(tmp_path, 0, [episode("text", RIGHT, prompt=says), episode("meta", RIGHT, metadata={"n": 1, "turns": [1]})])
    assert solved_counts(tmp_path) == {"text": (1, 1), "meta": (1, 1)}


@pytest.mark.parametrize(
    ("step", "epoch", "expected"),
    [
        (6, 3.0, {"a": (1, 1), "b": (0, 1)}),  # the third epoch
        (4, 2.0, {"a": (0, 1), "b": (1, 1)}),  # what was played after the state counts for nothing
        (5, 2.5, {"a": (0, 1), "b": (1, 1)}),  # an epoch that goes on is not the last
        (1, 0.5, {"a": (1, 1), "b": (0, 1)}),  # no epoch was whole: each task's last step
    ],
)
@pytest.mark.parametrize("place", ["", "checkpoint-6"])
def test_the_last_whole_epoch_counts(tmp_path, step, epoch, expected, place):
    outcomes = [WRONG, RIGHT, WRONG, RIGHT, RIGHT, WRONG]
    for number, outcome in enumerate(outcomes):
        write(tmp_path, number, [episode("ab"[number % 2], outcome)])
    write_state(tmp_path / place, step, epoch)
    write_state(tmp_path / "checkpoint-0", 0, 0.0)
    assert solved_counts(tmp_path) == expected


def test_without_a_state_a_tasks_last_step_counts(tmp_path):
    write(tmp_path, 2, [episode("a", RIGHT), episode("a", RIGHT)])
    write(tmp_path, 10, [episode("a", WRONG), episode("a", RIGHT), episode("b", RIGHT)])
    write(tmp_path, 12, [episode("b", WRONG)])
    assert solved_counts(tmp_path) == {"a": (1, 2), "b": (0, 1)}


counts = st.dictionaries(
    st.sampled_from("abcdefgh"),
    st.tuples(st.integers(0, 8), st.integers(1, 8)).map(lambda pair: (min(pair), max(pair))),
)


@settings(max_examples=50)
@given(counts)
def test_what_is_right_in_every_episode_is_dropped_and_nothing_else(known):
    ids = list("hgfedcba")
    found = kept(ids, known)
    assert found.ids == [one for one in ids if one not in known or known[one][0] < known[one][1]]
    assert sum(found.reasons.values()) == len(ids)
    assert found.reasons[Verdict.SOLVED] == len(ids) - len(found.ids)
    assert found.reasons[Verdict.NOT_PLAYED] == len(set(ids) - set(known))
    assert found.reasons[Verdict.UNSOLVED] == sum(right == 0 for right, _ in known.values())


def test_training_plays_the_kept_tasks_in_their_order():
    tasks = TaskSet(Task(name, "?", ("1",)) for name in "abcd")
    envs = [SimpleNamespace(tasks=tasks, limits=SimpleNamespace(max_tokens=9)) for _ in range(2)]
    Recipe(curriculum=Curriculum("x", {"a": (8, 8), "c": (0, 8), "d": (7, 8)})).fit(envs)
    assert [[task.id for task in env.tasks] for env in envs] == [["b", "c", "d"]] * 2


def test_a_wrong_curriculum_says_what_is_wrong(tmp_path):
    assert read_curriculum(None) is None
    (tmp_path / "empty").mkdir()
    write(tmp_path / "solved", 0, [episode("a", RIGHT)])
    (tmp_path / "broken" / "trajectories").mkdir(parents=True)
    (tmp_path / "broken" / "trajectories" / "train-000000.jsonl").write_text('{"task": 1}\n')
    write(tmp_path / "state", 0, [episode("a", WRONG)])
    (tmp_path / "state" / "trainer_state.json").write_text("{")
    for values, says in [
        ({"afer": "x"}, "Did you mean 'after'"),
        ({}, "curriculum.after: None"),
        ({"after": str(tmp_path / "emty")}, "is no folder. Beside it: broken, empty"),
        ({"after": str(tmp_path / "empty")}, "no trajectories/train"),
        ({"after": str(tmp_path / "solved")}, "all 1 tasks of its last epoch were right"),
        ({"after": str(tmp_path / "broken")}, "line 1: no episode"),
        ({"after": str(tmp_path / "state")}, "no state of a run"),
    ]:
        with pytest.raises(UsageError) as raised:
            read_curriculum(values)
        assert says in str(raised.value)


def test_the_command_shows_what_is_kept_and_why(tmp_path, capsys):
    write(
        tmp_path, 0, [episode("a", RIGHT)] * 2 + [episode("b", RIGHT), episode("b", WRONG)] + [episode("c", WRONG)] * 2
    )
    out = tmp_path / "kept.txt"
    assert cli.main(["curriculum", str(tmp_path), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "kept: 2 of 3 tasks: 1 right in some of their episodes, 1 in none" in said
    assert "   2 of 2        1  dropped" in said
    assert out.read_text() == "b\nc\n"
    assert cli.main(["curriculum", str(tmp_path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["kept"] == 2
    assert report["verdicts"] == {"solved": 1, "partly": 1, "unsolved": 1, "not played": 0}
    assert cli.main(["curriculum", str(tmp_path / "x")]) == 2


def test_a_real_runs_last_epoch_holds_each_of_its_tasks_once(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    values = {
        "model": save_model(tmp_path / "model"), "env": "tests.train.parity:Parity-v0", "max_concurrent": 8,
        "train.output_dir": str(tmp_path / "run"), "train.per_device_train_batch_size": 4, "train.use_cpu": True,
        "train.steps_per_generation": 2, "train.gradient_accumulation_steps": 1, "train.num_generations": 2,
        "train.num_train_epochs": 2, "train.gradient_checkpointing": False, "train.disable_tqdm": True,
    }  # fmt: skip
    try:
        grpo.main([part for name, value in values.items() for part in (f"--{name}", json.dumps(value))])
    finally:
        torch.set_num_threads(threads)
    steps = last_epoch(tmp_path / "run")
    files = sorted((tmp_path / "run" / "trajectories").iterdir())
    assert steps is not None
    assert len(steps) * 2 == steps.stop == 2 * len(files)
    counted = solved_counts(tmp_path / "run")
    assert len(counted) == 2 * len(steps)
    assert {played for _, played in counted.values()} == {2}


def test_a_line_that_a_killed_run_left_unfinished_is_passed_over(tmp_path):
    write(tmp_path, 0, [episode("a", RIGHT), episode("b", WRONG)])
    path = tmp_path / "trajectories" / "train-000000.jsonl"
    path.write_text(path.read_text() + '{"advantage": 0.5, "ta')
    assert solved_counts(tmp_path) == {"a": (1, 1), "b": (0, 1)}
