"""Advantages as pure functions of rewards; nothing here knows of models, processes or TRL."""

from __future__ import annotations

import torch

EPSILON = 1e-4
"""Added to a group's standard deviation, as TRL does."""


def group_relative(rewards: torch.Tensor, group_size: int, *, scale: bool = True) -> torch.Tensor:
    """Return how much better each episode did than its group: A = (r - mean) / (std + 1e-4).

    GRPO (DeepSeekMath, arXiv:2402.03300, section 4.1), with the unbiased standard deviation.

    Args:
        rewards: shape (B·G,), the episodes of a group side by side; NaN for an episode that was not scored, which
            counts for nothing in its group and gets the advantage 0.
        group_size: G.
        scale: False leaves out the division (Dr. GRPO, arXiv:2503.20783).

    Returns:
        Advantages, shape (B·G,).

    Raises:
        ValueError: the number of rewards is no multiple of G.
    """
    groups = _grouped(rewards, group_size)
    advantages = groups - groups.nanmean(dim=1, keepdim=True)
    if scale:
        advantages = advantages / (_nanstd(groups) + EPSILON)
    return advantages.nan_to_num(nan=0.0).flatten()


def aspo(
    advantages: torch.Tensor,
    positions: torch.Tensor,
    lengths: torch.Tensor,
    correct: torch.Tensor,
    group_size: int,
    *,
    delta: float,
    k: float,
) -> torch.Tensor:
    """Return A + clip(δ·(p - mean p) / mean L, -k·A, k·A) for right episodes with a call; the others unchanged.

    ASPO (arXiv:2508.19201). The means are over a group's right episodes with a call. The bound keeps every right
    episode's advantage positive for k < 1; where A is not positive, as in a group that is all right, nothing is added.
    The term is added after normalisation: inside the reward, division by the group's standard deviation would change
    its size from group to group.

    Args:
        advantages: A, shape (B·G,), the episodes of a group side by side.
        positions: p, shape (B·G,): sampled tokens before the first call; NaN without a call.
        lengths: L, shape (B·G,), in the same unit.
        correct: bool, shape (B·G,).
        group_size: G.
        delta: δ, below 0 to prefer early calls.
        k: the largest part of an advantage that is added or taken.

    Returns:
        Shaped advantages, shape (B·G,).
    """
    chosen = _grouped(correct & ~positions.isnan(), group_size)
    p, length = _grouped(positions, group_size), _grouped(lengths, group_size)
    # Lengths of which the mean is 0 have positions of 0 too, and nothing to divide.
    mean_length = _mean(length, chosen).clamp(min=torch.finfo(length.dtype).tiny)
    terms = torch.where(chosen, delta * (p - _mean(p, chosen)) / mean_length, 0.0)
    return advantages + _bounded(terms.flatten(), advantages, k)


def bigram_phi(
    ends: torch.Tensor,
    python_think: torch.Tensor,
    is_math: torch.Tensor,
    early: torch.Tensor,
    *,
    alpha: float,
    beta: float,
    gamma: float,
) -> torch.Tensor:
    """Return φ = α·[ends in python→answer] - β·[contains python→think] + γ·[is of mathematics]·ψ, shape (N,).

    The bigram version of ASPO, as reported for Tool-Star.

    Args:
        ends: 0 or 1, shape (N,).
        python_think: 0 or 1, shape (N,).
        is_math: 0 or 1, shape (N,).
        early: ψ from 0 to 1, shape (N,): see ``aster_env.shaping.early_call``.
        alpha: α.
        beta: β.
        gamma: γ.
    """
    return alpha * ends - beta * python_think + gamma * is_math * early


def bigram(advantages: torch.Tensor, phi: torch.Tensor, *, scale: float) -> torch.Tensor:
    """Return A + λφ, as reported: neither bounded nor for right episodes alone, so φ can change an advantage's sign.

    Args:
        advantages: A, shape (N,).
        phi: φ, shape (N,).
        scale: λ.
    """
    return advantages + scale * phi


def bigram_clipped(
    advantages: torch.Tensor, phi: torch.Tensor, correct: torch.Tensor, *, scale: float, k: float
) -> torch.Tensor:
    """Return A + clip(λφ, -k·A, k·A) for right episodes, the others unchanged: φ under ASPO's bound.

    Args:
        advantages: A, shape (N,).
        phi: φ, shape (N,).
        correct: bool, shape (N,).
        scale: λ.
        k: the largest part of an advantage that is added or taken.
    """
    return advantages + _bounded(torch.where(correct, scale * phi, 0.0), advantages, k)


def aspo_in_the_reward_collapses(
    rewards: torch.Tensor,
    positions: torch.Tensor,
    correct: torch.Tensor,
    group_size: int,
    *,
    delta: float,
    c: float,
) -> torch.Tensor:
    """Return r + δ·clip((p - mean p) / std p, -c, c) for right episodes with a call: what must not be done.

    The variant that ASPO's paper (arXiv:2508.19201) warns of, with r = 1: in a group that is all right the position
    is all that is left of the reward, and its normalisation blows it up, against episodes that are right.

    Args:
        rewards: r, shape (B·G,), the episodes of a group side by side.
        positions: p, shape (B·G,); NaN without a call.
        correct: bool, shape (B·G,).
        group_size: G.
        delta: δ, below 0 to prefer early calls.
        c: the most standard deviations that count.

    Returns:
        Rewards, not advantages, shape (B·G,).
    """
    chosen = _grouped(correct & ~positions.isnan(), group_size)
    p = _grouped(positions, group_size)
    std = _nanstd(p.masked_fill(~chosen, float("nan")))
    scores = torch.where(chosen & (std > 0), (p - _mean(p, chosen)) / std, 0.0)
    return rewards + (delta * scores.clamp(-c, c)).flatten()


def zero_variance(rewards: torch.Tensor, group_size: int) -> torch.Tensor:
    """Return, for each of the B groups, whether its scored episodes all have the same reward: no signal."""
    return _nanstd(_grouped(rewards, group_size)).flatten() < 1e-8


def _grouped(rewards: torch.Tensor, group_size: int) -> torch.Tensor:
    if rewards.ndim != 1 or group_size < 1 or len(rewards) % group_size:
        raise ValueError(f"rewards of shape {tuple(rewards.shape)} do not divide into groups of {group_size}")
    return rewards.view(-1, group_size)


def _mean(groups: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Return each row's mean over what is chosen, shape (B, 1); NaN where nothing is."""
    return groups.masked_fill(~chosen, float("nan")).nanmean(dim=1, keepdim=True)


def _bounded(terms: torch.Tensor, advantages: torch.Tensor, k: float) -> torch.Tensor:
    """Return terms bounded by ±k·A; 0 where A is not positive."""
    bound = k * advantages.clamp(min=0)
    return terms.clamp(-bound, bound)


def _nanstd(groups: torch.Tensor) -> torch.Tensor:
    """Return each row's unbiased standard deviation without its NaNs, shape (B, 1); 0 where fewer than two are left."""
    count = (~groups.isnan()).sum(dim=1, keepdim=True)
    deviations = (groups - groups.nanmean(dim=1, keepdim=True)).nan_to_num(nan=0.0)
    return ((deviations**2).sum(dim=1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
