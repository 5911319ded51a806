"""Which episodes are trained on: sizes, whole groups, who is preferred, and what a configuration may say."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from aster_env.errors import UsageError
from aster_env.types import StopReason, Task, ToolCall, ToolResult, Trajectory, Turn
from aster_train.selection import (
    Selection,
    accuracy,
    choose_groups,
    in_band,
    is_void,
    read_selection,
    resample_on_correct,
    tool_penalty,
)


def episode(reward, results=(), stop=StopReason.ANSWERED, refused=0, task="t"):
    """An episode whose calls went well or not as ``results`` say, the first of them refused."""
    turns = [Turn("environment", (1,), "p")]
    for n, ok in enumerate(results):
        call = ToolCall("python", problem="unreadable" if n < refused else None)
        turns += [
            Turn("model", (2,), "c", calls=(call,)),
            Turn("environment", (3,), "r", results=(ToolResult("", ok),)),
        ]
    turns.append(Turn("model", (4,), "a"))
    return Trajectory(Task(task, "?", ("1",)), turns, reward=reward, stop=stop)


def down(task="t"):
    return episode(None, stop=StopReason.INFRASTRUCTURE, task=task)


def rng(seed=0):
    return np.random.default_rng(seed)


episodes = st.builds(episode, st.sampled_from([0.0, 1.0]), st.lists(st.booleans(), max_size=4)) | st.builds(down)
groups = st.lists(episodes, min_size=1, max_size=16)


def test_a_void_turn_is_what_ended_the_episode():
    assert [is_void(episode(0.0, stop=stop)) for stop in StopReason] == [s is StopReason.VOID_TURN for s in StopReason]


def test_the_band_is_over_the_scored_episodes_and_holds_its_ends():
    group = [episode(1.0), episode(0.0), episode(0.0), episode(0.0), down()]
    assert accuracy(group) == 0.25
    assert in_band(group, 0.25, 0.25)
    assert not in_band(group, 0.26, 1.0)
    assert not in_band([down(), down()], 0.0, 1.0)


def test_accuracy_is_the_term_where_there_is_one():
    one = episode(-0.4)
    one.reward_terms["correct"] = 1.0
    assert accuracy([one, episode(0.0)]) == 0.5


def test_groups_in_the_band_come_first_then_others_and_unplayed_ones_last():
    right, wrong, mixed, lost = [episode(1.0)] * 2, [episode(0.0)] * 2, [episode(0.0), episode(1.0)], [down()] * 2
    given_ = [lost, right, mixed, wrong, mixed]
    assert choose_groups(given_, 5, 0.1, 0.9) == [2, 4, 1, 3, 0]
    assert choose_groups(given_, 1, 0.1, 0.9) == [2]
    with pytest.raises(ValueError, match="6 groups of 5"):
        choose_groups(given_, 6, 0.1, 0.9)


@given(st.lists(groups, min_size=1, max_size=8), st.data())
def test_no_group_out_of_the_band_is_chosen_while_one_in_it_is_left(given_, data):
    count = data.draw(st.integers(1, len(given_)))
    chosen = choose_groups(given_, count, 0.1, 0.9)
    assert len(set(chosen)) == count
    fits = [in_band(group, 0.1, 0.9) for group in given_]
    assert sum(fits[n] for n in chosen) == min(count, sum(fits))
    inside = [n for n in chosen if fits[n]]
    assert inside == sorted(inside) == chosen[: len(inside)]


def test_the_penalty_is_errors_of_tools_and_of_format():
    assert tool_penalty(episode(1.0)) == 0.5
    assert tool_penalty(episode(1.0, [True, True])) == 0.0
    assert tool_penalty(episode(1.0, [False, True, True, True])) == 0.25
    assert tool_penalty(episode(1.0, [False, True], refused=1)) == 1.0
    assert tool_penalty(episode(1.0, [True], stop=StopReason.MAX_TOKENS)) == 1.0


def test_of_the_right_ones_the_tidiest_are_kept_and_half_of_each_side():
    tidy, rough, awful = episode(1.0, [True]), episode(1.0, [True, False]), episode(1.0, [False])
    group = [awful, episode(0.0), rough, tidy, episode(0.0), tidy, episode(0.0), episode(0.0)]
    for seed in range(5):
        kept = resample_on_correct(group, 4, rng(seed))
        assert [n for n in kept if group[n].reward] == [3, 5]


def test_the_only_one_of_its_side_is_kept():
    for lone, others in ((0.0, 1.0), (1.0, 0.0)):
        group = [episode(others)] * 7 + [episode(lone)] + [episode(others)] * 7
        assert all(7 in resample_on_correct(group, keep, rng(keep)) for keep in (2, 3, 7))


def test_of_the_wrong_ones_any_are_kept_however_untidy():
    group = [episode(0.0, [False])] * 4 + [episode(0.0, [True])] * 4
    counts = np.bincount([n for seed in range(400) for n in resample_on_correct(group, 4, rng(seed))])
    assert counts.min() > 150
    assert counts.max() < 250


@given(groups, st.integers(0, 99), st.data())
def test_resampling_keeps_the_size_both_sides_and_their_shares(group, seed, data):
    keep = data.draw(st.integers(1, len(group)))
    kept = resample_on_correct(group, keep, rng(seed))
    assert kept == resample_on_correct(group, keep, rng(seed))
    assert len(kept) == len(set(kept)) == keep
    scored = [n for n, t in enumerate(group) if t.reward is not None]
    assert sum(n in scored for n in kept) == min(keep, len(scored))
    right = [n for n in scored if group[n].reward]
    chosen = [n for n in kept if n in right]
    if len(scored) >= keep > 1:
        assert bool(chosen) == bool(right)
        assert (len(chosen) < keep) == (len(right) < len(scored))
        assert abs(len(chosen) - keep * len(right) / len(scored)) <= 1
    worst = max((tool_penalty(group[n]) for n in chosen), default=0.0)
    assert all(tool_penalty(group[n]) >= worst for n in right if n not in chosen)


def test_more_than_there_are_cannot_be_kept():
    with pytest.raises(ValueError, match="3 episodes of 2"):
        resample_on_correct([episode(1.0)] * 2, 3, rng())


selections = st.builds(
    lambda resample, band, over, void: Selection(resample, band, over if band else 1, void),
    st.integers(1, 3),
    st.none() | st.just((0.1, 0.9)),
    st.integers(2, 4),
    st.booleans(),
)


@given(selections, st.integers(1, 4), st.integers(1, 4), st.randoms(use_true_random=False), st.integers(0, 99))
def test_a_plan_is_played_and_chosen_from_in_whole_groups(selection, size, wanted, random, seed):
    asked = [f"asked{n}" for n in range(wanted) for _ in range(size)]
    further = []

    def extra(count):
        further.extend(f"extra{n}" for n in range(count))
        return further

    ids = selection.plan(asked, size, extra)
    assert len(ids) == size * wanted * selection.resample * selection.oversample
    assert list(dict.fromkeys(ids)) == list(dict.fromkeys(asked)) + further
    assert (ids == asked) == (not selection.replaces)
    played = [random.choice([episode(0.0, task=i), episode(1.0, task=i), down(i)]) for i in ids]
    chosen, metrics = selection.choose(played, size, wanted, seed)
    assert len(chosen) == size * wanted
    assert all(len({t.task.id for t in chosen[n : n + size]}) == 1 for n in range(0, len(chosen), size))
    assert len({id(t) for t in chosen}) == len(chosen)
    again = selection.choose(played, size, wanted, seed)
    assert [id(t) for t in again[0]] == [id(t) for t in chosen]
    assert list(metrics) == list(again[1])
    assert metrics["selection/played"] == len(ids)
    if selection.accuracy_band is None:
        assert metrics["selection/in_band"] == 1
        assert metrics["selection/filled"] == 0


def test_the_metrics_are_of_all_that_was_played():
    selection = read_selection({"accuracy_band": [0.1, 0.9], "oversample": 2})
    void = episode(0.0, stop=StopReason.VOID_TURN)
    played = [episode(1.0), episode(1.0), episode(1.0), void, episode(0.0), episode(0.0), down(), down()]
    chosen, metrics = selection.choose(played, 2, 2, 0)
    assert chosen == [played[2], void, played[0], played[1]]
    assert metrics == {
        "selection/played": 8, "selection/accuracy_played": 0.5, "selection/void": 0.125, "selection/in_band": 0.25,
        "selection/filled": 0.5,
    }  # fmt: skip
    nothing = selection.choose([down()] * 8, 2, 2, 0)[1]
    assert math.isnan(nothing["selection/accuracy_played"])


def test_the_band_looks_at_all_episodes_of_a_group_before_they_are_resampled():
    selection = read_selection({"resample": 2, "accuracy_band": [0.2, 0.3], "oversample": 2})
    half, quarter = [episode(1.0)] * 2 + [episode(0.0)] * 2, [episode(1.0)] + [episode(0.0)] * 3
    chosen, _ = selection.choose(half + quarter, 2, 1, 0)
    assert {id(t) for t in chosen} <= {id(t) for t in quarter}
    assert accuracy(chosen) == 0.5


def test_what_is_not_a_plan_is_refused():
    with pytest.raises(ValueError, match="do not divide"):
        Selection().plan(["a", "a", "b"], 2, list)
    with pytest.raises(ValueError, match="differ"):
        Selection().plan(["a", "b"], 2, list)
    with pytest.raises(ValueError, match="3 episodes are not 1 groups of 4"):
        Selection(resample=2).choose([episode(1.0)] * 3, 2, 1, 0)


def test_void_turns_are_masked_by_their_switch():
    void, answered = episode(0.0, stop=StopReason.VOID_TURN), episode(0.0)
    on = read_selection({"mask_void_turns": True})
    assert [on.masks(void), on.masks(answered), Selection().masks(void)] == [True, False, False]
    assert not on.replaces


def test_everything_is_off_by_default_and_a_band_brings_further_tasks():
    assert read_selection(None) == read_selection({}) == read_selection({"resample": None}) == Selection()
    assert read_selection({"accuracy_band": [0, 1]}) == Selection(accuracy_band=(0.0, 1.0), oversample=3)
    values = {"resample": 2, "accuracy_band": [0.1, 0.9], "oversample": 4, "mask_void_turns": True}
    assert read_selection(values) == Selection(2, (0.1, 0.9), 4, True)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"resampel": 2}, "Did you mean 'resample'"),
        ({"resample": 1}, "2 or more"),
        ({"resample": 2.5}, "an integer"),
        ({"oversample": 0, "accuracy_band": [0, 1]}, "2 or more"),
        ({"oversample": 3}, "set both"),
        ({"accuracy_band": [0.9, 0.1]}, "low <= high"),
        ({"accuracy_band": [0.1, 9]}, "low <= high"),
        ({"accuracy_band": [0.1]}, r"\[low, high\]"),
        ({"accuracy_band": [0.1, "x"]}, "a number"),
        ({"accuracy_band": 0.1}, "a list"),
        ({"mask_void_turns": 1}, "true or false"),
    ],
)
def test_a_wrong_configuration_is_refused(values, said):
    with pytest.raises(UsageError, match=said):
        read_selection(values)
