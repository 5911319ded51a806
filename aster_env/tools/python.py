"""The tool ``python``: runs code in a session that lives as long as the episode."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from aster_env.errors import UsageError
from aster_env.kernels.base import Cell, Kernel, KernelPool
from aster_env.types import ToolResult

_KEPT = "state: kept. Variables hold what they held when the code was stopped."
_LOST = "state: lost. A new session is ready without your variables and imports: define again what you need."
_NOTHING = "(no output: print a value, or end the code with an expression)"


class PythonTool:
    """Runs code as a notebook cell; variables persist from call to call.

    The result is what the cell printed, then the value of its last expression or its traceback, as in a notebook. It
    is bounded: of a longer text the head and the tail are shown, with the count of characters between them. After a
    time-out or the loss of the session, its last line says whether the state was kept or lost, and what to do.

    Args:
        pool: where the session comes from; it is started by ``start``, or the first call.
        timeout: seconds a call may take.
        max_output: characters of a result that the model is shown.

    Raises:
        UsageError: a limit is not allowed.

    Attributes:
        losses: sessions in a row that the model's code destroyed.
    """

    name = "python"
    aliases: tuple[str, ...] = ("code_interpreter",)
    schema: ClassVar[Mapping[str, Any]] = {
        "name": "python",
        "description": (
            "Runs Python code in a session that keeps its variables from call to call, like the cells of a notebook. "
            "Returns what the code prints and the value of its last expression."
        ),
        "parameters": {
            "type": "object",
            "properties": {"code": {"type": "string", "description": "The Python code to run."}},
            "required": ["code"],
        },
    }

    def __init__(self, pool: KernelPool, timeout: float = 30.0, max_output: int = 8192) -> None:
        check_call_limits(timeout, max_output)
        self._pool, self._timeout, self._max_output = pool, timeout, max_output
        self._kernel: Kernel | None = None
        self.losses = 0

    async def start(self) -> None:
        """Start the session now instead of with the first call; harmless twice.

        Raises:
            KernelError: no session could be started.
        """
        if self._kernel is None:
            self._kernel = await self._pool.start()

    async def __call__(self, **arguments: Any) -> ToolResult:
        """Run ``arguments["code"]``.

        Raises:
            KernelError: no session could be started or reached.
        """
        await self.start()
        assert self._kernel is not None
        cell = await self._kernel.execute(arguments["code"], timeout=self._timeout)
        self.losses = self.losses + 1 if cell.state == "lost" else 0
        shown, dropped = bound(cell_text(cell), self._max_output)
        text = "\n".join(filter(None, (shown, *self._notes(cell)))) or _NOTHING
        ok = cell.error is None and not cell.timed_out
        return ToolResult(text, ok, cell.state, cell.seconds, dropped + cell.truncated, cell.timed_out)

    async def reset(self) -> None:
        """End the session; the next call starts a fresh one."""
        kernel, self._kernel = self._kernel, None
        self.losses = 0
        if kernel is not None:
            await kernel.close()

    async def close(self) -> None:
        """End the session; calling it twice is harmless."""
        await self.reset()

    def _notes(self, cell: Cell) -> list[str]:
        """Say what the cell's own text does not: what was dropped, the time limit, and what became of the state."""
        notes = []
        if cell.truncated:
            notes.append(f"[… {cell.truncated} further characters of output were dropped …]")
        if cell.timed_out:
            notes.append(f"Error: the code ran longer than {self._timeout:g} s and was stopped. Use faster code.")
        if cell.state == "lost":
            notes.append(_LOST)
        elif cell.timed_out:
            notes.append(_KEPT)
        return notes


def cell_text(cell: Cell) -> str:
    """Return what a notebook shows of a cell: its output, then its value or what ended it."""
    # The interrupt of a cell out of time is told in words of its own; its traceback says only where the code was.
    interrupted = cell.timed_out and cell.state == "kept"
    ended = cell.value if cell.error is None else None if interrupted else cell.error
    return "\n".join(part.rstrip("\n") for part in (cell.stdout, cell.stderr, ended) if part)


def check_call_limits(timeout: Any, max_output: Any) -> None:
    """Raise ``UsageError`` for a time limit or a bound on output that is not allowed."""
    number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if not number or not 0 < timeout < math.inf:
        raise UsageError(f"timeout={timeout!r} is not allowed. Allowed: seconds, above 0.")
    if not isinstance(max_output, int) or isinstance(max_output, bool) or max_output < 1:
        raise UsageError(f"max_output={max_output!r} is not allowed. Allowed: an integer of at least 1.")


def bound(text: str, most: int) -> tuple[str, int]:
    """Return ``text`` cut to ``most`` characters of head and tail, and how many were dropped between them."""
    dropped = len(text) - most
    if dropped <= 0:
        return text, 0
    head, tail = (most + 1) // 2, most // 2
    return f"{text[:head]}\n[… {dropped} characters dropped …]\n{text[len(text) - tail :]}", dropped
