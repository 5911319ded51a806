"""Failures that all processes of a run learn of: one that failed alone would leave the others waiting for it."""

from __future__ import annotations

from accelerate.utils import gather_object

from aster_env.errors import InfrastructureError


def raise_together(failure: Exception | None) -> None:
    """Raise on every process if one has failed: its own failure there, and what it said on the others.

    Collective: every process must call it. A process whose episodes end early waits here for the longest.

    Args:
        failure: what happened here, or None.

    Raises:
        ElsewhereError: another process failed.
    """
    said = gather_object([None if failure is None else f"{type(failure).__name__}: {failure}"])
    if failure is not None:
        raise failure
    for rank, text in enumerate(said):
        if text is not None:
            raise ElsewhereError(f"Process {rank} of {len(said)} failed, and this one ends with it. It said: {text}")


class ElsewhereError(InfrastructureError):
    """Another process of the run failed."""
