"""The protocol that every pool of persistent Python sessions follows."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from aster_env.types import State


@dataclass(frozen=True, slots=True)
class Cell:
    """What one execution gave.

    Args:
        stdout: text printed, bounded by the pool's output limit.
        stderr: text printed to standard error, bounded likewise.
        value: the last expression's plain-text representation, or None.
        error: the traceback without escape codes, or None.
        state: ``"kept"`` if the session's variables survived, ``"lost"`` if the session was replaced.
        seconds: wall time.
        truncated: characters dropped at the source because the output limit was reached.
        timed_out: whether the time limit was hit.
        died: whether the session's process ended during the cell.
    """

    stdout: str = ""
    stderr: str = ""
    value: str | None = None
    error: str | None = None
    state: State = "kept"
    seconds: float = 0.0
    truncated: int = 0
    timed_out: bool = False
    died: bool = False


@runtime_checkable
class Kernel(Protocol):
    """One persistent Python session: variables live from one ``execute`` to the next."""

    async def execute(self, code: str, timeout: float = 30.0) -> Cell:
        """Run ``code`` as a notebook cell, for at most ``timeout`` seconds.

        A failure of the code (a traceback, a time-out, a crash of its own process) is in the Cell.

        Raises:
            KernelError: the session could not be reached or replaced.
        """
        ...

    async def close(self) -> None:
        """End the session and every process it started; calling it twice is harmless."""
        ...


@runtime_checkable
class KernelPool(Protocol):
    """Where sessions come from; an async context manager that leaves no process behind.

    A pool belongs to the event loop it is first used on.
    """

    async def start(self) -> Kernel:
        """Return a fresh session.

        Raises:
            KernelError: no session could be started.
        """
        ...

    async def close(self) -> None:
        """End every session of the pool; calling it twice is harmless."""
        ...

    async def __aenter__(self) -> Self:
        """Open the pool."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the pool."""
        ...


class ClosingPool:
    """What most pools have in common: they open with their first session, and ``async with`` closes them."""

    async def close(self) -> None:
        """End every session of the pool."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
