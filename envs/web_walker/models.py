"""What an agent sends to a served ASTER/WebWalker-v0, and gets back."""

from __future__ import annotations

from aster_env.serve.openenv_models import AsterAction, AsterObservation, AsterState

WebWalkerAction, WebWalkerObservation, WebWalkerState = AsterAction, AsterObservation, AsterState

__all__ = ["WebWalkerAction", "WebWalkerObservation", "WebWalkerState"]
