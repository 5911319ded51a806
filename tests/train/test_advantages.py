"""Advantages against a plain re-computation, against TRL's, and their properties."""

from __future__ import annotations

import statistics

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from aster_train.advantages import EPSILON, group_relative, shaped, zero_variance

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


def test_shaping_is_added_after_normalisation():
    advantages = torch.tensor([1.0, -1.0])
    terms = torch.tensor([[0.5, 2.0], [NAN, -1.0]])
    assert shaped(advantages, terms, torch.tensor([0.3, 0.1])).tolist() == pytest.approx([1.35, -1.1])


def test_rewards_that_do_not_divide_into_groups_are_refused():
    with pytest.raises(ValueError, match="groups of 3"):
        group_relative(torch.zeros(4), 3)
