"""The host's handle on a fork server: its process, its control socket, and the layers it could lay."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from aster_env.errors import KernelError
from aster_env.kernels.inside import cgroup
from aster_env.kernels.inside.linux import CAP_SYS_ADMIN, capabilities
from aster_env.kernels.inside.settings import MODES, Settings

_KEEPER = str(Path(__file__).with_name("inside") / "keeper.py")
_PACKAGE = str(Path(__file__).parents[1])
_MOST_FDS = 2

PRELOAD = (
    "numpy", "sympy", "scipy", "scipy.special", "scipy.optimize", "scipy.linalg", "IPython.lib.pretty", "fractions",
    "decimal", "statistics", "itertools", "collections", "matplotlib",
)  # fmt: skip
"""Modules that a fork server loads once for all its sessions; one that is not installed is left out."""


class ForkServer:
    """A running fork server; ``launch`` starts one and waits for it.

    Args:
        settings: limits of its sessions; the folder is made here.
        mode: one of ``MODES``.
    """

    def __init__(self, settings: Settings, mode: str) -> None:
        try:
            self.folder = tempfile.mkdtemp(prefix="aster-")
            self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            raise KernelError(f"The fork server could not be started: {error}") from error
        self.settings, self.mode = replace(settings, folder=self.folder), mode
        self.layers: dict[str, tuple[bool, str]] = {}
        self.groups: list[str] = []
        arguments = [str(theirs.fileno()), str(os.getpid()), mode, self.settings.to_json()]
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-s", "-P", _KEEPER, *arguments],
                pass_fds=[theirs.fileno()],
                env=_environment(),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            self.control.close()
            os.rmdir(self.folder)
            raise KernelError(f"The fork server could not be started: {error}") from error
        finally:
            theirs.close()

    def send(self, message: dict[str, Any], fds: list[int]) -> None:
        """Send a request with descriptors.

        Raises:
            KernelError: the fork server is gone.
        """
        try:
            socket.send_fds(self.control, [json.dumps(message).encode()], fds)
        except OSError as error:
            raise KernelError(f"The fork server is gone: {error}") from error

    def receive(self) -> tuple[dict[str, Any], list[int]] | None:
        """Return the next message and its descriptors; None when the fork server is gone.

        Raises:
            BlockingIOError: nothing is there, on a socket that does not block.
        """
        try:
            data, fds, _, _ = socket.recv_fds(self.control, 1 << 16, _MOST_FDS, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            return None
        if not data:
            return None
        message: dict[str, Any] = json.loads(data)
        return message, fds

    def accept(self, message: dict[str, Any] | None) -> str | None:
        """Take the first message; None if the fork server is ready, else why it is not."""
        if message is None or "ready" not in message:
            return str(message["failed"]) if message else "it ended while it started"
        self.layers = {name: (bool(on), str(reason)) for name, (on, reason) in message["layers"].items()}
        self.groups = [str(folder) for folder in message["groups"]]
        return None

    def hang_up(self) -> None:
        """Tell the fork server to end; ``process`` ends after it."""
        # Processes that the host forked meanwhile hold copies of the socket: closing it alone would not be seen.
        with contextlib.suppress(OSError):
            self.control.shutdown(socket.SHUT_RDWR)
        self.control.close()

    def kill(self) -> None:
        """End it without being asked, and clean up."""
        self.hang_up()
        self.process.kill()
        self.process.wait()
        self.clean()

    def clean(self) -> None:
        """Remove what an ended fork server left, which is something only if it was killed."""
        cgroup.remove(self.groups)
        if os.path.isdir(self.folder):
            subprocess.run(["rm", "-rf", "--", self.folder], check=False)


def launch(settings: Settings, modes: tuple[str, ...] = MODES, timeout: float = 60.0) -> ForkServer:
    """Start a fork server in the first of ``modes`` that works here, and wait for it.

    Raises:
        KernelError: none works; the text says why each did not.
    """
    reasons = []
    for mode in possible(modes):
        server = ForkServer(settings, mode)
        server.control.settimeout(timeout)
        try:
            received = server.receive()
        except TimeoutError:
            received = None
        reason = server.accept(received[0] if received else None)
        if reason is None:
            server.control.settimeout(None)
            return server
        server.kill()
        reasons.append(f"{mode}: {reason}")
    raise KernelError(refusal(reasons))


def possible(modes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the modes that are worth trying."""
    if len(modes) > 1 and not capabilities() >> CAP_SYS_ADMIN & 1:
        return tuple(mode for mode in modes if mode != "privileged")
    return modes


def refusal(reasons: list[str]) -> str:
    """Return the error text for a machine where no mode works."""
    return (
        f"Python sessions cannot be isolated on this machine ({'; '.join(reasons)}). `aster doctor` shows every layer. "
        "Fix: a Linux with Landlock and seccomp (5.13 or newer); or pass allow_unsandboxed=True to run without."
    )


def hidden() -> tuple[str, ...]:
    """Return the folders that no session may read: this project, with its tasks and graders."""
    found = {_PACKAGE}
    for name in ("aster_train", "envs"):
        beside = os.path.join(os.path.dirname(_PACKAGE), name)
        if os.path.isdir(beside):
            found.add(beside)
    return tuple(sorted(found))


def _environment() -> dict[str, str]:
    """Return the sessions' whole environment: nothing of the host's."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1")
    return {
        **threads,
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": "/tmp",
        "TMPDIR": "/tmp",
        "MPLBACKEND": "Agg",
        "MALLOC_ARENA_MAX": "1",  # an arena a thread would use up the address space that a session may have
        "PYTHONHASHSEED": "0",  # the order of a set is the same in every session
        "PYTHONDONTWRITEBYTECODE": "1",
    }
