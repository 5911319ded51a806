"""What a recipe adds, in the trainer: shaped advantages, penalties, selected episodes, kept tasks."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
import torch

from aster_env.errors import UsageError
from aster_env.rollout import Completion
from aster_train.episodes import EpisodeFiles
from aster_train.recipe import Recipe
from tests.train.test_trl_contract import make_trainer

CALL = '<tool_call>\n{"name": "python", "arguments": {"code": "1"}}\n</tool_call>'


class Player:
    """Thinks for a while, calls, and answers; right or not, and void now and then, by the episode's seed."""

    def __init__(self, env):
        self.tokenizer = env.tokenizer
        self.answers = {task.prompt: task.answers[0] for task in env.tasks}
        self.played = 0

    async def generate(self, request):
        text = self.tokenizer.decode(request.ids)
        if "<tool_response>" not in text:
            self.played += 1
            said = "hm " * (request.seed % 5) + CALL
        elif request.seed % 7 == 0:
            said = "I give up.<|im_end|>"
        else:
            answer = next(a for p, a in self.answers.items() if p in text)
            said = f"\\boxed{{{answer if request.seed % 2 else 'no'}}}<|im_end|>"
        ids = tuple(self.tokenizer.encode(said))
        return Completion(ids, tuple(-1.0 for _ in ids))

    async def release(self, episode):
        """Nothing is kept."""

    def reset(self):
        """Nothing is cached."""


@pytest.fixture
def play(tmp_path):
    made = []

    def make(recipe, **options):
        options = {"per_device_train_batch_size": 8, "steps_per_generation": 1, "max_steps": 2, **options}
        trainer = make_trainer(
            tmp_path, env_kwargs={"max_tokens": 300}, max_concurrent=8, recipe=Recipe.read(**recipe), **options
        )
        made.append(trainer)
        trainer.policy = Player(trainer._runners["train"].envs[0])
        return trainer

    yield make
    for trainer in made:
        trainer.close()


def batch_of(trainer):
    trainer.model.train()
    return trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))


