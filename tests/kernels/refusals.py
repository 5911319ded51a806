"""What this machine itself refuses to a set of layers: the only reason for which a test of it may be skipped."""

from __future__ import annotations

import ctypes
import functools
import subprocess
import sys

_ISOLATE = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
NEWNS, NEWUSER, NEWPID, NEWNET, REC, PRIVATE = 0x20000, 0x10000000, 0x20000000, 0x40000000, 0x4000, 0x40000
flags = NEWNS | NEWPID | NEWNET | (NEWUSER if sys.argv[1] == "userns" else 0)
if libc.unshare(flags) or libc.mount(b"none", b"/", None, REC | PRIVATE, None):
    sys.exit(os.strerror(ctypes.get_errno()))
"""


@functools.cache
def refusal(mode: str) -> str:
    """Return why this machine cannot have sessions of a mode, or "" if it can; asks nothing of what is tested."""
    # landlock_create_ruleset(NULL, 0, LANDLOCK_CREATE_RULESET_VERSION), of one number on every architecture
    if ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), 1) < 1:
        return "this kernel has no Landlock"
    if mode == "confined":
        return ""
    tried = subprocess.run([sys.executable, "-c", _ISOLATE, mode], capture_output=True, text=True, timeout=30)
    return f"this machine refuses namespaces: {tried.stderr.strip()}" if tried.returncode else ""
