"""Shaping terms: what an episode's actions are measured by, as Gymnasium wrappers and as plain functions.

::

    env = FirstCall(gym.make("ASTER/PythonMath-v0"))      # also several, one around the other
    info["shaping"]["first_call/tokens"]                  # on the episode's last step

    first_call(trajectory, make_dialect("hermes", tokenizer))     # of a stored trajectory

In a ``ToolVectorEnv``, put one around each of its ``envs``. They only measure: ``aster_train.shaping`` makes the
advantage of it. An episode that ends by an infrastructure failure is not measured.
"""

from __future__ import annotations

from aster_env.shaping.base import Shaping, episode_actions
from aster_env.shaping.calls import EarlyCall, FirstCall, early_call, first_call
from aster_env.shaping.pairs import Bigrams, bigrams

__all__ = ["Bigrams", "EarlyCall", "FirstCall", "Shaping", "bigrams", "early_call", "episode_actions", "first_call"]
