"""Estimates and intervals: unbiased, in bounds, and as wide as they say."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aster_env.evaluate.intervals import interval, paired, pass_at, sign_flip

SCORES = st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=1, max_size=8)


@given(SCORES, st.integers(1, 8))
def test_pass_at_k_is_the_mean_best_of_all_choices_of_k(scores, k):
    k = min(k, len(scores))
    best = [max(choice) for choice in itertools.combinations(scores, k)]
    assert pass_at(scores, k) == pytest.approx(np.mean(best))


@given(st.integers(1, 200), st.data())
def test_pass_at_k_is_the_estimator_of_chen_et_al(n, data):
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    expected = 1 - math.comb(n - c, k) / math.comb(n, k)
    assert pass_at([1.0] * c + [0.0] * (n - c), k) == pytest.approx(expected)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(1, 16))
def test_an_interval_holds_its_value_and_stays_between_0_and_1(means, k):
    found = interval(means, k * len(means))
    assert 0 <= found["low"] <= found["value"] <= found["high"] <= 1
    assert found["low"] < found["high"]


def test_nothing_gives_nothing_and_one_problem_says_nothing_of_others():
    assert interval([], 0) == {"value": None, "low": None, "high": None}
    assert interval([0.5], 16) == {"value": 0.5, "low": 0.0, "high": 1.0}
    assert paired([]) == {"value": None, "low": None, "high": None}
    assert paired([0.0]) == {"value": 0.0, "low": -1.0, "high": 1.0}


def test_at_no_and_at_all_problems_right_the_interval_is_wilsons():
    none, every = interval([0.0] * 30, 480), interval([1.0] * 30, 480)
    square = 2.0452**2  # Student's quantile for 29 degrees of freedom
    assert (none["low"], none["high"]) == (0.0, pytest.approx(square / (30 + square), abs=1e-4))
    assert (every["low"], every["high"]) == (pytest.approx(30 / (30 + square), abs=1e-4), 1.0)


def test_more_samples_of_the_same_problems_do_not_narrow_what_the_problems_leave_open():
    means = [0.0] * 15 + [1.0] * 15
    assert interval(means, 30) == interval(means, 480)


@pytest.mark.parametrize("shape", [(0.3, 0.3), (0.3, 2.0), (2.0, 0.3), (5.0, 5.0)])
@pytest.mark.parametrize("k", [1, 16])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(shape, k):
    rng, truth, runs = np.random.default_rng(0), shape[0] / sum(shape), 400
    hits = 0
    for _ in range(runs):
        means = rng.binomial(k, rng.beta(*shape, size=30)) / k
        found = interval(means.tolist(), 30 * k)
        hits += found["low"] <= truth <= found["high"]
    assert 0.92 <= hits / runs <= 0.995


def test_where_a_few_problems_hold_all_the_accuracy_the_interval_is_too_narrow_by_no_more_than_documented():
    rng, hits, runs = np.random.default_rng(0), 0, 1000
    for _ in range(runs):
        found = interval((rng.binomial(16, rng.beta(0.05, 1.0, size=30)) / 16).tolist(), 480)
        hits += found["low"] <= 0.05 / 1.05 <= found["high"]
    assert hits / runs >= 0.84


def test_the_paired_interval_covers_the_truth_about_as_often_as_it_says():
    rng, hits, runs = np.random.default_rng(1), 0, 400
    for _ in range(runs):
        easy = rng.beta(0.5, 0.5, size=30)
        a, b = rng.binomial(16, 0.2 + 0.8 * easy) / 16, rng.binomial(16, 0.8 * easy) / 16
        found = paired((a - b).tolist())
        hits += found["low"] <= 0.2 <= found["high"]
    assert 0.92 <= hits / runs <= 0.98


def test_equal_differences_leave_room_for_problems_not_seen():
    found = paired([0.0] * 30)
    assert found["value"] == 0.0
    assert 0.05 < found["high"] < 0.2
    assert found["low"] == -found["high"]


@given(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.25, 1.0]), max_size=7))
def test_the_p_value_is_the_share_of_sign_flips_as_far_from_zero(differences):
    flips = list(itertools.product([-1, 1], repeat=len(differences)))
    observed = abs(sum(differences))
    far = [abs(sum(s * d for s, d in zip(flip, differences, strict=True))) >= observed - 1e-9 for flip in flips]
    assert sign_flip(differences) == pytest.approx(np.mean(far))


def test_random_flips_agree_with_all_flips_and_repeat():
    differences = np.random.default_rng(2).choice([-1, -0.5, 0.5, 1], p=[0.1, 0.2, 0.3, 0.4], size=14).tolist()
    exact, drawn = sign_flip(differences), sign_flip(differences, exact=0)
    assert drawn == pytest.approx(exact, abs=0.005)
    assert drawn == sign_flip(differences, exact=0)
    assert sign_flip([1.0] * 60) == pytest.approx(1 / 100_001)


def test_under_no_difference_p_is_below_a_twentieth_as_often_as_that():
    rng = np.random.default_rng(3)
    found = [sign_flip((rng.binomial(8, 0.5, 12) - rng.binomial(8, 0.5, 12)).tolist()) for _ in range(400)]
    assert np.mean(np.array(found) <= 0.05) <= 0.075
