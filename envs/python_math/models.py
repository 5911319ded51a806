"""What an agent sends to a served ASTER/PythonMath-v0, and gets back."""

from __future__ import annotations

from aster_env.serve.openenv_models import AsterAction, AsterObservation, AsterState

PythonMathAction, PythonMathObservation, PythonMathState = AsterAction, AsterObservation, AsterState

__all__ = ["PythonMathAction", "PythonMathObservation", "PythonMathState"]
