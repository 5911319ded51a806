"""A client of a served ASTER/PythonMath-v0."""

from __future__ import annotations

from aster_env.serve.openenv_client import AsterClient

PythonMathClient = AsterClient

__all__ = ["PythonMathClient"]
