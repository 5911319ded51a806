"""When the first call is made: in tokens, in characters, and as a term that falls with the delay."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from typing import Any

import gymnasium as gym

from aster_env.dialects.base import Dialect
from aster_env.errors import UsageError
from aster_env.shaping.base import Shaping, episode_actions, is_call
from aster_env.tokenizers import Tokenizer
from aster_env.types import Trajectory, Turn


class FirstCall(Shaping):
    """Measures the position of an episode's first call; see ``first_call``."""

    def measure(self, trajectory: Trajectory, dialect: Dialect) -> Mapping[str, float]:
        """See ``first_call``."""
        return first_call(trajectory, dialect)


class EarlyCall(Shaping):
    """Measures how early an episode's first call is; see ``early_call``.

    Args:
        env: a ``ToolEnv``, wrapped or not.
        k: how fast the term falls.

    Raises:
        UsageError: the environment is no ``ToolEnv``, or k is not allowed.
    """

    def __init__(self, env: gym.Env[Any, Any], k: float = 5.0) -> None:
        if isinstance(k, bool) or not isinstance(k, int | float) or not (0 < k < math.inf):
            raise UsageError(f"k={k!r} is not allowed. Allowed: a number above 0.")
        self.k = k
        super().__init__(env, k=k)

    def measure(self, trajectory: Trajectory, dialect: Dialect) -> Mapping[str, float]:
        """See ``early_call``."""
        return early_call(trajectory, dialect, k=self.k)


def first_call(trajectory: Trajectory, dialect: Dialect) -> dict[str, float]:
    """Return where the first call of an episode opens, over what the model wrote in all its turns.

    The position and the length that ASPO divides (arXiv:2508.19201).

    Args:
        trajectory: an episode, also a stored one.
        dialect: that it was played in.

    Returns:
        ``first_call/tokens``: sampled tokens before the one that holds the first character of the call's opening;
        ``first_call/characters``: characters before it; both absent without a call. ``length/tokens`` and
        ``length/characters``: all that was sampled.
    """
    measured = {
        "length/tokens": float(sum(len(turn.ids) for turn in trajectory.model_turns)),
        "length/characters": float(sum(len(turn.text) for turn in trajectory.model_turns)),
    }
    found = _find_call(trajectory, dialect)
    if found is not None:
        turn, start, tokens, characters = found
        measured["first_call/tokens"] = float(tokens + token_at(turn, start, dialect.tokenizer))
        measured["first_call/characters"] = float(characters + start)
    return measured


def early_call(trajectory: Trajectory, dialect: Dialect, *, k: float = 5.0) -> dict[str, float]:
    """Return ``early_call``: ψ = exp(-k · offset / length) in characters of the model's text; 0 without a call.

    The bigram version of ASPO asks for a smooth function that falls with the offset of the first call's tag; this is
    one such, chosen here. It is 1 for a call at the very beginning.

    Args:
        trajectory: an episode, also a stored one.
        dialect: that it was played in.
        k: how fast it falls.
    """
    found = _find_call(trajectory, dialect)
    if found is None:
        return {"early_call": 0.0}
    _, start, _, characters = found
    length = sum(len(turn.text) for turn in trajectory.model_turns)
    return {"early_call": math.exp(-k * (characters + start) / length)}


def token_at(turn: Turn, offset: int, tokenizer: Tokenizer) -> int:
    """Return the index of the token that completes the character at ``offset`` of a turn's text.

    A character's bytes may lie in several tokens, and a token may hold many characters, so only the decoding of the
    ids up to a token says how much text there is: log₂(tokens) decodings of parts of the turn.

    Args:
        turn: its text is what its ids decode to.
        offset: below the length of the text.
        tokenizer: of the ids.
    """
    head = turn.text[: offset + 1]

    def holds(count: int) -> bool:
        return tokenizer.decode(turn.ids[:count]).startswith(head)

    return bisect_left(range(1, len(turn.ids)), True, key=holds)


def _find_call(trajectory: Trajectory, dialect: Dialect) -> tuple[Turn, int, int, int] | None:
    """Return the turn of the first call, its opening's offset in it, and the tokens and characters before the turn."""
    tokens = characters = 0
    for turn, actions in episode_actions(trajectory, dialect):
        for action in actions:
            if is_call(action):
                return turn, action.start, tokens, characters
        tokens += len(turn.ids)
        characters += len(turn.text)
    return None
