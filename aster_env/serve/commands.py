"""`aster serve`: one line here, and a module whose ``add_arguments`` sets ``run``, for each service."""

from __future__ import annotations

import argparse
import importlib

SERVICES = {
    "retrieval": (
        "search in a corpus over HTTP, in the wire forms of Tool-Star, Search-R1, GEM and SkyRL",
        "aster_env.retrieval.server.command",
    ),
    "openenv": ("an environment over OpenEnv 0.10, many sessions at once", "aster_env.serve.openenv_command"),
    "mcp": ("the tools of a sandboxed session over MCP, one session a connection", "aster_env.serve.mcp_command"),
}
"""Services: what they do, and the module that adds their arguments."""


def add_serve(parser: argparse.ArgumentParser) -> None:
    """Add the services of `aster serve`."""
    services = parser.add_subparsers(dest="service", metavar="service", required=True)
    for name, (purpose, module) in SERVICES.items():
        added = services.add_parser(name, help=purpose, description=purpose[0].upper() + purpose[1:] + ".")
        importlib.import_module(module).add_arguments(added)
