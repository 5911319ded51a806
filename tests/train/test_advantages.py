"""Advantages against a plain re-computation, against TRL's, and their properties."""

from __future__ import annotations

import statistics

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from aster_train.advantages import (
    EPSILON,
    aspo,
    aspo_in_the_reward_collapses,
    bigram,
    bigram_clipped,
    bigram_phi,
    group_relative,
    zero_variance,
)

NAN = float("nan")
groups = st.integers(2, 8).flatmap(
    lambda size: st.lists(
        st.lists(st.sampled_from([0.0, 1.0, NAN]) | st.floats(-5, 5), min_size=size, max_size=size),
        min_size=1,
        max_size=5,
    )
)


@given(groups)
def test_it_is_the_plain_formula_over_the_scored_episodes(rows):
    flat = torch.tensor([r for row in rows for r in row], dtype=torch.float64)
    result = group_relative(flat, len(rows[0])).view(len(rows), -1)
    for row, values in zip(rows, result.tolist(), strict=True):
        scored = [r for r in row if r == r]
        std = statistics.stdev(scored) if len(scored) > 1 else 0.0
        for reward, value in zip(row, values, strict=True):
            expected = (reward - statistics.fmean(scored)) / (std + EPSILON) if reward == reward else 0.0
            assert value == pytest.approx(expected, abs=1e-6)


@given(groups)
def test_advantages_of_a_group_sum_to_zero_and_an_unscored_episode_changes_nothing(rows):
    size = len(rows[0])
    flat = torch.tensor([r for row in rows for r in row], dtype=torch.float64)
    result = group_relative(flat, size, scale=False).view(-1, size)
    assert torch.allclose(result.sum(1), torch.zeros(len(rows), dtype=torch.float64), atol=1e-6)
    wider = torch.cat([flat.view(-1, size), torch.full((len(rows), 1), NAN)], dim=1).flatten()
    again = group_relative(wider, size + 1).view(-1, size + 1)
    assert torch.allclose(again[:, :size].flatten(), group_relative(flat, size))
    assert again[:, size].abs().sum() == 0


def test_groups_without_variance_are_found_and_give_nothing():
    rewards = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0, 0.0, NAN, 1.0, NAN, NAN])
    assert zero_variance(rewards, 2).tolist() == [True, False, True, True, True]
    assert group_relative(rewards, 2).tolist() == pytest.approx([0, 0, -0.7070, 0.7070, 0, 0, 0, 0, 0, 0], abs=1e-3)


def test_aspo_is_the_papers_formula_by_hand():
    advantages = torch.tensor([0.5, 0.5, 0.5, -1.5, 0.2, 0.2, 0.2, 0.2])
    positions = torch.tensor([100.0, 300.0, NAN, 200.0, 10.0, 50.0, NAN, 90.0])
    lengths = torch.tensor([1000.0, 1000.0, 500.0, 800.0, 100.0, 200.0, 900.0, 300.0])
    correct = torch.tensor([True, True, True, False, True, True, False, True])
    result = aspo(advantages, positions, lengths, correct, 4, delta=-2.0, k=0.7)
    # -2·(p - 200)/1000 within ±0.35; then -2·(p - 50)/200 within ±0.14.
    assert result.tolist() == pytest.approx([0.7, 0.3, 0.5, -1.5, 0.34, 0.2, 0.2, 0.06])
    assert aspo(advantages, positions, lengths, correct, 4, delta=-0.5, k=0.9)[4:].tolist() == pytest.approx(
        [0.3, 0.2, 0.2, 0.1]
    )


def test_a_call_that_no_other_right_episode_is_compared_with_moves_nothing():
    advantages = torch.tensor([1.0, -1.0])
    for positions, lengths in (([5.0, 9.0], [10.0, 10.0]), ([NAN, 9.0], [10.0, 10.0]), ([0.0, 0.0], [0.0, 0.0])):
        made = aspo(
            advantages,
            torch.tensor(positions),
            torch.tensor(lengths),
            torch.tensor([True, False]),
            2,
            delta=-2.0,
            k=0.7,
        )
        assert made.tolist() == [1.0, -1.0]


def test_phi_is_the_reported_formula_by_hand():
    ends, follows, is_math, early = torch.tensor(
        [[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.8, 0.4, 0.9, 0.0]]
    )
    phi = bigram_phi(ends, follows, is_math, early, alpha=1.0, beta=2.0, gamma=0.5)
    assert phi.tolist() == pytest.approx([1.4, -1.8, -1.0, 0.0])


