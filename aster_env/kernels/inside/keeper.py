"""Starts the fork server, outlives it, and removes what it left; run by path, with a stripped environment.

    python -s -P keeper.py CONTROL_FD HOST_PID MODE SETTINGS

The keeper holds no sessions and runs no foreign code. It ends when the fork server does, and kills the fork server
when the host is gone, however that ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys

# Only to find this folder as a package: its neighbours must not be importable by sessions.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from inside import cgroup, linux, sandbox, settings, zygote  # type: ignore[import-not-found,unused-ignore]

sys.path.pop(0)


def main() -> None:
    """Start the fork server and wait for its end."""
    control = socket.socket(fileno=int(sys.argv[1]))
    host, mode, options = int(sys.argv[2]), sys.argv[3], settings.Settings.from_json(sys.argv[4])
    watch = os.pidfd_open(host)
    # Whoever starts the keeper may block signals (Ray's workers block SIGINT), and every session would inherit that.
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    # Whatever sessions do, and however many start at once, whoever waits for them goes first: the host's own loop.
    os.nice(5)
    if os.getppid() != host:
        return
    if mode != settings.MODES[0] and linux.capabilities() >> linux.CAP_SYS_ADMIN & 1:
        # Whoever asks for less than there is gets what an ordinary user would have.
        # (CAP_SETFCAP gives no access; without it user 0 may not be mapped into a namespace.)
        linux.drop_capabilities(keep=1 << linux.CAP_SETFCAP)
    groups, reason = cgroup.make(os.path.basename(options.folder), options.pool_memory, options.pool_processes)
    try:
        sandbox.make_namespaces(mode)
        pid = _start(control, mode, options, groups, reason, watch)
        control.close()
        _wait(pid, watch)
    except OSError as error:
        with contextlib.suppress(OSError):
            control.send(json.dumps({"failed": str(error)}).encode())
    finally:
        cgroup.remove(groups)
        _remove(options.folder)


def _start(
    control: socket.socket, mode: str, options: settings.Settings, groups: list[str], reason: str, watch: int
) -> int:
    """Fork the fork server, put it under the cap, and let it go on; return its process id."""
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    keeper = os.getpid()
    capped, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(go)
            os.close(watch)
            linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
            on = os.read(capped, 1) == b"1"
            os.close(capped)
            zygote.run(control, mode, options, {"cgroup": (on, reason)}, groups, keeper)
        finally:
            os._exit(0)
    try:
        cgroup.enter(groups, pid)
        os.write(go, b"1" if groups else b"0")
    except OSError as error:
        # The cap is one layer among others: without it the fork server goes on, and says so.
        os.write(go, b"0")
        cgroup.remove(groups)
        groups.clear()
        sys.stderr.write(f"no cap on memory: {error}\n")
    finally:
        os.close(go)
        os.close(capped)
    return pid


def _remove(folder: str) -> None:
    with contextlib.suppress(RecursionError):
        shutil.rmtree(folder, ignore_errors=True)
    if os.path.isdir(folder):
        # Only sessions without a mount namespace leave trees that are too deep or not readable. They have no pid
        # namespace either, so that programs can still be started here.
        subprocess.run(["chmod", "-R", "u+rwx", "--", folder], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(["rm", "-rf", "--", folder], check=False, stderr=subprocess.DEVNULL)


def _wait(pid: int, host: int) -> None:
    child = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(child, select.POLLIN)
    poll.register(host, select.POLLIN)
    if child not in {fd for fd, _ in poll.poll()}:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    # Sessions of a killed fork server come to the keeper, where no pid namespace took them along.
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


if __name__ == "__main__":
    main()
