"""One line of what `aster doctor` finds, and what the sections share."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

STATUSES = ("ok", "warn", "bad", "absent")
"""How a line can end: ``absent`` is what need not be there, or was not found out."""
MOST = 1 << 16
"""Bytes that are read of a program's output."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line.

    Args:
        area: the heading that it stands under.
        name: what was looked at.
        status: one of ``STATUSES``.
        says: what was found, or what is wrong.
        fix: the command that mends it, or what to do; empty where nothing is wrong.
        demanded: whether the caller asked for it by name, so that its failure is the command's.
    """

    area: str
    name: str
    status: str
    says: str
    fix: str = ""
    demanded: bool = False


def clean(text: str, most: int = 300) -> str:
    """Return text that a terminal shows as it is: one line, no control characters, at most ``most`` long."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text[: 4 * most])
    shown = " ".join(shown.split())
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def output(command: Sequence[str], seconds: float) -> tuple[int, str]:
    """Run a program and return its status and the beginning of what it printed, errors included.

    It runs in a group of its own, which is killed at the end: nothing that it started holds this up.

    Raises:
        TimeoutError: it did not end in time.
        OSError: it could not be started.
    """
    deadline = time.monotonic() + seconds
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(command, start_new_session=True, **pipes)  # type: ignore[call-overload]
    try:
        printed = _read(process.stdout.fileno(), deadline)
        # One that prints on and on ends here.
        process.stdout.close()
        return process.wait(max(0.0, deadline - time.monotonic())), printed.decode(errors="replace")
    except subprocess.TimeoutExpired as error:
        raise TimeoutError from error
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
        # One that hangs in a driver cannot be killed, and is not waited for.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.5)


def _read(descriptor: int, deadline: float) -> bytes:
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    read = bytearray()
    while len(read) < MOST:
        if not waiting.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError
        piece = os.read(descriptor, MOST)
        if not piece:
            break
        read += piece
    return bytes(read)
