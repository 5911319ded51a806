"""One ipykernel process and a lean client for it over the Jupyter messaging protocol.

The stock ``AsyncKernelClient`` parses dates, queues and copies every message; the sessions of a training step need
only ``execute_request`` and what comes back, so this reads the sockets directly (protocol 5.4, jupyter-client docs).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import zmq
import zmq.asyncio
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from aster_env.errors import KernelError
from aster_env.kernels.messages import Output, execute_content

T = TypeVar("T")
_DELIMITER = b"<IDS|MSG>"
_GUARD, _LAUNCHER = (str(Path(__file__).with_name(name)) for name in ("guard.py", "launcher.py"))
_FLAGS = (
    "--HistoryManager.enabled=False",
    "--InteractiveShell.automagic=False",
    "--InteractiveShell.colors=NoColor",
    "--InteractiveShell.xmode=Plain",
    "--IPKernelApp.matplotlib=None",
)


class Died(Exception):
    """The process ended while something was awaited from it."""


class _Manager(AsyncKernelManager):
    """A manager whose kernel is this package's launcher, behind its guard."""

    @property
    def kernel_spec(self) -> KernelSpec:
        argv = [sys.executable, "-P", _GUARD, _LAUNCHER, "-f", "{connection_file}", *_FLAGS]
        return KernelSpec(argv=argv, display_name="aster", language="python")


