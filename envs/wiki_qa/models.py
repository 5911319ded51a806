"""What an agent sends to a served ASTER/WikiQA-v0, and gets back."""

from __future__ import annotations

from aster_env.serve.openenv_models import AsterAction, AsterObservation, AsterState

WikiQAAction, WikiQAObservation, WikiQAState = AsterAction, AsterObservation, AsterState

__all__ = ["WikiQAAction", "WikiQAObservation", "WikiQAState"]
