"""ASTER's clipped objective as pure functions of tensors: what TRL's settings ask of its loss, to check it against.

``train.delta: 10`` is dual-clip, and ``train.vllm_importance_sampling_mode: token_truncate`` with
``vllm_importance_sampling_clip_max: 2`` is truncated importance sampling; the trainer computes both in TRL.
"""

from __future__ import annotations

import torch


def dual_clip(ratio: torch.Tensor, advantage: torch.Tensor, low: float, high: float, c: float) -> torch.Tensor:
    """Return the objective of each token, which training maximises.

    PPO's min(r·A, clip(r, 1 - low, 1 + high)·A), and where A < 0 no less than c·A, so that one token whose ratio
    exploded does not decide the update (Ye et al., arXiv:1912.09729). ASTER (arXiv:2602.01204): low 0.2,
    high 0.28, c = 10.

    Args:
        ratio: r, each token's probability in the model over its probability when it was sampled; shape (B, T).
        advantage: A, of a shape that broadcasts against it.
        low: how far below 1 a ratio counts.
        high: how far above 1 a ratio counts.
        c: the bound where A < 0; above 1 + high.

    Returns:
        Shape (B, T).

    Raises:
        ValueError: c is not above 1 + high.
    """
    if c <= 1 + high:
        raise ValueError(f"c={c} is not above 1 + high = {1 + high}")
    clipped = torch.min(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)
    return torch.where(advantage < 0, torch.max(clipped, c * advantage), clipped)


def truncated_weights(ratio: torch.Tensor, cap: float) -> torch.Tensor:
    """Return min(r, cap), the weight of each token that another engine sampled.

    Truncated importance sampling (Ionides, 2008, Journal of Computational and Graphical Statistics 17(2)), as ASTER
    (arXiv:2602.01204) corrects for the difference between engine and trainer, with a cap of 2.

    Args:
        ratio: r, each token's probability in the trainer over that in the engine; shape (B, T).
        cap: the largest weight.

    Returns:
        Shape (B, T).
    """
    return ratio.clamp(max=cap)