class KernelProcess:
    """A running kernel: its process group, sockets and private folder.

    Args:
        context: the pool's zmq context.
        max_output: characters a cell may print.

    Raises:
        KernelError: its folder could not be made.
    """

    def __init__(self, context: zmq.asyncio.Context, max_output: int) -> None:
        try:
            self._folder = Path(tempfile.mkdtemp(prefix="aster-"))
            self.scratch = self._folder / "scratch"
            self.scratch.mkdir()
        except OSError as error:
            raise KernelError(f"A Python kernel's folder could not be made: {error}.") from error
        self._max_output = max_output
        self._manager = _Manager(
            context=context, transport="ipc", connection_file=str(self._folder / "k.json"), ip=str(self._folder / "k")
        )
        self._sockets: list[Any] = []
        self._pid = 0
        self._exited: asyncio.Future[None] | None = None
        self._pidfd = -1

    async def launch(self, timeout: float) -> None:
        """Start the process and wait until it answers.

        Raises:
            KernelError: it ended, or did not answer in time.
        """
        started = time.perf_counter()
        try:
            # What the process says before it is a kernel, or as it crashes, is nothing to this program's terminal.
            silence = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            await self._manager.start_kernel(cwd=str(self.scratch), env=self._environment(), **silence)
            self._pid = self._manager.provisioner.pid
            self._watch()
            self._shell, self._iopub = self._manager.connect_shell(), self._manager.connect_iopub()
            self._sockets = [self._shell, self._iopub]
            self._session = self._manager.session
            await self._race(self._greet(), timeout)
        except (OSError, RuntimeError, TimeoutError, zmq.ZMQError, Died) as error:
            self.kill()
            raise KernelError(
                f"A Python kernel did not start within {timeout:g} s (gave up after "
                f"{time.perf_counter() - started:.1f} s: {type(error).__name__} {error})."
            ) from error

    async def run(self, code: str) -> Output:
        """Execute ``code`` and return what it sent; raises ``Died`` if the process ends, or is killed, first."""
        return await self._race(self._execute(code), None)

    def interrupt(self) -> None:
        """Send SIGINT to the kernel's process group."""
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        """End the process group at once and remove what it left; calling it twice is harmless."""
        self._signal(signal.SIGKILL)
        # Once it is waited for, another group may get its number.
        self._pid = 0
        if self._exited is not None and not self._exited.done():
            self._exited.set_result(None)
        for socket in self._sockets:
            socket.close(linger=0)
        self._sockets = []
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        shutil.rmtree(self._folder, ignore_errors=True)

    async def wait(self) -> str:
        """Wait for the end of a process that was killed or died, and say how it ended."""
        provisioner = self._manager.provisioner
        if provisioner is None or provisioner.process is None:
            return "never started"
        # Polled, not awaited in a thread: this also runs at exit, when no thread can be started any more.
        while (code := provisioner.process.poll()) is None:
            await asyncio.sleep(0.001)
        self._close_pipes(provisioner.process)
        if code < 0:
            name = signal.Signals(-code).name
            return f"killed by {name}" + (" (out of memory?)" if -code == signal.SIGKILL else "")
        return f"exit code {code}"

    def _signal(self, number: signal.Signals) -> None:
        if self._pid:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._pid, number)

    @staticmethod
    def _close_pipes(process: Any) -> None:
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()

    def _environment(self) -> dict[str, str]:
        """Return the session's whole environment: no variable of the host but those that Python needs."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TZ") if name in os.environ}
        home = str(self.scratch)
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        folders = {"HOME": home, "TMPDIR": home, "IPYTHONDIR": str(self._folder / "ipython"), "MPLBACKEND": "Agg"}
        runtime = {"JUPYTER_RUNTIME_DIR": str(self._folder), "ASTER_MAX_OUTPUT": str(self._max_output)}
        # The order of sets, and all that follows from it, is the same in every session.
        python = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"}
        return {**kept, **threads, **folders, **runtime, **python}

    def _watch(self) -> None:
        """Notice the process's end at once."""
        loop = asyncio.get_running_loop()
        self._exited = loop.create_future()
        exited = self._exited

        def ended() -> None:
            if not exited.done():
                exited.set_result(None)
            loop.remove_reader(self._pidfd)

        self._pidfd = os.pidfd_open(self._pid)
        loop.add_reader(self._pidfd, ended)

    async def _race(self, work: Awaitable[T], timeout: float | None) -> T:
        """Await ``work``, the process's end (``Died``), or the timeout (``TimeoutError``)."""
        assert self._exited is not None
        task = asyncio.ensure_future(work)
        either: tuple[asyncio.Future[Any], ...] = (task, self._exited)
        try:
            await asyncio.wait(either, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            # Sockets that are closed with the process cancel the task.
            if task.done() and not task.cancelled():
                return task.result()
            raise Died("the process ended") if self._exited.done() else TimeoutError("no answer")
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})

    async def _greet(self) -> None:
        """Wait until the shell answers and the subscription to iopub is live."""
        message_id = await self._send("kernel_info_request", {})
        await self._receive(self._shell, lambda kind, parent, _: parent == message_id)
        # Without the welcome (protocol 5.4) the `idle` of an early cell could be lost, and the cell would hang.
        await self._receive(self._iopub, lambda kind, parent, _: kind == "iopub_welcome")

    async def _execute(self, code: str) -> Output:
        message_id = await self._send("execute_request", execute_content(code))
        output = Output(4 * self._max_output)

        def collect(kind: str, parent: str, content: dict[str, Any]) -> bool:
            return parent == message_id and output.add(kind, content)

        def replied(kind: str, parent: str, content: dict[str, Any]) -> bool:
            if parent == message_id:
                output.truncated += int(content.get("aster_dropped", 0))
            return parent == message_id

        await self._receive(self._iopub, collect)
        await self._receive(self._shell, replied)
        return output

    async def _send(self, kind: str, content: dict[str, Any]) -> str:
        message = self._session.msg(kind, content)
        await self._shell.send_multipart(self._session.serialize(message))
        return str(message["header"]["msg_id"])

    async def _receive(self, socket: Any, last: Callable[[str, str, dict[str, Any]], bool]) -> None:
        """Read messages until ``last(type, parent id, content)`` is true."""
        while True:
            parts: list[bytes] = await socket.recv_multipart()
            start = parts.index(_DELIMITER) + 1
            signature, header, parent, metadata, content = parts[start : start + 5]
            if self._session.sign([header, parent, metadata, content]) != signature:
                continue
            kind, origin = json.loads(header)["msg_type"], json.loads(parent).get("msg_id", "")
            if last(kind, origin, json.loads(content)):
                return
