"""Penalties by hand, their bounds, and what of a configuration is refused."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from aster_env.errors import UsageError
from aster_env.types import StopReason, Task, Trajectory, Turn
from aster_train.metrics import describe
from aster_train.penalties import BUFFER, Penalties, WrongFloor, overlong_penalty, read_penalties, wrong_floor


def episode(reward, turns=2, tokens=100, **terms):
    """An episode of so many turns, all of whose tokens are the prompt's but one for each other turn."""
    rows = [Turn("environment", (1,) * (tokens - turns + 1), "p")]
    rows += [Turn("model" if n % 2 else "environment", (2,), "t") for n in range(1, turns)]
    return Trajectory(Task("t", "?", ("1",)), rows, reward=reward, reward_terms=dict(terms), stop=StopReason.ANSWERED)


def test_overlong_is_the_table_by_hand():
    lengths = [0, 12_000, 12_288, 13_312, 14_336, 16_384, 20_000]
    assert [overlong_penalty(n, 16_384) for n in lengths] == [0.0, 0.0, 0.0, -0.25, -0.5, -1.0, -1.0]
    assert BUFFER == 4096


@given(st.integers(0, 10**6), st.integers(1, 10**6), st.data())
def test_overlong_is_the_formula_within_its_bounds_and_never_better_for_more_tokens(length, limit, data):
    buffer = data.draw(st.integers(1, limit))
    value = overlong_penalty(length, limit, buffer)
    assert -1 <= value <= 0
    assert value == pytest.approx(max(-1, min(-(length - (limit - buffer)) / buffer, 0)))
    assert overlong_penalty(length + 1, limit, buffer) <= value


def test_a_wrong_answer_is_worth_more_with_calls_up_to_a_bound():
    # Two turns are a prompt and an answer; a call and its result are two more.
    values = [wrong_floor(-1, turns) for turns in (2, 4, 6, 8, 10, 12, 40)]
    assert values == pytest.approx([-1, -0.9, -0.8, -0.7, -0.6, -0.6, -0.6])


def test_each_switch_gives_its_own_term_and_none_is_on_by_default():
    one = episode(0.0, turns=4, tokens=150)
    assert read_penalties(None).apply(one, 200) == read_penalties({"overlong": None}).apply(one, 200) == {}
    assert read_penalties({"overlong": 100}).apply(one, 200) == {"penalty/overlong": -0.5}
    floor = read_penalties({"wrong_floor": -0.6}).apply(one, 200)
    assert floor == {"penalty/wrong_floor": pytest.approx(-0.9)}
    assert read_penalties({"overlong": 100, "wrong_floor": -0.6}).apply(one, 200) == {"penalty/overlong": -0.5, **floor}


@pytest.mark.parametrize(
    ("reward", "terms", "total"),
    [
        (1.0, {}, 1.0),
        (1.1, {"correct": 1.0}, 1.1),
        (0.3, {}, 0.3),
        (0.0, {}, -0.9),
        (-0.8, {}, -0.7),
        (0.1, {"correct": 0.0}, -0.9),
    ],
)
def test_only_wrong_answers_get_the_floor_and_a_negative_reward_is_where_it_starts(reward, terms, total):
    one = episode(reward, turns=4, **terms)
    assert reward + sum(read_penalties({"wrong_floor": -0.6}).apply(one, 200).values()) == pytest.approx(total)


def test_an_episode_without_a_reward_gets_no_penalty():
    assert read_penalties({"overlong": 10, "wrong_floor": -0.6}).apply(episode(None), 100) == {}


@given(st.sampled_from([0.0, 1.0]), st.integers(1, 20), st.integers(50, 300))
def test_a_penalty_leaves_the_episode_and_its_accuracy_and_a_right_answer_stays_the_better(reward, calls, tokens):
    one = episode(reward, 2 + 2 * calls, tokens, correct=reward)
    before = one.to_json()
    terms = read_penalties({"overlong": 50, "wrong_floor": -0.6}).apply(one, 200)
    assert one.to_json() == before
    one.reward_terms |= terms
    one.reward += sum(terms.values())
    assert describe(one)["correct"] == reward
    assert one.reward >= 0 if reward else one.reward <= -0.6


def test_short_and_long_forms_read_the_same():
    assert read_penalties({"overlong": 512}) == read_penalties({"overlong": {"buffer": 512}}) == Penalties(512)
    assert read_penalties({"overlong": {}}) == Penalties(BUFFER)
    assert read_penalties({"wrong_floor": -0.5}) == Penalties(wrong_floor=WrongFloor(-0.5))
    long = {"wrong_floor": {"most": -0.5, "score": -2, "per_turn": 0.1}}
    assert read_penalties(long) == Penalties(wrong_floor=WrongFloor(-0.5, -2, 0.1))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"overlang": 1}, "Did you mean 'overlong'"),
        ({"overlong": {"bufer": 1}}, "Did you mean 'buffer'"),
        ({"overlong": 0}, "1 or more"),
        ({"overlong": "4096"}, "an integer or a mapping"),
        ({"overlong": True}, "an integer or a mapping"),
        ({"wrong_floor": {"most": 0.5}}, "score <= most <= 0"),
        ({"wrong_floor": {"score": -0.1}}, "score <= most <= 0"),
        ({"wrong_floor": {"per_turn": float("nan")}}, "per_turn >= 0"),
        ({"wrong_floor": {"per_turn": "x"}}, "a number"),
    ],
)
def test_a_wrong_configuration_is_refused(values, said):
    with pytest.raises(UsageError, match=said):
        read_penalties(values)


def test_a_buffer_longer_than_an_episode_is_refused_before_any_is_played():
    penalties = read_penalties({"overlong": 4096})
    penalties.check(4096)
    with pytest.raises(UsageError, match=r"Allowed: 1 to 224.*smaller buffer"):
        penalties.check(224)
    read_penalties({"wrong_floor": -0.6}).check(224)
