"""What `aster doctor` finds out: whether all that a run needs is here, and the command that mends what is not."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from aster_env.doctor.findings import STATUSES, Finding
from aster_env.doctor.machine import disks, gpu, python, resources
from aster_env.doctor.packages import installed
from aster_env.doctor.sandbox import LEFT_OPEN, Sandbox, examine_sandbox
from aster_env.doctor.services import endpoints, keys, secrets

__all__ = ["LEFT_OPEN", "STATUSES", "Finding", "Report", "examine", "text"]

PATIENCE = 4.0
"""Seconds for all sections but the sandbox; one that hangs is told as hanging."""
AREAS = ("Python", "Machine", "GPU", "Packages", "Endpoints", "Keys", "Disk")
"""The headings, in order."""


@dataclass(slots=True)
class Report:
    """All that `aster doctor` found.

    Args:
        findings: one for each line but the sandbox's.
        sandbox: the layers, and whether the default pool starts.
    """

    findings: list[Finding] = field(default_factory=list)
    sandbox: Sandbox = field(default_factory=Sandbox)

    @property
    def starts(self) -> bool:
        """Whether the default pool starts."""
        return self.sandbox.starts

    @property
    def fine(self) -> bool:
        """Whether the default pool starts and every endpoint that was asked for by name serves."""
        return self.starts and not any(found.demanded and found.status == "bad" for found in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {"fine": self.fine, **asdict(self.sandbox), "findings": [asdict(found) for found in self.findings]}


def examine(isolation: str = "best", system: str = sys.platform, wanted: Sequence[str] = ()) -> Report:
    """Find out what works on this machine; takes less than five seconds and leaves nothing behind.

    Args:
        isolation: what the pool is asked for, see ``ZygotePool``.
        system: the platform as Python names it.
        wanted: addresses of endpoints that must serve.
    """
    sections = {
        "Python": python,
        "Machine": resources,
        "GPU": gpu,
        "Packages": installed,
        "Endpoints": lambda: endpoints(wanted),
        "Keys": keys,
        "Disk": disks,
    }
    deadline = time.monotonic() + PATIENCE
    running = {area: _start(look) for area, look in sections.items()}
    sandbox = examine_sandbox(isolation, system)
    found: list[Finding] = []
    for area in AREAS:
        thread, lines = running[area]
        thread.join(max(0.0, deadline - time.monotonic()))
        found += list(lines)
        if thread.is_alive():
            says = f"no answer within {PATIENCE:g} s"
            found.append(Finding(area, "all of it", "bad", says, "df -h, nvidia-smi and the like show what hangs"))
    hidden = secrets()
    return Report([_hide(line, hidden) for line in found], sandbox)


def _start(look: Callable[[], Iterable[Finding]]) -> tuple[threading.Thread, list[Finding]]:
    """Look in a thread of its own, which nobody waits for if a disk or a driver never answers."""
    lines: list[Finding] = []

    def run() -> None:
        for line in look():
            lines.append(line)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, lines


def _hide(line: Finding, hidden: Sequence[str]) -> Finding:
    """Take out what must not be shown, wherever it came from: a server may say a key back."""
    parts = {name: getattr(line, name) for name in ("name", "says", "fix")}
    for secret in hidden:
        parts = {name: part.replace(secret, "[hidden]") for name, part in parts.items()}
    return replace(line, **parts)


def text(report: Report) -> str:
    """Return the report for people."""
    lines: list[str] = []
    marks = {"absent": "-", "bad": "BAD"}
    for area in AREAS:
        lines.append(area)
        for found in (found for found in report.findings if found.area == area):
            lines.append(f"  {marks.get(found.status, found.status):<6}{found.name:<19} {found.says}")
            lines += [f"  {'':<26}fix: {found.fix}"] if found.fix else []
    lines += ["", *_sandbox_text(report.sandbox), "", _summary(report)]
    return "\n".join(lines)


def _sandbox_text(sandbox: Sandbox) -> list[str]:
    marks = {True: "works", False: "fails", None: "-"}
    lines = ["Modes of the sandbox, best first"]
    lines += [f"  {marks[a.works]:<6}{a.mode:<12}{a.reason}".rstrip() for a in sandbox.attempts] or ["  none"]
    lines += ["", f"Layers around a session ({sandbox.mode or 'no mode works'})"]
    for layer in sandbox.layers:
        lines.append(f"  {'on' if layer.on else 'OFF':<6}{layer.name:<14}{layer.reason}")
        lines += [f"  {'':<6}{'':<14}left open: {layer.open}"] if layer.open else []
        lines += [f"  {'':<6}{'':<14}fix: {layer.fix}"] if layer.fix else []
    lines += ["", "Default pool", f"  {'works' if sandbox.starts else 'FAILS':<6}{sandbox.pool}"]
    lines += [f"        not preloaded: {name}: {why}" for name, why in sandbox.absent.items()]
    return [*lines, "  What the layers do and do not protect against: docs/security.md"]


def _summary(report: Report) -> str:
    counts = {status: sum(found.status == status for found in report.findings) for status in ("warn", "bad")}
    pool = "The default pool works" if report.starts else "THE DEFAULT POOL DOES NOT START"
    return f"{pool}; besides, {counts['bad']} bad and {counts['warn']} to look at."
