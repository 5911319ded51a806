"""Gymnasium spaces of token ids and of text."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from aster_env.errors import UsageError


class TokenSequence(gym.Space[NDArray[np.int32]]):
    """One-dimensional ``int32`` arrays of token ids, of any length up to a maximum (0 included).

    Args:
        vocab_size: ids are in ``[0, vocab_size)``.
        max_length: the most ids a value may have.
        seed: seeds ``sample``.
    """

    def __init__(self, vocab_size: int, max_length: int, seed: int | np.random.Generator | None = None) -> None:
        if vocab_size < 1 or max_length < 1:
            raise UsageError(
                f"TokenSequence needs positive sizes, got vocab_size={vocab_size}, max_length={max_length}."
            )
        self.vocab_size, self.max_length = vocab_size, max_length
        super().__init__(None, np.int32, seed)

    @property
    def is_np_flattenable(self) -> bool:
        """False: lengths differ."""
        return False

    def sample(self, mask: Any = None, probability: Any = None) -> NDArray[np.int32]:
        """Return random ids; the length is geometric with mean 16, so that samples stay short."""
        length = min(int(self.np_random.geometric(1 / 16)), self.max_length)
        return self.np_random.integers(0, self.vocab_size, length, dtype=np.int32)

    def contains(self, x: Any) -> bool:
        """Whether ``x`` is a one-dimensional integer array (or list of ints) within the bounds."""
        if not isinstance(x, np.ndarray):
            if not isinstance(x, list | tuple) or not all(isinstance(i, int | np.integer) for i in x):
                return False
            x = np.asarray(x, dtype=np.int64)
        if x.ndim != 1 or x.size > self.max_length or not np.issubdtype(x.dtype, np.integer):
            return False
        return bool(x.size == 0 or (x.min() >= 0 and x.max() < self.vocab_size))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, TokenSequence)
            and self.vocab_size == other.vocab_size
            and self.max_length == other.max_length
        )

    def __hash__(self) -> int:
        return hash((self.vocab_size, self.max_length))

    def __repr__(self) -> str:
        return f"TokenSequence({self.vocab_size}, max_length={self.max_length})"


class Unicode(gym.Space[str]):
    """Any text (``gymnasium.spaces.Text`` allows only letters and digits by default).

    Args:
        max_length: the most characters a value may have.
        seed: seeds ``sample``.
    """

    def __init__(self, max_length: int, seed: int | np.random.Generator | None = None) -> None:
        if max_length < 1:
            raise UsageError(f"Unicode needs a positive max_length, got {max_length}.")
        self.max_length = max_length
        super().__init__(None, None, seed)

    @property
    def is_np_flattenable(self) -> bool:
        """False: lengths differ."""
        return False

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """Return random printable text with some newlines and letters outside ASCII."""
        alphabet = [chr(c) for c in range(32, 127)] + ["\n", "é", "λ", "中"]
        length = min(int(self.np_random.geometric(1 / 16)), self.max_length)
        return "".join(alphabet[i] for i in self.np_random.integers(0, len(alphabet), length))

    def contains(self, x: Any) -> bool:
        """Whether ``x`` is a ``str`` that is not too long."""
        return isinstance(x, str) and len(x) <= self.max_length

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unicode) and self.max_length == other.max_length

    def __hash__(self) -> int:
        return hash(self.max_length)

    def __repr__(self) -> str:
        return f"Unicode(max_length={self.max_length})"


def turn_space(view: str, vocab_size: int, max_tokens: int) -> gym.Space[Any]:
    """Return a new space of the turns of an episode of at most ``max_tokens`` tokens.

    Args:
        view: ``"tokens"`` or ``"text"``.
        vocab_size: of the tokenizer.
        max_tokens: of an episode.
    """
    # A character takes at most four bytes, and a token may stand for many characters.
    return TokenSequence(vocab_size, max_tokens) if view == "tokens" else Unicode(64 * max_tokens)
