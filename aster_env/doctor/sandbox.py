"""The sandbox: which layers this machine has, and whether the default pool starts."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from aster_env.errors import AsterError

LEFT_OPEN = {
    "mounts": "sessions see where the host's files lie, and only Landlock keeps them from reading them; files are "
    "bounded one by one, not all together",
    "network": "only seccomp keeps sessions from the host's network",
    "pids": "only Landlock and the user keep sessions from signalling other processes",
    "user": "sessions run as the caller: only Landlock keeps them from its files, and nothing bounds their threads",
    "capabilities": "a session keeps the caller's special rights",
    "limits": "a session may use memory, CPU time and files without bound",
    "landlock": "where there is no tree of its own either, sessions read and write what the caller can",
    "seccomp": "sessions may try every system call: programs, sockets, namespaces, and the bugs of rarely used calls",
    "cgroup": "each session is bounded, all of them together are not: many of them may use up the machine's memory",
}
"""What a session could do, by the layer that is off."""

_ROOT = "run as root (in a container: --cap-add SYS_ADMIN), or sudo sysctl kernel.unprivileged_userns_clone=1"
MENDS = {
    **dict.fromkeys(("mounts", "network", "pids", "user", "capabilities"), _ROOT),
    "limits": "raise the hard limits: ulimit -H -a shows them",
    "landlock": "a Linux of 5.13 or newer with landlock among the words of /sys/kernel/security/lsm",
    "seccomp": "a Linux with CONFIG_SECCOMP_FILTER, on x86-64 or aarch64",
    "cgroup": "run as root, or: systemd-run --user --scope -p Delegate=yes aster …",
}
"""What brings a layer that is off."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One mode of the sandbox: whether it works here, and why not."""

    mode: str
    works: bool | None
    reason: str


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: on or off, why, what stays open when it is off, and what brings it."""

    name: str
    on: bool
    reason: str
    open: str
    fix: str = ""


@dataclass(slots=True)
class Sandbox:
    """What was found.

    Args:
        mode: the mode that the default pool reaches, or None.
        attempts: the modes, best first.
        layers: of the mode reached; or of the last one that failed.
        starts: whether the default pool starts.
        pool: how that went, in words.
        absent: modules that the fork server would preload but cannot, with the reason.
    """

    mode: str | None = None
    attempts: list[Attempt] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)
    starts: bool = False
    pool: str = ""
    absent: dict[str, str] = field(default_factory=dict)


def examine_sandbox(isolation: str = "best", system: str = sys.platform) -> Sandbox:
    """Find out what isolates here; takes a second or two and leaves nothing behind.

    Args:
        isolation: what the pool is asked for, see ``ZygotePool``.
        system: the platform as Python names it.
    """
    report = Sandbox()
    if system != "linux":
        report.pool = f"the default pool needs Linux, and this is {system}"
        report.layers = [Layer(name, False, "needs Linux", "") for name in LEFT_OPEN]
        return report
    try:
        _try_modes(report, isolation)
        report.starts, report.pool = asyncio.run(_try_pool(isolation))
    except (OSError, ImportError) as error:  # no /proc, a Python without ctypes
        report.pool = f"{type(error).__name__}: {error}"
    return report


def _try_modes(report: Sandbox, isolation: str) -> None:
    from aster_env.kernels.forkserver import possible
    from aster_env.kernels.inside.settings import MODES

    for mode in MODES:
        if report.mode is not None or isolation not in ("best", mode):
            why = f"{report.mode} works" if report.mode is not None else f"{isolation} was asked for"
            report.attempts.append(Attempt(mode, None, f"not tried: {why}"))
            continue
        if mode not in possible(MODES):
            report.attempts.append(Attempt(mode, False, "needs root, or CAP_SYS_ADMIN"))
            continue
        message = _first_message(mode)
        works = "ready" in message
        report.attempts.append(Attempt(mode, works, "" if works else str(message["failed"])))
        report.absent = message.get("absent", {})
        found = message.get("layers", {})
        report.layers = [_layer(name, found) for name in dict.fromkeys([*LEFT_OPEN, *found])] if found else []
        report.mode = mode if works else None
    # No session starts, so nothing is left open.
    report.layers = report.layers or [Layer(name, False, "no mode came that far", "") for name in LEFT_OPEN]


def _layer(name: str, found: dict[str, tuple[bool, str]]) -> Layer:
    on, reason = found.get(name, (False, "not tried"))
    open_, fix = ("", "") if on else (LEFT_OPEN.get(name, ""), MENDS.get(name, ""))
    return Layer(name, bool(on), reason, open_, fix)


def _first_message(mode: str, timeout: float = 60.0) -> dict[str, Any]:
    """Start a fork server in ``mode`` and return the first it says, or ``{"failed": why}``."""
    from aster_env.kernels.forkserver import ForkServer
    from aster_env.kernels.zygote import ZygotePool

    try:
        server = ForkServer(ZygotePool().settings, mode)
    except (AsterError, OSError) as error:
        return {"failed": str(error)}
    server.control.settimeout(timeout)
    try:
        received = server.receive()
    except TimeoutError:
        return {"failed": f"no answer within {timeout:g} s"}
    finally:
        server.hang_up()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.process.wait(10)
        server.kill()
    return received[0] if received else {"failed": "it ended while it started"}


async def _try_pool(isolation: str) -> tuple[bool, str]:
    from aster_env.kernels import open_pool

    began = time.perf_counter()
    try:
        async with open_pool("zygote", isolation=isolation) as pool:
            kernel = await pool.start()
            cell = await kernel.execute("1 + 1")
    except (AsterError, OSError) as error:
        return False, str(error)
    if cell.value != "2":
        return False, f"a session answered 1 + 1 with {cell.value!r}: {cell.error}"
    return True, f"it starts; the first answer came after {time.perf_counter() - began:.1f} s"
