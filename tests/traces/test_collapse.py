"""Interaction collapse on made-up runs: what falls is said once with its evidence, and noise is not."""

from __future__ import annotations

import json
import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from aster_env.errors import UsageError
from aster_env.traces import Collapse, CollapseWatch, Measured, read_run, watch_run
from aster_env.traces.collapse import measure, only_call_is_last
from aster_env.types import StopReason, Task, ToolCall, Trajectory, Turn

HEALTHY = {"calls": 3.0, "only_last": 0.1, "no_call": 0.05, "entropy": 0.5, "turn_length": 200.0}
NAN = math.nan


def run(watch, steps, start=0, noise=0.0, seed=0, **ends):
    """Move each measure from what it is in HEALTHY, or the first of a pair, to an end; return the warnings."""
    rng, found = np.random.default_rng(seed), []
    pairs = {**{n: (v, v) for n, v in HEALTHY.items()}}
    pairs |= {n: e if isinstance(e, tuple) else (HEALTHY[n], e) for n, e in ends.items()}
    for n in range(steps):
        part = n / max(steps - 1, 1)
        values = {name: (a + (b - a) * part) * math.exp(noise * rng.normal()) for name, (a, b) in pairs.items()}
        found += watch.add(Measured(start + n, **values))
    return found


def names(found):
    return [warning.name for warning in found]


def test_a_run_that_collapses_is_warned_of_by_each_measure():
    found = run(CollapseWatch(), 60, noise=0.1, calls=0.4, only_last=0.8, no_call=0.75, entropy=0.02, turn_length=900)
    assert sorted(names(found)) == ["entropy_fell", "fewer_calls", "longer_turns", "no_calls", "one_last_call"]
    assert [w.step for w in found] == sorted(w.step for w in found)


@pytest.mark.parametrize("seed", range(5))
def test_noise_about_a_healthy_run_is_no_collapse(seed):
    assert run(CollapseWatch(), 200, noise=0.3, seed=seed) == []


def test_learning_to_call_once_to_think_longer_and_to_be_sure_is_no_collapse():
    calm = run(CollapseWatch(), 60, calls=(0.3, 1.0), only_last=(0.2, 0.95), entropy=(0.5, 0.01), no_call=(0.7, 0.0))
    assert calm == []
    assert run(CollapseWatch(), 60, entropy=0.01, turn_length=1000) == []


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("fewer_calls", {"calls": 1.2}),
        ("no_calls", {"no_call": 0.7}),
        ("one_last_call", {"calls": 2.0, "only_last": 0.7}),
        ("longer_turns", {"calls": 2.0, "turn_length": 600}),
        ("entropy_fell", {"calls": 2.0, "entropy": 0.05}),
    ],
)
def test_each_warning_comes_alone(name, ends):
    assert names(run(CollapseWatch(), 40, **ends)) == [name]


@pytest.mark.parametrize("name", ["one_last_call", "longer_turns", "entropy_fell"])
def test_what_supports_a_collapse_counts_where_nothing_is_known_of_calls(name):
    field, end = {
        "one_last_call": ("only_last", 0.9), "longer_turns": ("turn_length", 900), "entropy_fell": ("entropy", 0.01)
    }[name]  # fmt: skip
    assert names(run(CollapseWatch(), 40, calls=(NAN, NAN), **{field: end})) == [name]


def test_half_the_calls_of_a_run_that_hardly_has_any_is_noise():
    assert run(CollapseWatch(), 40, calls=(0.3, 0.1)) == []


def test_the_evidence_is_the_two_windows():
    found = []
    watch = CollapseWatch(window=2)
    for step, calls in zip(range(10, 70, 10), [4, 2, 3, 2, 1, 0.5], strict=True):
        found += watch.add(Measured(step, calls=calls))
    assert found == [Collapse("fewer_calls", 50, "calls per episode", 3.0, 1.5, (10, 20), (40, 50))]
    text = "Interaction collapse (fewer_calls) at step 50: calls per episode 3 (steps 10 to 20) → 1.5 (steps 40 to 50)."
    assert found[0].text() == text
    assert json.loads(json.dumps(found[0].to_json()))["text"] == text


def test_a_warning_comes_once_and_again_after_the_run_has_recovered():
    watch = CollapseWatch()
    assert names(run(watch, 40, calls=0.5)) == ["fewer_calls"]
    assert run(watch, 40, calls=(0.5, 1.8), start=40) == []
    assert watch.active == {"fewer_calls"}
    assert run(watch, 40, calls=(1.8, 3.0), start=80) == []
    assert watch.active == set()
    assert names(run(watch, 40, calls=0.5, start=120)) == ["fewer_calls"]


