"""What a hostile cell is, and what is expected of it; what every hostile cell finds defined."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

MAX_OUTPUT = 20_000
GRACE = 0.3
MODES = ("privileged", "userns", "confined")
NOT_THERE = ("ENOENT", "EACCES")
"""What a path of the host is: absent from a tree of its own, forbidden by Landlock in the host's tree."""
UNWRITABLE = ("ENOENT", "EACCES", "EROFS", "EPERM", "EXDEV")
REFUSED = ("EPERM", "ENOSYS")
ANY = object()


@dataclass(frozen=True)
class Case:
    """One hostile cell.

    Args:
        family: what it attacks.
        name: what it tries.
        code: the cell; its last expression tells what the attacker got.
        got: values of the last expression that are all right, or a judge of it; empty: there is no value.
        error: what its traceback must hold; empty: there is none. ``ANY``: either.
        state: ``"kept"``, ``"lost"``, or ``""`` where both are right, told truly.
        timed_out: whether it runs into its time limit; None: either.
        timeout: that limit.
        after: the next cell of the same session.
        then: what that gives, as ``got``; of a session that kept its state.
        after_timeout: its time limit.
        machine: the only architecture on which it makes sense; empty: all.
        differs: fields that are others, by mode.
    """

    family: str
    name: str
    code: str
    got: tuple[Any, ...] | Callable[[Any], bool] = ()
    error: Any = ""
    state: str = "kept"
    timed_out: bool | None = False
    timeout: float = 30.0
    after: str = "kept + 1"
    then: tuple[Any, ...] | Callable[[Any], bool] = (42,)
    after_timeout: float = 30.0
    machine: str = ""
    differs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def under(self, mode: str) -> Case:
        """Return the case as it is in this mode."""
        return replace(self, **self.differs.get(mode, {}))


def family(name: str, *cases: Case) -> tuple[Case, ...]:
    """Return the cases with their family's name."""
    return tuple(replace(case, family=name) for case in cases)


def case(name: str, code: str, *got: Any, **more: Any) -> Case:
    """Return a case of a family to be named by ``family``."""
    judge = got[0] if len(got) == 1 and callable(got[0]) else got
    return Case("", name, code.strip("\n"), judge, **more)


def all_in(*allowed: Any) -> Callable[[Any], bool]:
    """Judge a collection: everything in it is one of ``allowed``, and there is something."""
    return lambda found: bool(found) and set(found.values() if isinstance(found, dict) else found) <= set(allowed)


TOOLS = """
import asyncio, ctypes, errno, json, os, resource, signal, socket, stat, struct, sys, threading, time

kept = 41
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

def tried(call, *args, **named):
    # What a call gives, or the name of what it raises.
    try:
        return call(*args, **named)
    except OSError as error:
        return errno.errorcode.get(error.errno, type(error).__name__)
    except Exception as error:
        return type(error).__name__

def read(path):
    with open(path, "rb") as file:
        return file.read(100)

def write(path, data=b"x", mode="wb"):
    with open(path, mode) as file:
        file.write(data)

def syscall(name, *args):
    # The result of a system call by name or number, or the name of its error.
    ctypes.set_errno(0)
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    number = NUMBERS[name] if isinstance(name, str) else name
    result = libc.syscall(ctypes.c_long(number), *words)
    return result if result >= 0 else errno.errorcode[ctypes.get_errno()]

def kernel_fd():
    return next(fd for fd in range(3, 256) if tried(lambda: stat.S_ISSOCK(os.fstat(fd).st_mode)) is True)

def msg_id():
    frame = sys._getframe()
    while "request" not in frame.f_locals:
        frame = frame.f_back
    return frame.f_locals["request"].header["msg_id"]

def packed(data):
    return struct.pack(">I", len(data)) + data

def message(kind, content, parent):
    row = {"header": {"msg_type": kind}, "parent_header": {"msg_id": parent}, "metadata": {}, "content": content}
    return packed(json.dumps({"channel": "iopub", **row}).encode())

IDLE = {"execution_state": "idle"}

def result(text):
    return {"data": {"text/plain": text}, "metadata": {}, "execution_count": 1}

def send(data):
    view = memoryview(data)
    while view:
        view = view[os.write(kernel_fd(), view):]
"""
