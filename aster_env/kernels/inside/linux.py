"""Linux system calls that Python's standard library lacks, over ctypes."""

from __future__ import annotations

import ctypes
import os
import platform

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 36, 38
CAP_KILL, CAP_SETGID, CAP_SETUID, CAP_SYS_ADMIN, CAP_SETFCAP = 5, 6, 7, 21, 31

_MOUNT_ATTR_RDONLY, _MOUNT_ATTR_NOSUID, _MOUNT_ATTR_NODEV = 1, 2, 4
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_SYS_MOUNT_SETATTR = 442
_SYS_CAPSET = {"x86_64": 126, "aarch64": 91}
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}


def machine() -> str:
    """Return the machine's architecture, as ``x86_64`` or ``aarch64``."""
    name = platform.machine()
    return {"arm64": "aarch64", "amd64": "x86_64"}.get(name.lower(), name)


def _check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def syscall(number: int, *arguments: object) -> int:
    """Make a system call; integers are passed as longs.

    Raises:
        OSError: it failed.
    """
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return _check(_libc.syscall(ctypes.c_long(number), *words), f"system call {number}")


def unshare(flags: int) -> None:
    """Leave the namespaces named by ``flags``."""
    _check(_libc.unshare(flags), f"unshare({flags:#x})")


def setns(fd: int, kind: int) -> None:
    """Enter the namespace behind ``fd``."""
    _check(_libc.setns(fd, kind), "setns")


def prctl(option: int, value: int, buffer: bytes | None = None) -> None:
    """Set a process attribute."""
    zero = ctypes.c_ulong(0)
    third = zero if buffer is None else ctypes.c_char_p(buffer)
    _check(_libc.prctl(option, ctypes.c_ulong(value), third, zero, zero), f"prctl({option})")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """Mount a file system, or bind a tree."""
    made = _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode())
    _check(made, f"mount {kind or source} on {target}")


def make_readonly(target: str) -> None:
    """Make a mounted tree read-only, without set-user-id programs and devices, submounts included (Linux 5.12)."""
    attributes = _MOUNT_ATTR_RDONLY | _MOUNT_ATTR_NOSUID | _MOUNT_ATTR_NODEV
    packed = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    path = ctypes.c_char_p(target.encode())
    syscall(_SYS_MOUNT_SETATTR, _AT_FDCWD, path, _AT_RECURSIVE, ctypes.byref(packed), ctypes.sizeof(packed))


def pivot_root(new: str) -> None:
    """Make ``new`` the root and let go of the old one; the current folder becomes the new root."""
    os.chdir(new)
    dot = ctypes.c_char_p(b".")
    # The old root is stacked on the new one, so no folder inside is needed for it (pivot_root(2), notes).
    syscall(_SYS_PIVOT_ROOT[machine()], dot, dot)
    _check(_libc.umount2(b".", MNT_DETACH), "umount of the old root")
    os.chdir("/")


def capabilities() -> int:
    """Return the set of effective capabilities, a bit each."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        line = next(line for line in status if line.startswith("CapEff"))
    return int(line.split()[1], 16)


def drop_capabilities(keep: int = 0) -> None:
    """Give up every capability but those of ``keep``, a bit each."""
    low, high = keep & 0xFFFFFFFF, keep >> 32
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)
    syscall(_SYS_CAPSET[machine()], ctypes.byref(header), ctypes.byref(sets))
