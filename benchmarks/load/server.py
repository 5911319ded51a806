"""A service as a process, and what it holds: processes, descriptors, sockets, memory, folders."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.kernels.measure import TICKS, below, parents

RUN = (
    "import argparse, sys; from aster_env.serve import openenv_command as command; "
    "parser = argparse.ArgumentParser(); command.add_arguments(parser); "
    "options = parser.parse_args(); sys.exit(options.run(options))"
)
ENV_ID = "ASTER/PythonMath-v0"


class Server:
    """`aster serve openenv` with its temporary files in a folder of their own; ``stop`` or ``kill`` ends it.

    Args:
        arguments: further ones of the command.
        env_id: what is served.
        port: 0 takes a free one.
        env_kwargs: the environment's arguments.
        variables: further environment variables.
    """

    def __init__(
        self,
        *arguments: str,
        env_id: str = ENV_ID,
        port: int = 0,
        env_kwargs: Mapping[str, Any] | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.arguments = arguments
        self._home = tempfile.TemporaryDirectory(prefix="aster-load-")
        self.folder = Path(self._home.name)
        self.log = self.folder / "log"
        self.files = self.folder / "tmp"
        self.files.mkdir()
        kwargs = ["--env-kwargs", json.dumps(env_kwargs)] if env_kwargs else []
        # Other users' sessions have to reach the folders in it.
        self.folder.chmod(0o755)
        self.files.chmod(0o1777)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", RUN, env_id, "--port", str(port), *kwargs, *arguments],
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # schedulers share the processors out by session: it is not the clients'
                text=True,
                env={**os.environ, **(variables or {}), "TMPDIR": str(self.files)},
            )
        assert self.process.stdout is not None
        try:
            line = self.process.stdout.readline()
            if not line.startswith("Listening on "):
                raise RuntimeError(f"The service did not start: {self.log.read_text()}")
        except BaseException:
            self.stop()
            raise
        self.url = line.split()[-1]
        self.port = int(self.url.rpartition(":")[2])

    @property
    def pid(self) -> int:
        """The service's process."""
        return self.process.pid

    def below(self) -> list[int]:
        """Return every process below the service."""
        return [pid for level in below(self.pid) for pid in level]

    def holds(self) -> dict[str, int]:
        """Return what the service holds now."""
        names = []
        for entry in os.listdir(f"/proc/{self.pid}/fd"):
            with contextlib.suppress(OSError):
                names.append(os.readlink(f"/proc/{self.pid}/fd/{entry}"))
        status = Path(f"/proc/{self.pid}/status").read_text()
        resident = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return {
            "processes": len(self.below()),
            "descriptors": len(names),
            "sockets": sum(name.startswith("socket:") for name in names),
            "threads": len(os.listdir(f"/proc/{self.pid}/task")),
            "files": sum(1 for _ in self.files.rglob("*")),
            "memory_mb": int(resident.split()[1]) // 1024,
        }

    def cpu(self) -> dict[str, float]:
        """Return the seconds of processors that everyone used so far: clients (this process), service, others."""
        with open("/proc/stat", encoding="ascii") as file:
            user, nice, system, _, _, *interrupts = [int(word) / TICKS for word in file.readline().split()[1:8]]
        below_ = sum(_cpu(pid, slice(11, 15)) for pid in self.below())
        used = {"clients": time.process_time(), "service": _cpu(self.pid, slice(11, 13)), "its sessions": below_}
        return used | {"other programs": user + nice + system + sum(interrupts[:2]) - sum(used.values())}

    def settled(self, most: Mapping[str, int], seconds: float = 30.0) -> dict[str, int]:
        """Return what the service holds once none of ``most`` is exceeded, or when the time is over."""
        deadline = time.monotonic() + seconds
        while True:
            now = self.holds()
            if all(now[name] <= value for name, value in most.items()) or time.monotonic() > deadline:
                return now
            time.sleep(0.1)

    def stop(self) -> int:
        """End it as a supervisor would, and return its exit status; one that has ended is cleaned up after."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self._end()
        return status

    def kill(self) -> dict[str, int]:
        """End it with SIGKILL; return what of it is left once that stops changing, or 10 s later."""
        held = self.below()
        self.process.kill()
        self.process.wait()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            left = {"processes": len(set(held) & set(parents())), "files": sum(1 for _ in self.files.rglob("*"))}
            if not any(left.values()):
                break
            time.sleep(0.05)
        self._end()
        return left

    def _end(self) -> None:
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._home.cleanup()


@contextlib.contextmanager
def serving(*arguments: str, **options: Any) -> Iterator[Server]:
    """Start a service, and stop it at the end, whatever happens."""
    server = Server(*arguments, **options)
    try:
        yield server
    finally:
        server.stop()


def _cpu(pid: int, fields: slice) -> float:
    """Return the seconds of a process (user, system) and of its ended children (likewise)."""
    with contextlib.suppress(OSError):
        row = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return sum(map(int, row[fields])) / TICKS
    return 0.0
