"""Episodes for agents that have a loop of their own, and for the evaluation libraries that bring such agents."""

from __future__ import annotations

from aster_env.adapters.scoring import Scored, score
from aster_env.adapters.session import ToolSession

__all__ = ["Scored", "ToolSession", "score"]
