"""A client of a served ASTER/WikiQA-v0."""

from __future__ import annotations

from aster_env.serve.openenv_client import AsterClient

WikiQAClient = AsterClient

__all__ = ["WikiQAClient"]
