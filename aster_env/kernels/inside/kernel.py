"""A small Jupyter kernel in one thread (Jupyter messaging protocol 5.4)."""

from __future__ import annotations

import builtins
import codeop
import inspect
import os
import platform
import resource
import rlcompleter
import signal
import sys
import threading
from dataclasses import dataclass
from types import FrameType
from typing import Any, Protocol

from . import UNUSABLE
from .cell import Outcome, Shell
from .output import Captured, Outlet, Stream

_MOST_FAILURES = 100
_IDENTIFIER = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.")


@dataclass(slots=True)
class Request:
    """A message from a client; ``route`` is what the transport needs to answer it."""

    channel: str
    header: dict[str, Any]
    content: dict[str, Any]
    route: Any = None


class Transport(Protocol):
    """How messages come and go."""

    stdin: bool
    """Whether a client can be asked for input."""

    def receive(self) -> Request | None: ...  # noqa: D102
    def send(self, channel: str, kind: str, content: dict[str, Any], request: Request | None) -> None: ...  # noqa: D102
    def flush(self) -> None: ...  # noqa: D102


class StdinNotImplementedError(RuntimeError):
    """Raised by ``input()`` where nobody can answer."""


class Kernel:
    """Serves one session.

    Args:
        transport: how messages come and go.
        captured: what is printed below Python.
        max_output: characters that a cell may print.
    """

    def __init__(self, transport: Transport, captured: Captured, max_output: int) -> None:
        self._transport, self._limit = transport, max_output
        self._shell = Shell(max_output, self._relieve)
        self._space = resource.getrlimit(resource.RLIMIT_AS)
        self._request: Request | None = None
        self._count = 0
        self._running = self._sending = self._interrupted = False
        self._main = threading.get_ident()
        self._lock = threading.RLock()
        self._outlet = Outlet(max_output, self._stream)
        self._captured = captured
        sys.stdout, sys.stderr = Stream(self._outlet, "stdout", 1), Stream(self._outlet, "stderr", 2)
        builtins.input = self._input
        signal.signal(signal.SIGINT, self._on_interrupt)

    def serve(self) -> None:
        """Answer requests until the client is gone or asks to shut down."""
        self._send("iopub", "status", {"execution_state": "starting"})
        self._flush()
        failures = 0
        while failures < _MOST_FAILURES:
            try:
                request = self._transport.receive()
            except BaseException:  # noqa: BLE001 (what a cell left behind, a signal handler say, may raise anything here)
                failures += 1
                continue
            if request is None or not self._answer(request):
                return
            failures = 0
        os._exit(UNUSABLE)

    def _answer(self, request: Request) -> bool:
        """Handle a request; False when it was the last. Who waits for an answer gets one, or sees the process end."""
        for _ in range(2):
            try:
                return self._handle(request)
            except BaseException:  # noqa: BLE001 (a cell may have broken what an answer is made with)
                request = Request(
                    request.channel, {**request.header, "msg_type": "unanswered_request"}, {}, request.route
                )
        os._exit(UNUSABLE)

    def _handle(self, request: Request) -> bool:
        self._request = request
        kind = str(request.header.get("msg_type"))
        self._send("iopub", "status", {"execution_state": "busy"})
        if kind == "execute_request":
            reply = self._execute(request)
        elif kind == "shutdown_request":
            reply = {"status": "ok", "restart": bool(request.content.get("restart"))}
        elif kind == "unanswered_request":
            reply = self._report(Outcome(error="The cell's result could not be sent.", name="RuntimeError"))
        else:
            answer = getattr(self, f"_on_{kind}", None)
            reply = answer(request.content) if answer else {"status": "error", "ename": "Unknown", "evalue": kind}
        if not kind.endswith("_request"):
            reply = {}
        if reply:
            self._send(request.channel, kind.replace("_request", "_reply"), reply)
        self._send("iopub", "status", {"execution_state": "idle"})
        self._flush()
        return kind != "shutdown_request"

    def _execute(self, request: Request) -> dict[str, Any]:
        code, silent = str(request.content.get("code", "")), bool(request.content.get("silent"))
        if not silent:
            self._count += 1
            self._send("iopub", "execute_input", {"code": code, "execution_count": self._count})
        self._outlet.begin()
        outcome = self._run(code)
        self._outlet.flush()
        taken, beyond = self._captured.take(self._limit)
        for name, text in taken:
            self._stream(name, text)
        if dropped := self._outlet.dropped + beyond:
            # Of this project alone; other clients ignore it.
            self._send("iopub", "aster_dropped", {"characters": dropped})
        if outcome.error is not None:
            return self._report(outcome)
        if outcome.value is not None and not silent:
            data = {"data": {"text/plain": outcome.value}, "metadata": {}, "execution_count": self._count}
            self._send("iopub", "execute_result", data)
        return {"status": "ok", "execution_count": self._count, "payload": [], "user_expressions": {}}

    def _run(self, code: str) -> Outcome:
        """Run a cell; SIGINT is heard only in here."""
        signal.signal(signal.SIGINT, self._on_interrupt)
        resource.setrlimit(resource.RLIMIT_AS, self._space)
        try:
            self._running = True
            outcome = self._shell.run(code, self._count)
            self._running = False
        except KeyboardInterrupt:
            self._running = False
            outcome = Outcome(error="KeyboardInterrupt", name="KeyboardInterrupt")
        self._relieve()
        if callable(signal.getsignal(signal.SIGALRM)):
            # A time limit of the cell's own must not strike the next one.
            signal.setitimer(signal.ITIMER_REAL, 0)
        return outcome

    def _relieve(self) -> None:
        """Let go of the reserve, so that what comes after a cell has memory."""
        resource.setrlimit(resource.RLIMIT_AS, (self._space[1], self._space[1]))

    def _report(self, outcome: Outcome) -> dict[str, Any]:
        error = {"ename": outcome.name, "evalue": outcome.message, "traceback": str(outcome.error).split("\n")}
        self._send("iopub", "error", error)
        return {"status": "error", "execution_count": self._count, **error}

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        if not self._running:
            return
        if self._sending:
            # Half a message would leave the client without a way to read the rest.
            self._interrupted = True
            return
        raise KeyboardInterrupt

    def _send(self, channel: str, kind: str, content: dict[str, Any]) -> None:
        main = threading.get_ident() == self._main
        if main:
            self._sending = True
        try:
            with self._lock:
                self._transport.send(channel, kind, content, self._request)
        finally:
            if main:
                self._sending = False
        if main and self._interrupted:
            self._interrupted = False
            raise KeyboardInterrupt

    def _flush(self) -> None:
        with self._lock:
            self._transport.flush()

    def _stream(self, name: str, text: str) -> None:
        self._send("iopub", "stream", {"name": name, "text": text})

    def _input(self, prompt: object = "", /) -> str:
        request = self._request
        if not self._transport.stdin or request is None or not request.content.get("allow_stdin"):
            raise StdinNotImplementedError("input() is not available: nobody can answer. Write the value in the code.")
        self._outlet.flush()
        self._send("stdin", "input_request", {"prompt": str(prompt), "password": False})
        answer: str = self._transport.read_input()  # type: ignore[attr-defined]
        return answer

    def _on_kernel_info_request(self, content: dict[str, Any]) -> dict[str, Any]:
        version = platform.python_version()
        language = {
            "name": "python",
            "version": version,
            "mimetype": "text/x-python",
            "file_extension": ".py",
            "pygments_lexer": "ipython3",
            "codemirror_mode": {"name": "ipython", "version": sys.version_info.major},
            "nbconvert_exporter": "python",
        }
        return {
            "status": "ok",
            "protocol_version": "5.4",
            "implementation": "aster",
            "implementation_version": "0.1",
            "language_info": language,
            "banner": f"Python {version}, isolated by aster",
            "supported_features": [],
            "help_links": [],
        }

    def _on_is_complete_request(self, content: dict[str, Any]) -> dict[str, Any]:
        try:
            made = codeop.compile_command(str(content.get("code", "")) + "\n", "cell", "exec")
        except (SyntaxError, ValueError, OverflowError):
            return {"status": "invalid"}
        return {"status": "complete"} if made is not None else {"status": "incomplete", "indent": "    "}

    def _on_complete_request(self, content: dict[str, Any]) -> dict[str, Any]:
        end = int(content.get("cursor_pos", 0))
        before = str(content.get("code", ""))[:end]
        start = len(before)
        while start and before[start - 1] in _IDENTIFIER:
            start -= 1
        completer = rlcompleter.Completer(self._shell.names)
        matches: list[str] = []
        while before[start:] and len(matches) < 200 and (match := completer.complete(before[start:], len(matches))):
            matches.append(match)
        return {"status": "ok", "matches": matches, "cursor_start": start, "cursor_end": end, "metadata": {}}

    def _on_inspect_request(self, content: dict[str, Any]) -> dict[str, Any]:
        code, position = str(content.get("code", "")), int(content.get("cursor_pos", 0))
        start, end = position, position
        while start and code[start - 1] in _IDENTIFIER:
            start -= 1
        while end < len(code) and code[end] in _IDENTIFIER:
            end += 1
        head, *rest = code[start:end].split(".")
        found = self._shell.names.get(head, getattr(builtins, head, None)) if head else None
        for name in rest:
            found = inspect.getattr_static(found, name, None)
        text = (inspect.getdoc(found) or repr(type(found))) if found is not None else ""
        data = {"text/plain": text} if text else {}
        return {"status": "ok", "found": bool(text), "data": data, "metadata": {}}

    def _on_history_request(self, content: dict[str, Any]) -> dict[str, Any]:
        return {"status": "ok", "history": []}

    def _on_comm_info_request(self, content: dict[str, Any]) -> dict[str, Any]:
        return {"status": "ok", "comms": {}}

    def _on_interrupt_request(self, content: dict[str, Any]) -> dict[str, Any]:
        return {"status": "ok"}
