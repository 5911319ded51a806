"""What a fork server is told: how to confine its sessions, and what each may use."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

MiB = 1 << 20
MODES = ("privileged", "userns", "confined")
"""How the layers are had, best first: as root; through a user namespace; Landlock and seccomp without namespaces."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Limits of each session, in bytes, seconds and counts.

    Args:
        folder: the pool's private folder on the host.
        preload: modules loaded once, before the first session.
        hidden: folders that no session may read.
        memory: address space a session may add to what it starts with.
        disk: scratch space (with a mount namespace; else only ``file_size`` bounds it).
        inodes: files in the scratch space (likewise).
        file_size: of one file.
        cpu_seconds: CPU time of a session's whole life.
        threads: threads of a session, where it has a user of its own.
        open_files: descriptors.
        max_output: characters that a cell may print.
        pool_memory: of all sessions together, where control groups are writable.
        pool_processes: likewise, sessions and their threads.
        unsandboxed: whether to go on where Landlock or seccomp is missing.
    """

    folder: str
    preload: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    memory: int = 1024 * MiB
    disk: int = 64 * MiB
    inodes: int = 4096
    file_size: int = 64 * MiB
    cpu_seconds: int = 3600
    threads: int = 64
    open_files: int = 256
    max_output: int = MiB
    pool_memory: int = 16 * 1024 * MiB
    pool_processes: int = 1 << 16
    unsandboxed: bool = False

    def to_json(self) -> str:
        """Return the settings as one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """Read what ``to_json`` wrote."""
        row: dict[str, Any] = json.loads(text)
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in row.items()
        }
        return cls(**values)
