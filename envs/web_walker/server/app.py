"""ASTER/WebWalker-v0 over OpenEnv: ``python -m server.app`` in its folder, or ``uvicorn server.app:app``."""

from __future__ import annotations

from aster_env.serve import openenv_command
from aster_env.serve.openenv_app import folder_app

ENV_ID = "ASTER/WebWalker-v0"
app = folder_app(ENV_ID)


def main() -> int:
    """Serve until SIGTERM; see ``--help``."""
    return openenv_command.main(ENV_ID)


if __name__ == "__main__":
    raise SystemExit(main())
