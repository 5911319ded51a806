"""What `aster doctor` finds out: which layers of the sandbox this machine has, and whether the default pool starts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from importlib import metadata
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

EXTRAS = {
    "torch": "training",
    "transformers": "training, tokenizers",
    "vllm": "fast sampling",
    "ray": "the kernel pool 'ray'",
    "jupyter-kernel-gateway": "a server for the kernel pool 'gateway'",
}
"""Optional packages, and what they are for."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One mode of the sandbox: whether it works here, and why not."""

    mode: str
    works: bool | None
    reason: str


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: on or off, why, and what stays open when it is off."""

    name: str
    on: bool
    reason: str
    open: str


@dataclass(frozen=True, slots=True)
class Extra:
    """An optional package: its version if it is installed, and how to get it."""

    package: str
    version: str | None
    purpose: str
    fix: str


@dataclass(slots=True)
class Report:
    """All that `aster doctor` found.

    Args:
        system: name, Python, processors, memory.
        mode: the mode that the default pool reaches, or None.
        attempts: the modes, best first.
        layers: of the mode reached; or of the last one that failed.
        starts: whether the default pool starts.
        pool: how that went, in words.
        absent: modules that the fork server would preload but cannot, with the reason.
        extras: optional packages.
    """

    system: dict[str, str]
    mode: str | None = None
    attempts: list[Attempt] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)
    starts: bool = False
    pool: str = ""
    absent: dict[str, str] = field(default_factory=dict)
    extras: list[Extra] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return asdict(self)


def examine(isolation: str = "best", system: str = sys.platform) -> Report:
    """Find out what works on this machine; takes a few seconds and leaves nothing behind.

    Args:
        isolation: what the pool is asked for, see ``ZygotePool``.
        system: the platform as Python names it.
    """
    report = Report(_system(), extras=list(_extras()))
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


def _try_modes(report: Report, isolation: str) -> None:
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
    return Layer(name, bool(on), reason, "" if on else LEFT_OPEN.get(name, ""))


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


def _system() -> dict[str, str]:
    found = {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_version()} ({sys.executable})",
        "processors": str(os.cpu_count()),
    }
    with contextlib.suppress(ValueError, AttributeError, OSError):
        found["memory"] = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    return found


def _extras() -> Iterable[Extra]:
    bringers = _bringers()
    for package, purpose in EXTRAS.items():
        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError:
            version = None
        extra = bringers.get(package)
        fix = f"pip install 'aster-gym[{extra}]'" if extra else f"pip install {package}"
        yield Extra(package, version, purpose, fix)


def _bringers() -> dict[str, str]:
    """Return the extra of this project that brings a package, by package; those of developers count last."""
    found: dict[str, str] = {}
    with contextlib.suppress(metadata.PackageNotFoundError):
        for line in metadata.requires("aster-gym") or ():
            package, extra = re.match(r"[\w.-]+", line), re.search(r"extra == ['\"]([\w-]+)['\"]", line)
            if package and extra and found.get(package[0], "dev") == "dev":
                found[package[0]] = extra[1]
    return found


def text(report: Report) -> str:
    """Return the report for people."""
    lines = [f"{name:<12}{value}" for name, value in report.system.items()]
    lines += ["", "Modes of the sandbox, best first"]
    marks = {True: "works", False: "fails", None: "-"}
    lines += [f"  {marks[a.works]:<6}{a.mode:<12}{a.reason}".rstrip() for a in report.attempts] or ["  none"]
    lines += ["", f"Layers around a session ({report.mode or 'no mode works'})"]
    for layer in report.layers:
        lines.append(f"  {'on' if layer.on else 'OFF':<6}{layer.name:<14}{layer.reason}")
        lines += [f"  {'':<6}{'':<14}left open: {layer.open}"] if layer.open else []
    lines += ["", "Default pool", f"  {'works' if report.starts else 'FAILS':<6}{report.pool}"]
    lines += [f"        not preloaded: {name}: {why}" for name, why in report.absent.items()]
    lines += ["", "Optional packages"]
    for extra in report.extras:
        got = extra.version or f"not installed: {extra.fix}"
        lines.append(f"  {extra.package:<24}{got}  ({extra.purpose})")
    lines += ["", "What the layers do and do not protect against: docs/security.md"]
    return "\n".join(lines)
