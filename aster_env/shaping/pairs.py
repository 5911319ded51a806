"""Which action follows which in an episode."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from aster_env.dialects.base import THINK, Dialect
from aster_env.shaping.base import Shaping, episode_actions
from aster_env.types import Trajectory


class Bigrams(Shaping):
    """Measures which pairs of actions follow one another in an episode; see ``bigrams``."""

    def measure(self, trajectory: Trajectory, dialect: Dialect) -> Mapping[str, float]:
        """See ``bigrams``."""
        return bigrams(trajectory, dialect)


def bigrams(trajectory: Trajectory, dialect: Dialect) -> dict[str, float]:
    """Return the pairs of actions that follow one another in an episode, over all its turns.

    The actions are think, each call by its tool's name, and answer; results are none. Thinks that follow one another
    are one, also from one turn to the next (a call between them was refused).

    Args:
        trajectory: an episode, also a stored one.
        dialect: that it was played in.

    Returns:
        1.0 for each pair that occurs, under ``bigram/python>think``, say; and under ``ends/python>answer`` for the
        last two actions. What does not occur is absent.
    """
    kinds: list[str] = []
    for _, actions in episode_actions(trajectory, dialect):
        for action in actions:
            if not (action.kind == THINK and kinds[-1:] == [THINK]):
                kinds.append(action.kind)
    pairs = [f"{first}>{second}" for first, second in pairwise(kinds)]
    ends = {f"ends/{pairs[-1]}": 1.0} if pairs else {}
    return {**{f"bigram/{pair}": 1.0 for pair in pairs}, **ends}
