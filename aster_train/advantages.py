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


def shaped(advantages: torch.Tensor, terms: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return A + Σ λ_k φ_k, for shaping terms of shape (B·G, K) and weights λ of shape (K,).

    An episode's shaping is added after normalisation (ASPO, arXiv:2508.19201): inside the reward, division by the
    group's standard deviation would change its size from group to group. NaN counts as 0.
    """
    return advantages + (terms.nan_to_num(nan=0.0) * weights).sum(dim=-1)


def zero_variance(rewards: torch.Tensor, group_size: int) -> torch.Tensor:
    """Return, for each of the B groups, whether its scored episodes all have the same reward: no signal."""
    return _nanstd(_grouped(rewards, group_size)).flatten() < 1e-8


def _grouped(rewards: torch.Tensor, group_size: int) -> torch.Tensor:
    if rewards.ndim != 1 or group_size < 1 or len(rewards) % group_size:
        raise ValueError(f"rewards of shape {tuple(rewards.shape)} do not divide into groups of {group_size}")
    return rewards.view(-1, group_size)


def _nanstd(groups: torch.Tensor) -> torch.Tensor:
    """Return each row's unbiased standard deviation without its NaNs, shape (B, 1); 0 where fewer than two are left."""
    count = (~groups.isnan()).sum(dim=1, keepdim=True)
    deviations = (groups - groups.nanmean(dim=1, keepdim=True)).nan_to_num(nan=0.0)
    return ((deviations**2).sum(dim=1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
