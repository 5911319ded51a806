"""The fork server: a warm parent that forks one confined session a request.

It has one thread, holds nothing of the host but its control socket, and ends when that closes; as the first process
of its own pid namespace it then takes every session with it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import shutil
import signal
import socket
import sys
from typing import Any, NoReturn

from . import linux, sandbox
from .kernel import Kernel, Transport
from .output import Captured
from .pipe import PipeTransport
from .settings import Settings
from .zmqio import ZmqTransport

_MOST_FDS = 8


class Zygote:
    """Serves fork requests.

    Args:
        control: a SEQPACKET socket to the host.
        zone: what the sessions share.
        settings: what each may use.
    """

    def __init__(self, control: socket.socket, zone: sandbox.Zone, settings: Settings) -> None:
        self._control, self._zone, self._settings = control, zone, settings
        self._numbers: dict[int, int] = {}
        self._places: dict[int, int] = {}
        self._wake, wake = socket.socketpair()
        wake.setblocking(False)
        self._wake.setblocking(False)
        self._waker = wake
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)

    def serve(self) -> None:
        """Answer requests until the host is gone."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if self._wake.fileno() in ready:
                with contextlib.suppress(BlockingIOError):
                    self._wake.recv(4096)
                self._reap()
            if self._control.fileno() in ready:
                data, fds, _, _ = socket.recv_fds(self._control, 1 << 16, _MOST_FDS)
                if not data:
                    return
                self._fork(json.loads(data), fds)

    def end(self) -> None:
        """Kill what is left, where no pid namespace does it."""
        for pid in self._numbers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in self._numbers:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)

    def _fork(self, request: dict[str, Any], fds: list[int]) -> None:
        number, place = request["fork"], self._free_place(request["fork"])
        apart = self._zone.pid_namespace >= 0
        pid = -1
        try:
            if apart:
                linux.unshare(linux.CLONE_NEWPID)
            pid = os.fork()
            if pid == 0:
                _session(self._zone, self._settings, {**request, "place": place}, fds)
            self._numbers[pid], self._places[pid] = number, place
            handle = os.pidfd_open(pid)
            try:
                self._tell({"forked": number}, [handle])
            finally:
                os.close(handle)
        except OSError as error:
            if pid > 0:
                os.kill(pid, signal.SIGKILL)
            self._tell({"refused": number, "why": str(error)})
        finally:
            if pid and apart:
                linux.setns(self._zone.pid_namespace, linux.CLONE_NEWPID)
            for fd in fds:
                os.close(fd)

    def _free_place(self, number: int) -> int:
        """Return a place that no living session has; with as many sessions as places, they begin to share."""
        count, taken = len(self._zone.uids) or 1, set(self._places.values())
        return next((place for n in range(count) if (place := (number + n) % count) not in taken), number % count)

    def _reap(self) -> None:
        while self._numbers:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            number, cpu = self._numbers.pop(pid, -1), usage.ru_utime + usage.ru_stime
            self._places.pop(pid, None)
            if not self._zone.on("mounts"):
                # Trees that are too deep stay until the keeper removes the whole folder.
                with contextlib.suppress(RecursionError):
                    shutil.rmtree(os.path.join(self._settings.folder, f"s{number}"), ignore_errors=True)
            self._tell({"ended": number, "status": os.waitstatus_to_exitcode(status), "cpu": cpu})

    def _tell(self, message: dict[str, Any], fds: list[int] | None = None) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            socket.send_fds(self._control, [json.dumps(message).encode()], fds or [])


def run(
    control: socket.socket,
    mode: str,
    settings: Settings,
    layers: dict[str, tuple[bool, str]],
    groups: list[str],
    keeper: int,
) -> None:
    """Become the fork server of ``mode``: tell the host how it went, then serve it.

    Args:
        control: a SEQPACKET socket to the host.
        mode: one of ``settings.MODES``.
        settings: the limits.
        layers: those that were laid before.
        groups: the folders of the control groups that hold the sessions, for the host to read.
        keeper: the keeper's process id.
    """
    try:
        zone = sandbox.enter(mode, settings, keeper)
        zone.layers |= layers
        lacks = sandbox.missing(zone)
        if lacks and not settings.unsandboxed:
            raise OSError("; ".join(lacks))
        absent = preload(settings.preload)
        sandbox.measure(zone)
    except Exception as error:  # noqa: BLE001 (whatever a preloaded library raises is the host's to know)
        control.send(json.dumps({"failed": str(error) or type(error).__name__}).encode())
        return
    # Sessions find nothing of the host in the command line that started the fork server.
    sys.argv[:], sys.orig_argv[:] = [""], []
    control.send(json.dumps({"ready": mode, "layers": zone.layers, "absent": absent, "groups": groups}).encode())
    zygote = Zygote(control, zone, settings)
    try:
        zygote.serve()
    finally:
        zygote.end()


def preload(names: tuple[str, ...]) -> dict[str, str]:
    """Import modules once for all sessions, and return those that could not be, with the reason."""
    absent = {}
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 (a broken installation may raise anything)
            absent[name] = f"{type(error).__name__}: {error}"
    gc.collect()
    # What is loaded now stays out of later collections: they would copy its pages into every session.
    gc.freeze()
    return absent


def _session(zone: sandbox.Zone, settings: Settings, request: dict[str, Any], fds: list[int]) -> NoReturn:
    """Turn a fresh fork into a session; never returns."""
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        report = os.dup(fds[0])
        _close_all_but({0, 1, 2, zone.proc, report, *fds})
        _serve(zone, settings, request, fds, report)
    except BaseException as error:  # noqa: BLE001 (nothing may return into the fork server's stack)
        with contextlib.suppress(OSError):
            os.write(report, _failure(error))
    finally:
        os._exit(0)


def _serve(zone: sandbox.Zone, settings: Settings, request: dict[str, Any], fds: list[int], report: int) -> None:
    _reseed()
    captured = Captured()
    sandbox.confine(zone, settings, request["fork"], request["place"])
    os.close(zone.proc)
    os.close(report)
    transport: Transport
    if request["transport"] == "pipe":
        transport = PipeTransport(socket.socket(fileno=fds[0]))
    else:
        transport = ZmqTransport(request["addresses"], fds, request["key"].encode())
    Kernel(transport, captured, settings.max_output).serve()


def _reseed() -> None:
    """Give each session random numbers of its own (Python's ``random`` reseeds itself after a fork)."""
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()


def _close_all_but(kept: set[int]) -> None:
    first = 0
    for fd in sorted(kept):
        if fd > first:  # an empty range reaches the system as (0, 2**32 - 1)
            os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, 1 << 20)


def _failure(error: BaseException) -> bytes:
    text = json.dumps({"header": {"msg_type": "aster_failed"}, "content": {"why": f"{type(error).__name__}: {error}"}})
    return len(text).to_bytes(4, "big") + text.encode()
