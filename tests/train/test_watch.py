"""The watch beside a trainer: what it prints, keeps and counts, and that a resumed run goes on with it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from transformers import TrainerControl, TrainerState

from aster_env.types import StopReason, Task, ToolCall, Trajectory, Turn
from aster_train.metrics import describe, summarize
from aster_train.watch import FILE, NAMES, CollapseCallback, measured_in, read_warnings, warning_lines


class Run:
    """A trainer's events, one logged step after the other, in the order in which a trainer sends them."""

    def __init__(self, folder, state=None, main=True):
        self.args = SimpleNamespace(output_dir=str(folder))
        self.state, self.control, self.metrics = state or TrainerState(), TrainerControl(), {}
        self.state.is_world_process_zero = main
        self.callback = CollapseCallback(self.metrics, window=2)
        self.callback.on_train_begin(self.args, self.state, self.control)

    def log(self, **values):
        self.state.global_step += 1
        self.callback.on_step_end(self.args, self.state, self.control)
        logs = {**values, **{name: sum(part) / len(part) for name, part in self.metrics.items()}}
        self.state.log_history.append({**logs, "step": self.state.global_step})
        self.callback.on_log(self.args, self.state, self.control, logs=logs)
        self.metrics.clear()
        return logs

    def calls(self, *values):
        return [self.log(**{"tools/calls_mean": value})["collapse/warnings"] for value in values]


def test_a_collapse_is_printed_kept_and_counted_from_the_next_log_on(tmp_path, capsys):
    run = Run(tmp_path)
    assert run.calls(3, 3, 3, 1, 1, 1, 3, 3, 3) == [0, 0, 0, 0, 0, 1, 1, 1, 0]
    text = "Interaction collapse (fewer_calls) at step 5: calls per episode 3 (steps 1 to 2) → 1 (steps 4 to 5)."
    assert capsys.readouterr().out == text + "\n"
    (row,) = read_warnings(tmp_path)
    assert row["text"] == text
    assert (row["name"], row["step"], row["start_steps"], row["now_steps"]) == ("fewer_calls", 5, [1, 2], [4, 5])
    assert warning_lines([row]) == [f"- {text}"]


def test_a_run_without_a_collapse_leaves_no_file(tmp_path, capsys):
    assert Run(tmp_path).calls(3, 3, 2, 3, 2.5, 3) == [0] * 6
    assert not (tmp_path / FILE).exists()
    assert capsys.readouterr().out == ""
    assert warning_lines(read_warnings(tmp_path)) == ["No sign of interaction collapse."]


def test_other_processes_count_and_say_nothing(tmp_path, capsys):
    assert Run(tmp_path, main=False).calls(3, 3, 1, 1, 1) == [0, 0, 0, 0, 1]
    assert capsys.readouterr().out == ""
    assert read_warnings(tmp_path) == []


def test_logs_of_something_else_are_none_and_what_is_missing_is_not_counted(tmp_path):
    assert measured_in(3, {"eval_tools/calls_mean": 1.0, "loss": 2.0}) is None
    found = measured_in(3, {"entropy": 0.5, "tools/calls_mean": None})
    assert found.entropy == 0.5
    assert found.calls != found.calls
    run = Run(tmp_path)
    for value in (3, 3, 1):
        run.log(**{"tools/calls_mean": value})
        run.log(entropy=0.5)
        run.log(eval_loss=0.5)
    assert run.calls(1, 1) == [0, 1]


def test_a_resumed_run_goes_on_from_its_checkpoint(tmp_path, capsys):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    values = [3, 3, 3, 1, 1, 1, 3, 3, 3, 1, 1, 1]
    expected = Run(whole).calls(*values)
    first = Run(parts)
    first.calls(*values[:7])
    state = TrainerState(global_step=first.state.global_step, log_history=list(first.state.log_history))
    # Steps after the checkpoint are lost, and so is what they warned of.
    first.calls(0, 0, 0)
    with open(parts / FILE, "a") as file:
        file.write(json.dumps({**read_warnings(parts)[0], "step": 9, "name": "lost"}) + '\n{"name": "unfin')
    capsys.readouterr()
    resumed = Run(parts, state)
    assert capsys.readouterr().out == ""
    assert resumed.calls(*values[7:]) == expected[7:]
    assert read_warnings(parts) == read_warnings(whole)
    assert [row["step"] for row in read_warnings(whole)] == [5, 11]


def test_a_new_run_in_the_same_folder_begins_without_the_old_warnings(tmp_path):
    Run(tmp_path).calls(3, 3, 1, 1, 1)
    assert read_warnings(tmp_path)
    Run(tmp_path)
    assert read_warnings(tmp_path) == []


def episode(calls, stop=StopReason.ANSWERED):
    turns = [Turn("environment", (1,), "p")]
    for _ in range(calls):
        turns += [Turn("model", (2, 2), "c", calls=(ToolCall("python"),)), Turn("environment", (3,), "r")]
    turns.append(Turn("model", (4, 4), "a"))
    return Trajectory(Task("t", "?", ("1",)), turns, reward=0.0, stop=stop, tool_calls=calls)


def test_what_the_watch_reads_is_what_a_step_logs():
    played = [episode(0), episode(0, StopReason.VOID_TURN), episode(1), episode(3)]
    played.append(episode(1, StopReason.INFRASTRUCTURE))
    logged = summarize([describe(one) for one in played])
    assert set(NAMES.values()) - set(logged) == {"entropy"}
    assert logged["tools/no_call_ratio"] == 0.5
    assert logged["tools/only_last_call_ratio"] == 0.25
    assert logged["turns/void_ratio"] == 0.25
    measured = measured_in(1, logged)
    assert (measured.calls, measured.only_last, measured.no_call) == (1.0, 0.25, 0.5)
    assert measured.turn_length == pytest.approx(2.0)
