"""Stands between the host and one kernel process, so that neither outlives the other; run by path.

The kernel cannot watch its host itself: native code that holds the interpreter's lock lets no thread of it run, and a
signal at the parent's death (prctl) would end the kernel alone, not the processes that its cells started. This process
leads their process group, holds nothing but two descriptors, and when the host is gone ends the whole group.
"""

from __future__ import annotations

import ctypes
import os
import resource
import runpy
import select
import signal
import sys

_SET_DEATH_SIGNAL = 1


def main() -> None:
    """Run the program ``sys.argv[1:]`` in a child process, and end as it does."""
    host = int(os.environ["JPY_PARENT_PID"])
    try:
        host_fd = os.pidfd_open(host)
    except ProcessLookupError:
        os._exit(1)
    if os.getppid() != host:
        os._exit(1)
    guard = os.getpid()
    kernel = os.fork()
    if kernel == 0:
        os.close(host_fd)
        _run(guard)
    else:
        os._exit(_watch(host_fd, kernel))


def _run(guard: int) -> None:
    """Become the kernel; it ends when this guard does."""
    ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != guard:
        os._exit(1)
    os.environ["JPY_PARENT_PID"] = str(guard)
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")


def _watch(host_fd: int, kernel: int) -> int:
    """Wait for the host's end or the kernel's; return the kernel's exit code, or die of the signal it died of."""
    # Interrupts are for the cell; they reach the whole group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    poll = select.poll()
    for descriptor in (host_fd, os.pidfd_open(kernel)):
        poll.register(descriptor, select.POLLIN)
    if host_fd in dict(poll.poll()):
        os.killpg(0, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(kernel, 0)[1])
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    main()
