"""A client of a served ASTER/MultiTool-v0."""

from __future__ import annotations

from aster_env.serve.openenv_client import AsterClient

MultiToolClient = AsterClient

__all__ = ["MultiToolClient"]
