"""A client of a served ASTER/WebWalker-v0."""

from __future__ import annotations

from aster_env.serve.openenv_client import AsterClient

WebWalkerClient = AsterClient

__all__ = ["WebWalkerClient"]
