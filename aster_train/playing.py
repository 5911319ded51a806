"""A batch of episodes on all processes: played, tried again, or given up by all of them alike."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence

from accelerate.utils import gather_object

from aster_env.errors import InfrastructureError
from aster_env.types import StopReason, Trajectory
from aster_train.ranks import raise_together
from aster_train.stopping import Preempted, Stopping


def play(
    once: Callable[[], list[Trajectory]], stopping: Stopping, patience: float, say: Callable[[str], None]
) -> list[Trajectory]:
    """Play a batch of episodes; again, after growing waits, while not one of them can be played.

    Args:
        once: plays this process's part.
        stopping: says whether SIGTERM came.
        patience: seconds after which no other try begins.
        say: prints a line.

    Raises:
        InfrastructureError: not one episode could be played, on any process; or another process failed.
        Preempted: SIGTERM came.
    """
    until = time.monotonic() + patience
    for wait in (2.0 * 2**n for n in itertools.count()):
        trajectories: list[Trajectory] = []
        failure: Exception | None = None
        try:
            trajectories = once()
        except asyncio.CancelledError:
            pass  # what SIGTERM does, which the processes agree on below
        except Exception as error:  # noqa: BLE001 (raised again below, on every process)
            failure = error
        raise_together(failure)
        if stopping.agreed() and stopping.between_batches():
            raise Preempted
        problem = _why_none_was_played(trajectories, last=time.monotonic() + wait > until)
        if problem is None:
            break
        say(f"{problem} Trying again in {wait:g} s.")
        stopping.wait(wait)
    return trajectories


def _why_none_was_played(trajectories: Sequence[Trajectory], *, last: bool) -> str | None:
    """Say why not one episode could be played, on any process, or return None; raise instead if this was the last try.

    Whether it was, the first process decides: one that went on alone would wait for the others.
    """
    failures = gather_object([t.error if t.stop is StopReason.INFRASTRUCTURE else None for t in trajectories])
    if any(failure is None for failure in failures):
        return None
    problem = f"Not one of {len(failures)} episodes could be played. The first failed so: {failures[0]}"
    if gather_object([last])[0]:
        raise InfrastructureError(
            f"{problem} Fix: see to it, then start the run again; it resumes from its last checkpoint."
        )
    return problem
