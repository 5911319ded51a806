"""What an agent sends to a served ASTER/MultiTool-v0, and gets back."""

from __future__ import annotations

from aster_env.serve.openenv_models import AsterAction, AsterObservation, AsterState

MultiToolAction, MultiToolObservation, MultiToolState = AsterAction, AsterObservation, AsterState

__all__ = ["MultiToolAction", "MultiToolObservation", "MultiToolState"]
