"""Which processes descend from this one."""

from __future__ import annotations

import os
from pathlib import Path


def descendants():
    """Return the command lines of all processes below this one, by process id."""
    parents, lines = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            lines[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue  # it ended meanwhile
    below = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return {pid: lines[pid] for pid in below - {os.getpid()} if pid in lines}