def test_raw_a_bigram_can_turn_a_right_episode_and_bounded_it_cannot():
    advantages, phi = torch.tensor([0.3, 0.3, -0.3, 0.0]), torch.tensor([-1.0, 0.2, 1.0, 1.0])
    assert bigram(advantages, phi, scale=0.5).tolist() == pytest.approx([-0.2, 0.4, 0.2, 0.5])
    right = torch.tensor([True, True, False, True])
    assert bigram_clipped(advantages, phi, right, scale=0.5, k=0.5).tolist() == pytest.approx([0.15, 0.4, -0.3, 0.0])
    right = torch.tensor([False, True, True, True])
    assert bigram_clipped(advantages, phi, right, scale=0.5, k=0.5).tolist() == pytest.approx([0.3, 0.4, -0.3, 0.0])


def test_aspo_in_the_reward_is_the_formula_by_hand():
    rewards = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0])
    positions = torch.tensor([10.0, 20.0, 30.0, NAN, 5.0])
    made = aspo_in_the_reward_collapses(rewards, positions, rewards > 0, 5, delta=-0.5, c=0.8)
    assert made.tolist() == pytest.approx([1.4, 1.0, 0.6, 1.0, 0.0])
    same = aspo_in_the_reward_collapses(rewards, torch.full((5,), 3.0), rewards > 0, 5, delta=-0.5, c=0.8)
    assert same.tolist() == rewards.tolist()


@st.composite
def steps(draw):
    """Return G, and of a step's episodes the rewards (some not scored), positions (some without a call), lengths, φ."""
    size, count = draw(st.integers(2, 6)), draw(st.integers(1, 3))
    wide = {"min_size": size * count, "max_size": size * count}
    rewards = draw(st.lists(st.sampled_from([0.0, 0.0, 1.0, 1.0, 1.0, NAN]), **wide))
    positions = draw(st.lists(st.integers(0, 3000) | st.just(NAN), **wide))
    after = draw(st.lists(st.integers(1, 3000), **wide))
    phi = draw(st.lists(st.floats(-3, 3), **wide))
    made = [torch.tensor(column, dtype=torch.float64) for column in (rewards, positions, after, phi)]
    return size, made[0], made[1], made[1].nan_to_num(0.0) + made[2], made[3]


factors = st.tuples(st.floats(-5, -0.01), st.floats(0.01, 0.99))


@given(steps(), factors)
def test_no_right_episode_changes_sign_and_a_group_that_is_all_right_gets_nothing(step, numbers):
    size, rewards, positions, lengths, phi = step
    delta, k = numbers
    right = rewards > 0
    plain = group_relative(rewards, size)
    for shaped in (
        aspo(plain, positions, lengths, right, size, delta=delta, k=k),
        bigram_clipped(plain, phi, right, scale=1.0, k=k),
    ):
        assert (shaped[right].sign() == plain[right].sign()).all()
        assert ((shaped - plain).abs() <= k * plain.abs() + 1e-12).all()
        assert (shaped[~right] == plain[~right]).all()
        flat = zero_variance(rewards, size)
        assert (shaped.view(-1, size)[flat] == plain.view(-1, size)[flat]).all()


@given(steps(), factors)
def test_aspo_lifts_the_earlier_of_two_calls_no_less_and_leaves_what_has_no_call(step, numbers):
    size, rewards, positions, lengths, _ = step
    delta, k = numbers
    plain = group_relative(rewards, size)
    terms = aspo(plain, positions, lengths, rewards > 0, size, delta=delta, k=k) - plain
    assert (terms[positions.isnan()] == 0).all()
    for places, added, good in zip(*(t.view(-1, size) for t in (positions, terms, rewards > 0)), strict=True):
        chosen = good & ~places.isnan()
        order = places[chosen].argsort()
        assert (added[chosen][order].diff() <= 1e-9).all()


@given(steps(), factors, st.randoms(use_true_random=False))
def test_the_order_in_a_group_does_not_matter(step, numbers, random):
    size, rewards, positions, lengths, phi = step
    delta, k = numbers
    order = torch.tensor(
        [start + n for start in range(0, len(rewards), size) for n in random.sample(range(size), size)]
    )

    def all_of(rewards, positions, lengths, phi):
        plain = group_relative(rewards, size)
        return (
            aspo(plain, positions, lengths, rewards > 0, size, delta=delta, k=k),
            bigram(plain, phi, scale=0.5),
            bigram_clipped(plain, phi, rewards > 0, scale=0.5, k=k),
            aspo_in_the_reward_collapses(rewards, positions, rewards > 0, size, delta=delta, c=1.0),
        )

    mixed = all_of(*(column[order] for column in (rewards, positions, lengths, phi)))
    for first, again in zip(all_of(rewards, positions, lengths, phi), mixed, strict=True):
        assert torch.allclose(first[order], again, atol=1e-9, equal_nan=True)


def test_rewards_that_do_not_divide_into_groups_are_refused():
    with pytest.raises(ValueError, match="groups of 3"):
        group_relative(torch.zeros(4), 3)
