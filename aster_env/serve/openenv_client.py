"""A typed client of a service: OpenEnv's, with this gym's actions, observations and errors."""

from __future__ import annotations

import re
from typing import Any

from openenv.core.client_types import StepResult
from openenv.core.env_client import EnvClient

from aster_env import errors
from aster_env.serve.openenv_models import AsterAction, AsterObservation, AsterState

_NAMED = re.compile(r"Server error: (\w+): (.*) \(code: \w+\)", re.DOTALL)


class AsterClient(EnvClient[AsterAction, AsterObservation, AsterState]):
    """Plays episodes on a service.

    An infrastructure failure of the service is raised as what it was there (``KernelError``, ``JudgeError``, …); the
    next ``reset`` starts anew.
    """

    def _step_payload(self, action: AsterAction) -> dict[str, Any]:
        return action.model_dump(exclude_none=True)

    def _parse_result(self, payload: dict[str, Any]) -> StepResult[AsterObservation]:
        counts = {"done": payload.get("done", False), "reward": payload.get("reward")}
        observation = AsterObservation(**payload.get("observation", {}), **counts)
        return StepResult(observation=observation, **counts)

    def _parse_state(self, payload: dict[str, Any]) -> AsterState:
        return AsterState(**payload)

    async def _send_and_receive(self, message: dict[str, Any]) -> dict[str, Any]:
        try:
            return await super()._send_and_receive(message)
        except RuntimeError as error:
            raise read_error(str(error)) or error from error


def read_error(text: str) -> errors.InfrastructureError | None:
    """Return the infrastructure failure that a service's error text tells of, if it does."""
    found = _NAMED.fullmatch(text)
    kind = getattr(errors, found[1], None) if found else None
    if found is None or not (isinstance(kind, type) and issubclass(kind, errors.InfrastructureError)):
        return None
    return kind(found[2])
