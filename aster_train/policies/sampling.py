"""Sampling that depends on an episode's own seed and position alone, not on who else is in the batch."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray


def uniforms(seeds: NDArray[np.uint64], positions: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Return one number in [0, 1) for each (seed, position), by the finaliser of SplitMix64.

    Args:
        seeds: shape (B,).
        positions: shape (B,): how many tokens stand before the one sampled.
    """
    with np.errstate(over="ignore"):
        state = seeds * np.uint64(0xD1B54A32D192ED03) + (positions + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
        state ^= state >> np.uint64(31)
    result: NDArray[np.float64] = (state >> np.uint64(11)) / float(1 << 53)
    return result


def sample(
    logits: torch.Tensor, uniform: torch.Tensor, temperature: float, top_p: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample one id a row by inverting the cumulative distribution.

    Args:
        logits: shape (B, V).
        uniform: shape (B,), in [0, 1).
        temperature: 0 takes the most likely id.
        top_p: keep the smallest set of ids whose probability reaches this (nucleus sampling, arXiv 1904.09751).

    Returns:
        ids and their log-probabilities, shape (B,): under the distribution at this temperature before ``top_p``
        cuts it, which is what a trainer recomputes; at temperature 0, under that at temperature 1.
    """
    logprobs = torch.log_softmax(logits.float() / (temperature or 1.0), dim=-1)
    if temperature == 0:
        ids = logprobs.argmax(dim=-1)
    else:
        probabilities = logprobs.double().exp()
        if top_p < 1:
            ordered, order = probabilities.sort(dim=-1, descending=True)
            before = ordered.cumsum(dim=-1) - ordered
            kept = torch.zeros_like(probabilities).scatter(-1, order, (before < top_p).double())
            probabilities = probabilities * kept
        total = probabilities.cumsum(dim=-1)
        # The largest cumulative value can fall short of 1 by rounding; scaling by it keeps the id in range.
        target = uniform.double().unsqueeze(-1) * total[:, -1:]
        ids = torch.searchsorted(total, target, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)
    return ids, logprobs.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
