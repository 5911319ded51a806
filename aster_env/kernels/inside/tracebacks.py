"""Tracebacks in the plain form of IPython (``%xmode Plain``), without escape codes, from the cell's own lines."""

from __future__ import annotations

import linecache
import os
import re
import site
import sys
import sysconfig
import traceback
from types import TracebackType

_CELL = re.compile(r"Cell In\[\d+\]$")
_NOT_SHOWN = ("<frozen importlib", os.path.dirname(os.path.abspath(__file__)))
_MOST_FRAMES, _MOST_CAUSES, _MOST_NESTED, _REPEATS = 40, 8, 2, 3
_LIBRARIES = sorted(
    {os.path.realpath(path) for path in (*site.getsitepackages(), sysconfig.get_path("stdlib"))}, key=len, reverse=True
)


def cell_name(count: int) -> str:
    """Return the file name under which cell ``count`` is compiled."""
    return f"Cell In[{count}]"


def plain(error: BaseException) -> str:
    """Return an exception as IPython's plain mode prints it, with what caused it."""
    parts: list[str] = []
    current: BaseException | None = error
    seen: set[int] = set()
    while current is not None and id(current) not in seen and len(seen) < _MOST_CAUSES:
        seen.add(id(current))
        parts.append(_one(current))
        if current.__cause__ is not None:
            parts.append("\nThe above exception was the direct cause of the following exception:")
            current = current.__cause__
        elif current.__context__ is not None and not current.__suppress_context__:
            parts.append("\nDuring handling of the above exception, another exception occurred:")
            current = current.__context__
        else:
            current = None
    if len(parts) % 2 == 0:
        parts.pop()
    return "\n".join(reversed(parts))


def name_of(error: BaseException, depth: int = 0) -> str:
    """Return the exception's type and message, whatever its ``__str__`` does; of a group also what it holds."""
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 (the message of a class that the model wrote may raise anything)
        message = "<its message could not be made>"
    lines = [f"{type(error).__name__}: {message}" if message else type(error).__name__]
    lines += [note for note in getattr(error, "__notes__", ()) if isinstance(note, str)]
    if isinstance(error, BaseExceptionGroup) and depth < _MOST_NESTED:
        shown = error.exceptions[:_MOST_CAUSES]
        lines += ["  " + name_of(inner, depth + 1).replace("\n", "\n  ") for inner in shown]
    return "\n".join(lines)


def _one(error: BaseException) -> str:
    if isinstance(error, SyntaxError) and isinstance(error.filename, str) and _CELL.match(error.filename):
        return _syntax(error)
    frames = _frames(error.__traceback__)
    head = ["Traceback (most recent call last):", *frames] if frames else []
    return "\n".join([*head, name_of(error)])


def _syntax(error: SyntaxError) -> str:
    lines = [f"  {error.filename}, line {error.lineno}"]
    if error.text:
        text = error.text.rstrip("\n")
        stripped = text.lstrip()
        lines.append("    " + stripped)
        if error.offset:
            lines.append("    " + " " * max(0, error.offset - 1 - (len(text) - len(stripped))) + "^")
    return "\n".join([*lines, f"{type(error).__name__}: {error.msg}"])


def _frames(trace: TracebackType | None) -> list[str]:
    """Return the frames from the first cell on, runs of one line and the middle of long stacks cut short."""
    steps = [(frame.f_code.co_filename, line, frame.f_code.co_name) for frame, line in traceback.walk_tb(trace)]
    steps = [step for step in steps if not step[0].startswith(_NOT_SHOWN)]
    first = next((i for i, (name, _, _) in enumerate(steps) if _CELL.match(name)), len(steps))
    shown: list[str] = []
    repeats = 0
    for before, step in zip([None, *steps[first:]], steps[first:], strict=False):
        repeats = repeats + 1 if step == before else 0
        if repeats < _REPEATS:
            shown.append(_frame(*step))
        elif repeats == _REPEATS:
            shown.append("")
        if repeats >= _REPEATS:
            shown[-1] = f"  [Previous line repeated {repeats - _REPEATS + 1} more times]"
    if len(shown) > _MOST_FRAMES:
        half = _MOST_FRAMES // 2
        shown[half:-half] = [f"  [{len(shown) - 2 * half} frames left out]"]
    return shown


def _frame(name: str, line: int | None, function: str) -> str:
    inside = "" if function == "<module>" else f" in {function}"
    where = f"  {name}, line {line}{inside}" if _CELL.match(name) else f"  File {_short(name)}:{line}{inside}"
    source = linecache.getline(name, line or 0).strip()
    return f"{where}\n    {source}" if source else where


def _short(name: str) -> str:
    """Return a file's name without the folder that Python happens to be installed in."""
    real = os.path.realpath(name)
    for folder in _LIBRARIES:
        if real.startswith(folder + "/"):
            return real[len(folder) + 1 :]
    return os.path.basename(name) if os.path.isabs(name) else name


assert sys.version_info >= (3, 11)
