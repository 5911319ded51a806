"""Reading an action, whatever form a caller gives it."""

from __future__ import annotations

from typing import Any

import numpy as np

from aster_env.errors import UsageError
from aster_env.tokenizers import Tokenizer


def read_action(
    action: Any, view: str, tokenizer: Tokenizer
) -> tuple[tuple[int, ...], tuple[float, ...] | None, float]:
    """Return an action's ids, log-probabilities (None if unknown) and generation seconds.

    Args:
        action: ids, a ``Completion``, or with ``view="text"`` a string.
        view: the environment's.
        tokenizer: bounds the ids, and encodes a string.

    Raises:
        UsageError: the action is none of these, or an id is out of range.
    """
    if hasattr(action, "ids"):
        return tuple(int(i) for i in action.ids), action.logprobs, float(getattr(action, "seconds", 0.0))
    if view == "text":
        if not isinstance(action, str):
            raise UsageError(f"With view='text' an action is a str, not a {type(action).__name__}.")
        return tuple(tokenizer.encode(action)), None, 0.0
    if not isinstance(action, np.ndarray | list | tuple):
        raise UsageError(f"An action is a sequence of token ids, not a {type(action).__name__}.")
    ids = np.asarray(action)
    if ids.size and (ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer)):
        raise UsageError(f"An action is one-dimensional and of integers, not {ids.dtype} of shape {ids.shape}.")
    if ids.size and not (ids.min() >= 0 and ids.max() < tokenizer.vocab_size):
        raise UsageError(
            f"An action holds ids from {ids.min()} to {ids.max()}. Allowed: 0 to {tokenizer.vocab_size - 1}."
        )
    return tuple(int(i) for i in ids), None, 0.0
