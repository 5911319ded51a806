"""Times, the processors' and the sessions' use, as /proc tells them."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Times:
    """Seconds of many repetitions."""

    seconds: list[float] = field(default_factory=list)

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Time what is inside."""
        began = time.perf_counter()
        yield
        self.seconds.append(time.perf_counter() - began)

    def ms(self) -> dict[str, float]:
        """Return median, 99th percentile, least and most in milliseconds."""
        ordered = sorted(1e3 * value for value in self.seconds)
        p99 = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
        rows = {"median": statistics.median(ordered), "p99": p99, "min": ordered[0], "max": ordered[-1]}
        return {name: round(value, 4) for name, value in rows.items()} | {"count": len(ordered)}

    def median(self) -> float:
        """Return the median in milliseconds."""
        return 1e3 * statistics.median(self.seconds)


def parents() -> dict[int, int]:
    """Return the parent of every process, zombies left out."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (row := _stat(int(name))) and row[0] != "Z":
            found[int(name)] = int(row[1])
    return found


def below(pid: int) -> list[list[int]]:
    """Return the processes below ``pid``, by generation: its children, then their children."""
    known, rows, level = parents(), [], [pid]
    while level := [child for child, parent in known.items() if parent in level]:
        rows.append(level)
    return rows


def private_mb(pid: int) -> float | None:
    """Return the MB that a process shares with no other; None if it may not be read."""
    return _smaps(pid, "Private_Clean", "Private_Dirty")


def private_parts(pid: int, most: int = 5) -> dict[str, float]:
    """Return what the private memory of a process is, in MB by mapping, the largest first."""
    found: dict[str, float] = {}
    name = ""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            words = line.split()
            if not words[0].endswith(":"):
                name = os.path.basename(words[5]) if len(words) > 5 else "anonymous"
            elif words[0] in ("Private_Clean:", "Private_Dirty:"):
                found[name] = found.get(name, 0.0) + int(words[1]) / 1024
    ordered = sorted(found.items(), key=lambda row: -row[1])[:most]
    return {name: round(value, 2) for name, value in ordered}


def pss_mb(pid: int) -> float | None:
    """Return a process's proportional share of memory in MB; None if it may not be read."""
    return _smaps(pid, "Pss")


def private_of(pids: Sequence[int]) -> float | None:
    """Return the median of ``private_mb``."""
    values = [value for pid in pids if (value := private_mb(pid)) is not None]
    return round(statistics.median(values), 2) if values else None


def _smaps(pid: int, *names: str) -> float | None:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None
    rows = dict(line.split(":", 1) for line in text.splitlines()[1:])
    return sum(int(rows[name].split()[0]) for name in names if name in rows) / 1024


def _stat(pid: int) -> list[str]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return []


@dataclass(slots=True)
class Use:
    """CPU seconds by role, since start."""

    roles: dict[str, float]
    busy: float
    at: float

    @classmethod
    def now(cls, fork_servers: bool = True) -> Use:
        """Read the present state: this process, its keepers, their zygotes, and the sessions, ended ones included."""
        roles = {"host": time.process_time(), "keeper": 0.0, "zygote": 0.0, "sessions": 0.0}
        names = ("keeper", "zygote", "sessions")
        for name, pids in zip(names, below(os.getpid())[:3] if fork_servers else (), strict=False):
            roles[name] += sum(map(_cpu, pids))
            for row in filter(None, map(_stat, pids if name == "zygote" else ())):
                roles["sessions"] += (int(row[13]) + int(row[14])) / TICKS
        user, nice, system, _, _, *interrupts = _machine()
        return cls(roles, user + nice + system + sum(interrupts[:2]), time.perf_counter())


def _cpu(pid: int) -> float:
    # stat cuts each process's time to hundredths of a second: over a thousand sessions, that loses most of it.
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[0]) / 1e9
    row = _stat(pid)
    return (int(row[11]) + int(row[12])) / TICKS if row else 0.0


def _machine() -> list[float]:
    with open("/proc/stat", encoding="ascii") as file:
        return [int(word) / TICKS for word in file.readline().split()[1:8]]


@dataclass(slots=True)
class Profile:
    """Who used the processors while something was measured, in processors (1.0: one of them, all the time)."""

    wall: float = 0.0
    used: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Measure what is inside."""
        before = Use.now()
        began = time.perf_counter()
        yield
        self.wall = time.perf_counter() - began
        after = Use.now()
        used = {name: max(0.0, after.roles[name] - before.roles[name]) for name in before.roles}
        others = max(0.0, after.busy - before.busy - sum(used.values()))
        self.used = {name: round(value / self.wall, 2) for name, value in {**used, "other programs": others}.items()}

    def bound(self) -> str:
        """Say in words what the work waited for."""
        processors = os.cpu_count() or 1
        shares = ", ".join(f"{name} {share:.2f}" for name, share in self.used.items() if share >= 0.005)
        total = sum(self.used.values())
        mine = {name: share for name, share in self.used.items() if name != "other programs"}
        name, most = max(mine.items(), key=lambda row: row[1])
        if most > 0.85 and name in ("host", "zygote"):
            verdict = f"one processor's worth of the {name}, which has one thread"
        elif total > 0.85 * processors:
            verdict = f"all {processors} processors are busy"
        else:
            verdict = f"latency: {total:.2f} of {processors} processors are busy"
        return f"{verdict} ({shares})"


def load() -> str:
    """Return the load average of the last minute and the number of processors."""
    return f"{os.getloadavg()[0]:.1f} on {os.cpu_count()}"
