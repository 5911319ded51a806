"""Starts one ipykernel process; run by path, so that a session imports nothing of this package.

Three things a stock kernel lacks are added here: a limit on output at its source, an end of the whole process group
when the parent is gone, and no reaction to lines that are not Python (automagic).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import Any

from ipykernel.displayhook import ZMQShellDisplayHook
from ipykernel.iostream import OutStream
from ipykernel.kernelapp import IPKernelApp
from ipykernel.zmqshell import ZMQInteractiveShell

LIMIT = int(os.environ.pop("ASTER_MAX_OUTPUT", str(1 << 20)))


class OutputLimitExceeded(RuntimeError):
    """A cell printed more than the session allows; raised at each further print."""


class _Budget:
    """Characters that the running cell has printed."""

    def __init__(self) -> None:
        self.printed = 0

    def reset(self) -> None:
        self.printed = 0

    def take(self, text: str) -> str:
        """Return what may still be printed of ``text``."""
        room = max(0, LIMIT - self.printed)
        self.printed += len(text)
        return text[:room]


def shorten(text: str) -> str:
    """Cut the middle out of a text longer than the limit."""
    if len(text) <= LIMIT:
        return text
    half = LIMIT // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters cut …]\n{text[-half:]}"


def bound_output(budget: _Budget) -> None:
    """Bound prints, values and tracebacks before they reach a socket."""
    write = OutStream.write
    write_format_data = ZMQShellDisplayHook.write_format_data
    show_traceback = ZMQInteractiveShell._showtraceback

    def bounded_write(self: Any, string: str) -> int | None:
        if not isinstance(string, str):
            return write(self, string)
        written: int | None = write(self, budget.take(string))
        if budget.printed > LIMIT:
            raise OutputLimitExceeded(f"The cell printed more than {LIMIT} characters. Print less.")
        return written

    def bounded_data(self: Any, format_dict: dict[str, Any], md_dict: Any = None) -> None:
        cut = {kind: shorten(data) if isinstance(data, str) else data for kind, data in format_dict.items()}
        write_format_data(self, cut, md_dict)

    def bounded_traceback(self: Any, etype: Any, evalue: Any, stb: list[str]) -> None:
        message = str(evalue)
        value = evalue if len(message) <= LIMIT else RuntimeError(shorten(message))
        # The frames of this file are nothing to the model.
        lines = stb[-1:] if etype is OutputLimitExceeded else stb
        show_traceback(self, etype, value, [shorten("\n".join(lines))])

    OutStream.write = bounded_write
    ZMQShellDisplayHook.write_format_data = bounded_data
    ZMQInteractiveShell._showtraceback = bounded_traceback


def end_with_parent() -> None:
    """Kill this process group once the parent is gone, children of cells included."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, name="aster-parent", daemon=True).start()


def main() -> None:
    """Start the kernel that the connection file describes."""
    end_with_parent()
    budget = _Budget()
    bound_output(budget)
    app = IPKernelApp.instance()
    app.initialize(sys.argv[1:])
    app.shell.events.register("pre_execute", budget.reset)
    app.start()


if __name__ == "__main__":
    main()
