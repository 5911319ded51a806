"""Landlock: which files a process may touch, whatever its user may (Documentation/userspace-api/landlock.rst)."""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterable

from . import linux

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446
_VERSION_FLAG, _RULE_PATH_BENEATH = 1, 1
_WRITE_FILE, _READ_FILE, _READ_DIR, _EXECUTE, _TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 0, 1 << 14
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE


def abi() -> int:
    """Return the version of Landlock that the running kernel has; 0 for none."""
    try:
        return linux.syscall(_CREATE, 0, 0, _VERSION_FLAG)
    except OSError:
        return 0


def filesystem_rights(version: int) -> int:
    """Return every file-system right that this version of Landlock knows."""
    return (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1


def restrict(readable: Iterable[str], writable: Iterable[str], version: int) -> None:
    """Confine this thread, for good, to reading below ``readable``, and below ``writable`` to all but running programs.

    From version 4 on it also refuses TCP, and from version 6 on signals and abstract sockets beyond this process.
    Paths that do not exist are left out.

    Args:
        readable: files and folders.
        writable: files and folders.
        version: what ``abi`` returned, at least 1.
    """
    rights = filesystem_rights(version)
    words = [rights, 0b11 if version >= 4 else 0, 0b11 if version >= 6 else 0]
    size = 8 * (1 if version < 4 else 2 if version < 6 else 3)
    ruleset = linux.syscall(_CREATE, ctypes.byref((ctypes.c_uint64 * 3)(*words)), size, 0)
    try:
        for path in readable:
            _allow(ruleset, path, _READ_FILE | _READ_DIR)
        for path in writable:
            _allow(ruleset, path, rights & ~_EXECUTE)
        linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
        linux.syscall(_RESTRICT, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        return
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= _ON_FILES
        rule = rights.to_bytes(8, "little") + fd.to_bytes(4, "little", signed=True)
        linux.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.c_char_p(rule), 0)
    finally:
        os.close(fd)
