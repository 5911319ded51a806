"""Isolated sessions for stock Jupyter: a kernel provisioner, and the kernelspec that names it.

``jupyter_client`` finds the provisioner by its entry point (group ``jupyter_client.kernel_provisioners``); after
``aster kernelspec`` JupyterLab and ``jupyter console --kernel aster`` list and start the kernel like any other.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import os
import select
import signal
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

from aster_env.errors import KernelError, UsageError
from aster_env.kernels.forkserver import PRELOAD, ForkServer, hidden, launch
from aster_env.kernels.inside.settings import Settings

NAME = "aster-zygote"
"""The provisioner's name in a kernelspec's metadata."""
_CHANNELS = ("shell", "control", "iopub", "stdin", "hb")
_WAIT = 0.01
_START_SECONDS = 60.0


class ZygoteProvisioner(LocalProvisioner):
    """Starts a kernel as a session of a fork server that all managers of this process share.

    The kernel's sockets are bound out here, and handed over: inside, it can make none.
    """

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Fork a session that serves the manager's connection file; ``cmd`` is not run."""
        info = self.connection_info
        key = info["key"]
        listeners = {name: _listen(info["transport"], info["ip"], int(info[f"{name}_port"])) for name in _CHANNELS}
        try:
            message = {
                "transport": "zmq",
                "addresses": {name: address for name, (address, _) in listeners.items()},
                "key": key.decode() if isinstance(key, bytes) else key,
            }
            fds = [made.fileno() for _, made in listeners.values()]
            self.process: KernelProcess | None = await asyncio.to_thread(_shared.fork, message, fds)
        finally:
            for _, made in listeners.values():
                made.close()
        self.pid = self.process.pid if self.process else None
        return self.connection_info

    async def wait(self) -> int | None:
        """Wait for the kernel's end."""
        process = self.process
        status: int | None = await super().wait()
        if process is not None:
            process.close()
        return status

    async def cleanup(self, restart: bool = False) -> None:
        """Give back the ports, and the fork server if this was its last kernel."""
        await super().cleanup(restart)
        process, self.process = self.process, None
        if process is not None:
            process.close()
        if not restart:
            _shared.close_if_unused()


class KernelProcess:
    """A session's process, with the methods of ``subprocess.Popen`` that jupyter_client uses."""

    stdin = stdout = stderr = None

    def __init__(self, owner: SharedServer, number: int, pidfd: int) -> None:
        self._owner, self._number, self._pidfd = owner, number, pidfd
        text = Path(f"/proc/self/fdinfo/{pidfd}").read_text(encoding="ascii")
        self.pid = int(next(line for line in text.splitlines() if line.startswith("Pid:")).split()[1])

    def poll(self) -> int | None:
        """Return the exit status, or None while it lives."""
        return self._owner.status(self._number)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit status.

        Raises:
            TimeoutError: it still lives.
        """
        end = time.monotonic() + (timeout if timeout is not None else 3600.0)
        while (status := self.poll()) is None:
            if time.monotonic() > end:
                raise TimeoutError(f"process {self.pid} still lives")
            time.sleep(_WAIT)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal; SIGKILL instead of SIGTERM, which the first process of a pid namespace does not hear."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL if number == signal.SIGTERM else number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Send SIGKILL too, see ``send_signal``."""
        self.kill()

    def close(self) -> None:
        """Forget the process, which has ended or is ended now."""
        if self._pidfd >= 0:
            if self.poll() is None:
                self.kill()
            os.close(self._pidfd)
            self._pidfd = -1
            self._owner.forget(self._number)


class SharedServer:
    """One fork server for all managers of a process; started by the first kernel, ended with the last."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._server: ForkServer | None = None
        self._count = 0
        self._statuses: dict[int, int | None] = {}

    def fork(self, message: dict[str, Any], fds: list[int]) -> KernelProcess:
        """Start a session.

        Raises:
            KernelError: it could not be started.
        """
        with self._lock:
            server = self._open()
            self._count += 1
            number = self._count
            server.send({"fork": number, **message}, fds)
            while True:
                received = server.receive() if _readable(server, _START_SECONDS) else None
                if received is None:
                    self.close()
                    raise KernelError("The fork server ended, or hung, while it started a kernel.")
                reply, handed = received
                if reply.get("forked") == number:
                    self._statuses[number] = None
                    return KernelProcess(self, number, handed[0])
                if reply.get("refused") == number:
                    raise KernelError(f"The system refused to start a kernel: {reply['why']}.")
                self._note(reply)

    def status(self, number: int) -> int | None:
        """Return a session's exit status, or None while it lives."""
        with self._lock:
            server = self._server
            while server is not None and _readable(server, 0):
                received = server.receive()
                if received is None:
                    self.close()
                    break
                self._note(received[0])
            return self._statuses.get(number, -signal.SIGKILL)

    def forget(self, number: int) -> None:
        """Drop what is known of an ended session."""
        with self._lock:
            self._statuses.pop(number, None)

    def close_if_unused(self) -> None:
        """End the fork server if it has no session."""
        with self._lock:
            if not self._statuses:
                self.close()

    def close(self) -> None:
        """End the fork server and every session."""
        with self._lock:
            server, self._server = self._server, None
            self._statuses.clear()
            if server is not None:
                server.hang_up()
                server.process.wait()
                server.clean()

    def _open(self) -> ForkServer:
        if self._server is None:
            self._server = launch(Settings(folder="", preload=PRELOAD, hidden=hidden()))
        return self._server

    def _note(self, message: dict[str, Any]) -> None:
        if message.get("ended") in self._statuses:
            self._statuses[message["ended"]] = message["status"]


_shared = SharedServer()
atexit.register(_shared.close)


def install_kernelspec(prefix: str | None = None) -> Path:
    """Install the kernelspec ``aster`` and return its folder.

    Args:
        prefix: a Python environment's folder (``sys.prefix``); None installs it for the user.

    Raises:
        UsageError: the folder cannot be written.
    """
    spec = {
        "argv": ["python", "-f", "{connection_file}"],  # not run: the provisioner forks the kernel itself
        "display_name": "Python (isolated by aster)",
        "language": "python",
        "metadata": {"kernel_provisioner": {"provisioner_name": NAME}},
    }
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "kernel.json").write_text(json.dumps(spec, indent=1) + "\n", encoding="utf-8")
        try:
            made = KernelSpecManager().install_kernel_spec(folder, "aster", user=prefix is None, prefix=prefix)
        except OSError as error:
            hint = "Fix: --prefix with a folder that you may write to."
            raise UsageError(f"The kernelspec cannot be installed: {error}. {hint}") from error
    return Path(made)


def _readable(server: ForkServer, seconds: float) -> bool:
    poll = select.poll()
    poll.register(server.control, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _listen(transport: str, ip: str, port: int) -> tuple[str, socket.socket]:
    if transport == "ipc":
        path = f"{ip}-{port}"
        made = socket.socket(socket.AF_UNIX)
        made.bind(path)
        address = f"ipc://{path}"
    else:
        made = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((ip, port))
        address = f"tcp://{ip}:{port}"
    made.listen(64)
    return address, made
