"""The tool ``python``: runs code in a session that lives as long as the episode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from aster_env.kernels.base import Cell, Kernel, KernelPool
from aster_env.types import ToolResult


class PythonTool:
    """Runs code as a notebook cell; variables persist from call to call.

    The result is what the cell printed, then the value of its last expression or its traceback, as in a notebook. It
    is bounded: of a longer text the head and the tail are shown, with the count of characters between them.

    Args:
        pool: where the session comes from; it is started by the first call.
        timeout: seconds a call may take.
        max_output: characters of a result that the model is shown.

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
        self._pool, self._timeout, self._max_output = pool, timeout, max_output
        self._kernel: Kernel | None = None
        self.losses = 0

    async def __call__(self, **arguments: Any) -> ToolResult:
        """Run ``arguments["code"]``.

        Raises:
            KernelError: no session could be started or reached.
        """
        if self._kernel is None:
            self._kernel = await self._pool.start()
        cell = await self._kernel.execute(arguments["code"], timeout=self._timeout)
        self.losses = self.losses + 1 if cell.state == "lost" else 0
        text, dropped = bound(self._text(cell), self._max_output)
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

    def _text(self, cell: Cell) -> str:
        parts = [cell.stdout, cell.stderr]
        if cell.timed_out:
            kept = "Its variables were kept." if cell.state == "kept" else "Its variables were lost: define them again."
            parts.append(
                f"Error: the code ran longer than {self._timeout:g} s and was stopped. {kept} Use faster code."
            )
        elif cell.error is not None:
            lost = "" if cell.state == "kept" else " Its variables were lost: define them again."
            parts.append(cell.error + lost)
        elif cell.value is not None:
            parts.append(cell.value)
        lines = [part.rstrip("\n") for part in parts if part]
        return "\n".join(lines) or "(no output: print a value, or end the code with an expression)"


def bound(text: str, most: int) -> tuple[str, int]:
    """Return ``text`` cut to ``most`` characters of head and tail, and how many were dropped between them."""
    dropped = len(text) - most
    if dropped <= 0:
        return text, 0
    head, tail = (most + 1) // 2, most // 2
    return f"{text[:head]}\n[… {dropped} characters dropped …]\n{text[len(text) - tail :]}", dropped
