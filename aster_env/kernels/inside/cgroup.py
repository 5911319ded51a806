"""One cap on the memory and the processes of all sessions together, where control groups are writable."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

_V2 = "/sys/fs/cgroup"


def make(name: str, memory: int, processes: int) -> tuple[list[str], str]:
    """Make the groups and return their folders, with how it went in words; no folder where none can be made."""
    for folders in (_version2(name, memory, processes), _version1(name, memory, processes)):
        made: list[str] = []
        try:
            for folder, limits in folders:
                os.mkdir(folder)
                made.append(folder)
                for file, value in limits.items():
                    _write(os.path.join(folder, file), str(value))
        except OSError as error:
            remove(made)
            reason = f"{error.strerror} at {error.filename}"
            continue
        if made:
            return made, f"{memory >> 20} MiB for all sessions together"
        reason = "no memory controller"
    return [], f"control groups are not writable ({reason})"


def enter(folders: list[str], pid: int) -> None:
    """Put a process, and all it will fork, under the cap."""
    for folder in folders:
        _write(os.path.join(folder, "cgroup.procs"), str(pid))


def out_of_memory_kills(folders: list[str]) -> int:
    """Return how many processes the cap has killed so far."""
    for folder in folders:
        for file in ("memory.events", "memory.oom_control"):
            with contextlib.suppress(OSError), open(os.path.join(folder, file), encoding="ascii") as lines:
                return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return 0


def remove(folders: list[str], seconds: float = 5.0) -> None:
    """Remove the groups once their processes are gone."""
    end = time.monotonic() + seconds
    for folder in folders:
        while os.path.isdir(folder):
            try:
                os.rmdir(folder)
            except OSError:
                if time.monotonic() > end:
                    break
                time.sleep(0.01)


def _version2(name: str, memory: int, processes: int) -> Iterator[tuple[str, dict[str, int]]]:
    own = _own("")
    if own is None or not os.path.exists(f"{_V2}/cgroup.controllers"):
        return
    # Beside the own group, which has processes and therefore cannot hand controllers down; its parent's cap stays.
    parent = _V2 + os.path.dirname(own)
    with open(os.path.join(parent, "cgroup.subtree_control"), encoding="ascii") as file:
        handed_down = file.read().split()
    if "memory" not in handed_down:
        _write(os.path.join(parent, "cgroup.subtree_control"), "+memory")
    limits = {"memory.max": memory, "memory.swap.max": 0}
    if "pids" in handed_down:
        limits["pids.max"] = processes
    yield os.path.join(parent, name), limits


def _version1(name: str, memory: int, processes: int) -> Iterator[tuple[str, dict[str, int]]]:
    if _own("memory") is None or not os.path.isdir(f"{_V2}/memory"):
        return
    for controller, limits in (("memory", {"memory.limit_in_bytes": memory}), ("pids", {"pids.max": processes})):
        own, mounted = _own(controller), f"{_V2}/{controller}"
        if own is not None and os.path.isdir(mounted):
            parent = mounted + own
            yield os.path.join(parent if os.path.isdir(parent) else mounted, name), limits


def _own(controller: str) -> str | None:
    """Return this process's group in the hierarchy of ``controller``, ``""`` for version 2."""
    with open("/proc/self/cgroup", encoding="utf-8") as lines:
        for line in lines:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            if controller in controllers.split(",") and (controller or controllers == ""):
                return path
    return None


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
