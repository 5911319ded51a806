"""Starts one ipykernel process; run by path, so that a session imports nothing of this package.

What a stock kernel lacks is added here: a limit on output at its source, with the count of what was dropped in the
reply; output of child processes that is complete when the cell ends; and names of cells that repeat from run to run.
"""

from __future__ import annotations

import codecs
import os
import select
import sys
import threading
from collections import defaultdict
from typing import Any

from ipykernel.compiler import XCachingCompiler
from ipykernel.displayhook import ZMQShellDisplayHook
from ipykernel.iostream import OutStream
from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
from ipykernel.zmqshell import ZMQInteractiveShell

LIMIT = int(os.environ.pop("ASTER_MAX_OUTPUT", str(1 << 20)))
_CHUNK, _PIPE = 1 << 16, 1 << 20


class OutputLimitExceeded(RuntimeError):
    """A cell printed more than the session allows; raised at each further print."""


class _Budget:
    """Characters that the running cell has printed."""

    def __init__(self) -> None:
        self.printed = 0

    @property
    def dropped(self) -> int:
        return max(0, self.printed - LIMIT)

    def reset(self) -> None:
        self.printed = 0

    def take(self, text: str) -> str:
        """Return what may still be printed of ``text``."""
        room = max(0, LIMIT - self.printed)
        self.printed += len(text)
        return text[:room]


budget = _Budget()
_write = OutStream.write
# A chunk is in the pipe or in the hands of who holds this: an empty pipe then means that all was written.
_reading = threading.Lock()
_decoders: defaultdict[int, codecs.IncrementalDecoder] = defaultdict(
    lambda: codecs.getincrementaldecoder("utf-8")("replace")
)


class Kernel(IPythonKernel):
    """A kernel whose replies say how much of a cell's output was dropped."""

    async def do_execute(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Run a cell; its reply comes after all that its child processes wrote while it ran."""
        budget.reset()
        reply: dict[str, Any] = await super().do_execute(*args, **kwargs)
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, OutStream):
                drain(stream)
        return {**reply, "aster_dropped": budget.dropped}


def shorten(text: str) -> str:
    """Cut the middle out of a text longer than the limit."""
    if len(text) <= LIMIT:
        return text
    half = LIMIT // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters cut …]\n{text[-half:]}"


def bounded_write(stream: Any, string: str) -> int | None:
    """Write what the limit allows; past it, raise in the cell's own thread, and only count in any other."""
    if not isinstance(string, str):
        return _write(stream, string)
    written: int | None = _write(stream, budget.take(string))
    if budget.dropped and threading.current_thread() is threading.main_thread():
        raise OutputLimitExceeded(f"The cell printed more than {LIMIT} characters. Print less.")
    return written


def watch_pipe(stream: Any) -> None:
    """Pass on what child processes and native code write to the file descriptor; runs in a thread of the stream."""
    while True:
        select.select([stream._fid], [], [])
        if not stream._should_watch:
            return
        pass_on(stream, _CHUNK)


def pass_on(stream: Any, most: int) -> int:
    """Take up to ``most`` bytes from the pipe, if there are any, and write them; return how many there were."""
    with _reading:
        if not select.select([stream._fid], [], [], 0)[0]:
            return 0
        data = os.read(stream._fid, most)
        _write(stream, budget.take(_decoders[stream._fid].decode(data)))
        return len(data)


def drain(stream: Any) -> None:
    """Pass on what is in the pipe; no more than a pipe can hold, for a process left running may write for ever."""
    left = _PIPE if stream._fid is not None else 0
    while left > 0 and (count := pass_on(stream, min(left, _CHUNK))):
        left -= count


def bound_output() -> None:
    """Bound prints, values and tracebacks before they reach a socket."""
    write_format_data = ZMQShellDisplayHook.write_format_data
    show_traceback = ZMQInteractiveShell._showtraceback

    def bounded_data(self: Any, format_dict: dict[str, Any], md_dict: Any = None) -> None:
        cut = {kind: shorten(data) if isinstance(data, str) else data for kind, data in format_dict.items()}
        write_format_data(self, cut, md_dict)

    def bounded_traceback(self: Any, etype: Any, evalue: Any, stb: list[str]) -> None:
        message = str(evalue)
        value = evalue if len(message) <= LIMIT else RuntimeError(shorten(message))
        # The frames of this file are nothing to the model.
        entries = stb[-1:] if etype is OutputLimitExceeded else stb
        # Each ends with a line break of its own; IPython's joining would put an empty line after it.
        text = "\n".join(entry.removesuffix("\n") for entry in entries)
        show_traceback(self, etype, value, [shorten(text)])

    OutStream.write = bounded_write
    OutStream._watch_pipe_fd = watch_pipe
    ZMQShellDisplayHook.write_format_data = bounded_data
    ZMQInteractiveShell._showtraceback = bounded_traceback


def cell_name(_compiler: Any, _raw: str, _code: str, number: int) -> str:
    """Name a cell as tracebacks do; ipykernel would use a folder and its process id, which warnings then show."""
    return f"Cell In[{number}]"


def main() -> None:
    """Start the kernel that the connection file describes."""
    bound_output()
    XCachingCompiler.get_code_name = cell_name
    app = IPKernelApp.instance(kernel_class=Kernel)
    app.initialize(sys.argv[1:])
    app.start()


if __name__ == "__main__":
    main()