def stored(tmp_path):
    text = (tmp_path / "out" / "trajectories" / "train-000000.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_shaped_and_unshaped_advantages_are_trained_with_stored_and_logged(play, tmp_path):
    trainer = play({"shaping": {"name": "aspo"}})
    output = batch_of(trainer)
    rows = stored(tmp_path)
    assert output["advantages"].tolist() == pytest.approx([row["advantage"] for row in rows])
    assert any(row["phi"] for row in rows)
    for row in rows:
        assert row["advantage"] == pytest.approx(row["unshaped_advantage"] + row["phi"], abs=1e-6)
        assert not row["phi"] or row["reward"] == 1.0
        assert row["shaping"]["first_call/tokens"] >= 0
    logged = trainer._metrics["train"]
    assert logged["shaping/phi_size"] == pytest.approx([sum(abs(row["phi"]) for row in rows) / len(rows)])


def test_without_a_recipe_nothing_is_measured_and_nothing_added(play, tmp_path):
    trainer = play({})
    batch_of(trainer)
    assert not any(name.startswith(("shaping/", "selection/")) for name in trainer._metrics["train"])
    for row in stored(tmp_path):
        assert row["shaping"] == {}
        assert "phi" not in row


def test_a_penalty_changes_the_reward_and_not_the_accuracy(play, tmp_path):
    trainer = play({"penalties": {"wrong_floor": -0.6}})
    batch_of(trainer)
    rows = stored(tmp_path)
    wrong = [row for row in rows if not row["reward_terms"]["correct"]]
    assert wrong
    assert all(row["reward"] <= -0.6 for row in wrong)
    right = sum(row["reward_terms"]["correct"] for row in rows) / len(rows)
    assert trainer._metrics["train"]["accuracy"] == [right]


def test_episodes_are_oversampled_and_as_many_as_asked_for_are_trained_on(play, tmp_path):
    trainer = play({"selection": {"resample": 2}})
    output = batch_of(trainer)
    assert trainer.policy.played == 16
    assert len(output["completion_ids"]) == len(stored(tmp_path)) == 8
    ids = [row["task"]["id"] for row in stored(tmp_path)]
    assert len(set(ids[:4])) == len(set(ids[4:])) == 1


def test_groups_in_the_band_of_accuracy_come_before_others(play, tmp_path):
    trainer = play({"selection": {"accuracy_band": [0.2, 0.8], "oversample": 3}})
    batch_of(trainer)
    assert trainer.policy.played == 24
    rows = stored(tmp_path)
    for group in (rows[:4], rows[4:]):
        assert 0.2 <= sum(row["reward"] for row in group) / 4 <= 0.8
    assert trainer._metrics["train"]["selection/played"] == [24]


def test_void_episodes_are_masked_and_the_others_not(play):
    trainer = play({"selection": {"mask_void_turns": True}}, per_device_train_batch_size=16)
    output = batch_of(trainer)
    stops = [t.stop.value for t in trainer._trajectories]
    assert "void_turn" in stops
    for stop, mask in zip(stops, output["tool_mask"] * output["completion_mask"], strict=True):
        assert bool(mask.any()) == (stop != "void_turn")


def test_the_curriculum_leaves_the_tasks_that_were_not_all_solved(play, tmp_path):
    trainer = play({})
    tasks = [task.id for task in trainer._runners["train"].envs[0].tasks]
    before = tmp_path / "before" / "trajectories"
    before.mkdir(parents=True)
    rows = [
        {"task": {"id": name}, "reward": reward, "reward_terms": {"correct": reward}, "stop": "answered"}
        for name, reward in [(tasks[0], 1.0), (tasks[0], 1.0), (tasks[1], 1.0), (tasks[1], 0.0), (tasks[2], 0.0)]
    ]
    (before / "train-000000.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    trainer = play({"curriculum": {"after": str(tmp_path / "before")}})
    left = [task.id for task in trainer._runners["train"].envs[0].tasks]
    assert left == tasks[1:]
    assert list(trainer.train_dataset["prompt"]) == left


def test_a_curriculum_of_other_tasks_is_refused(play, tmp_path):
    before = tmp_path / "before" / "trajectories"
    before.mkdir(parents=True)
    row = {"task": {"id": "another"}, "reward": 0.0, "reward_terms": {}, "stop": "answered"}
    (before / "train-000000.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UsageError, match="played none of the 16 tasks: its ids are like 'another'"):
        play({"curriculum": {"after": str(tmp_path / "before")}})


def test_the_metrics_are_of_all_that_was_played(play, tmp_path):
    trainer = play({"selection": {"accuracy_band": [0.2, 0.8], "oversample": 3}})
    batch_of(trainer)
    right = [t.reward_terms["correct"] for t in trainer._played]
    assert len(right) == 24
    assert trainer._metrics["train"]["accuracy"] == [pytest.approx(sum(right) / 24)]


def test_what_is_played_ahead_is_the_planned_batch(play):
    trainer = play({"selection": {"resample": 2, "mask_void_turns": True}}, max_steps=3, ahead=True)
    trainer.train()
    assert trainer.policy.played == 3 * 16
    assert [row["selection/played"] for row in trainer.state.log_history if "loss" in row] == [16, 16, 16]


def test_equal_rewards_are_no_signal_whatever_their_value(play, tmp_path):
    trainer = play({"penalties": {"wrong_floor": -0.6}})
    env = trainer._runners["train"].envs[0]
    trainer.policy.answers = {task.prompt: "no" for task in env.tasks}
    output = batch_of(trainer)
    assert output["advantages"].abs().max() < 1e-9
    assert trainer._metrics["train"]["groups_without_variance"] == [1.0]


def test_a_selection_needs_whole_groups_on_each_process():
    # Two processes could share a group of eight: TRL allows it, a choice within the group does not.
    args = SimpleNamespace(per_device_train_batch_size=4, steps_per_generation=1, num_generations=8)
    Recipe.read(penalties={"overlong": 64}).check(args)
    with pytest.raises(UsageError, match="no multiple of num_generations=8"):
        Recipe.read(selection={"resample": 2}).check(args)


def test_a_whole_run_trains_with_everything_on(play):
    recipe = {
        "shaping": {"name": "bigram_clipped"},
        "penalties": {"overlong": 64, "wrong_floor": -0.6},
        "selection": {"resample": 2, "mask_void_turns": True},
    }
    trainer = play(recipe)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert len(losses) == 2
    assert all(math.isfinite(loss) for loss in losses)
    assert torch.isfinite(next(trainer.model.parameters())).all()


def test_a_run_that_resumes_on_fewer_processes_leaves_no_file_of_the_others(tmp_path):
    for rank in range(2):
        files = EpisodeFiles(str(tmp_path), rank, 2)
        files.open("train", 3)
        files.open("train", 4)
    EpisodeFiles(str(tmp_path)).open("train", 4)
    names = sorted(path.name for path in (tmp_path / "trajectories").iterdir())
    assert names == ["train-000003-rank0.jsonl", "train-000003-rank1.jsonl", "train-000004.jsonl"]