def test_no_warning_comes_before_two_windows_are_full():
    watch = CollapseWatch(window=3)
    assert [names(watch.add(Measured(n, calls=3.0 * (n < 3)))) for n in range(6)] == [[]] * 5 + [["fewer_calls"]]


def test_what_was_not_measured_counts_for_nothing():
    whole, holed = CollapseWatch(), CollapseWatch()
    values = [3.0] * 6 + [1.0] * 10
    found = [w for n, value in enumerate(values) for w in whole.add(Measured(n, calls=value))]
    again = []
    for n, value in enumerate(values):
        again += holed.add(Measured(n, calls=value)) + holed.add(Measured(n, entropy=NAN))
    assert found == again != []
    assert [w for n in range(30) for w in CollapseWatch(1).add(Measured(n))] == []


@given(st.lists(st.floats(0, 1e6) | st.just(NAN), max_size=40), st.integers(1, 5))
def test_any_measurements_are_taken_and_each_warning_is_raised_when_it_is_not_in_force(values, window):
    watch = CollapseWatch(window)
    for n, value in enumerate(values):
        before = set(watch.active)
        found = watch.add(Measured(n, value, min(value, 1.0), 1 / (1 + value), value / 2, value + 1))
        assert {w.name for w in found} == watch.active - before
        assert all(w.start_steps[1] < w.now_steps[0] <= w.now_steps[1] == w.step == n for w in found)


def test_a_window_of_nothing_is_refused():
    with pytest.raises(UsageError, match="window=0"):
        CollapseWatch(0)


def episode(*calls, stop=StopReason.ANSWERED, length=4):
    """An episode whose turns make these calls (None: a good one, a string: one that is refused), then one without."""
    turns = [Turn("environment", (1,), "p")]
    for problem in calls:
        call = ToolCall("python", problem=problem)
        turns += [Turn("model", (2,) * length, "c", (-0.5,) * length, (call,)), Turn("environment", (3,), "r")]
    turns.append(Turn("model", (4,) * length, "a", (-0.25,) * length))
    executed = sum(problem is None for problem in calls)
    return Trajectory(Task("t", "?", ("1",)), turns, reward=1.0, stop=stop, tool_calls=executed)


def test_the_only_call_is_last_where_the_answer_follows_it():
    assert only_call_is_last(episode(None))
    assert only_call_is_last(episode("unreadable", None))
    assert not only_call_is_last(episode(None, "unreadable"))
    assert not only_call_is_last(episode(None, None))
    assert not only_call_is_last(episode())
    assert not only_call_is_last(episode(None, stop=StopReason.MAX_TOKENS))


def test_the_episodes_of_a_step_give_its_measurements():
    down = episode(None, stop=StopReason.INFRASTRUCTURE, length=999)
    found = measure(7, [episode(), episode(None), episode(None, None, None), down, episode()])
    assert found == Measured(7, 1.0, 0.25, 0.5, pytest.approx((4 * 0.5 + 4 * 0.25) / 8), 4.0)
    assert math.isnan(measure(7, [down]).calls)


def test_a_run_is_read_from_its_files(tmp_path):
    def write(name, episodes, end=""):
        (tmp_path / name).write_text("".join(json.dumps(e.to_json()) + "\n" for e in episodes) + end)

    for step in range(12):
        write(f"train-{step:06d}-rank0.jsonl", [episode(None, None)] if step < 6 else [episode()])
        write(f"train-{step:06d}-rank1.jsonl", [episode(None, None)] if step < 6 else [episode()], '{"task": ')
    write("eval-000003.jsonl", [episode()])
    measured = read_run(tmp_path)
    assert [m.step for m in measured] == list(range(12))
    assert [m.calls for m in measured] == [2.0] * 6 + [0.0] * 6
    assert sorted(names(watch_run(tmp_path, window=3))) == ["fewer_calls", "no_calls"]


def test_a_folder_without_episodes_is_refused(tmp_path):
    with pytest.raises(UsageError, match="'trajectories'"):
        read_run(tmp_path)


def test_entropy_that_is_measured_more_often_than_calls_does_not_warn_alone():
    watch = CollapseWatch(4)
    found = []
    for step in range(200):
        calls = 3.0 + step / 100 if step % 8 == 0 else math.nan
        found += watch.add(Measured(step, calls=calls, entropy=0.5 * 0.97**step))
    assert not found


def test_one_odd_batch_at_the_start_is_no_start_to_fall_from():
    watch = CollapseWatch(8)
    found = [w for step in range(60) for w in watch.add(Measured(step, calls=30.0 if step == 7 else 3.0))]
    assert not found
