"""The two ways to make a session out of SandboxFusion's requests: state kept by the service, or cells replayed."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

from aster_env.errors import KernelError
from aster_env.kernels.base import Cell
from aster_env.kernels.messages import Output, parse_json

_GUEST = Path(__file__).with_name("sandboxfusion_guest.py").read_text(encoding="utf-8")
_MODULE = '__import__("sys").modules["_aster"]'
_LOAD = f"""\
__import__("sys").modules["_aster"] = type(__import__("sys"))("_aster")
exec(compile({_GUEST!r}, "<aster>", "exec"), {_MODULE}.__dict__)
"""
_SERVICE_KEEPS = 1 << 20
"""Bytes of a program's output that the service keeps (its runners/base.py)."""


class Mode(Protocol):
    """One session's state on this side."""

    path: ClassVar[str]

    @property
    def extra(self) -> float:
        """Seconds that the next cell may need beyond its own."""
        ...

    def begin(self) -> None:
        """Note that a cell is about to be sent."""
        ...

    def request(self, code: str, timeout: float, seconds: float, limit: int) -> dict[str, Any]:
        """Return the body of the request that runs a cell; the service ends it after ``seconds``."""
        ...

    def overflow(self, text: str, dropped: int) -> Cell:
        """Return the Cell of an answer too long to be read."""
        ...

    def cell(self, code: str, told: Mapping[str, Any], limit: int) -> Cell:
        """Read the service's answer; KeyError, TypeError and the like if it is not of the form."""
        ...


class Stateful:
    """A session that the service keeps, pickled between cells."""

    path: ClassVar[str] = "/run_stateful_code"

    def __init__(self) -> None:
        self._begun = 0.0
        self._mark = ""
        self._busy = False
        self._session: str | None = None
        self._known: list[str] = []

    @property
    def extra(self) -> float:
        """Nothing: the service restores what is small."""
        return 0.0

    def begin(self) -> None:
        """Start afresh if the last answer never came: nobody knows what the service saved."""
        if self._busy:
            self._forget()
        self._busy, self._begun = True, time.perf_counter()

    def request(self, code: str, timeout: float, seconds: float, limit: int) -> dict[str, Any]:
        """Return the program that runs the cell."""
        self._mark = f"aster {uuid.uuid4().hex} "
        call = f"{_MODULE}.run({code!r}, globals(), {self._known!r}, {timeout!r}, {limit!r}, {self._mark!r})"
        body: dict[str, Any] = {"code": _LOAD + call, "language": "python", "run_timeout": seconds}
        return {**body, "session_id": self._session} if self._session else body

    def overflow(self, text: str, dropped: int) -> Cell:
        """Lose the session: the part that says what became of it is missing."""
        self._busy = False
        self._forget()
        return Cell(error=text, state="lost", seconds=time.perf_counter() - self._begun, truncated=dropped)

    def cell(self, code: str, told: Mapping[str, Any], limit: int) -> Cell:
        """Read the answer: what the program printed, with the guest's report in it."""
        result = told["run_result"]
        printed, err = str(result.get("stdout") or ""), str(result.get("stderr") or "")
        stdout, mark, rest = printed.partition("\n" + self._mark)
        if not mark:
            return self._without_report(result, stdout, err, limit)
        line, _, after = rest.partition("\n")
        report = parse_json(line)
        lost = bool(report["missing"]) or "Failed to persist state" in after
        self._busy = False
        self._session = str(told["session_id"])
        self._known = [str(name) for name in report["names"]]
        if lost:
            self._forget()
        gone = ", ".join(map(str, report["dropped"]))
        note = f"These names cannot be kept in this session and are gone: {gone}.\n" if gone else ""
        output = _filled(limit, stdout, err, _text(report["error"]), _text(report["value"]), note)
        made = output.cell(time.perf_counter() - self._begun, timed_out=bool(report["timed_out"]))
        return _lost(made) if lost else made

    def _without_report(self, result: Mapping[str, Any], stdout: str, err: str, limit: int) -> Cell:
        """Return the Cell of a program that was killed, ended itself, or printed beyond the service's bound."""
        self._busy = False
        self._forget()
        timed_out = result["status"] == "TimeLimitExceeded"
        error = None
        if not timed_out and len(stdout.encode()) >= _SERVICE_KEEPS:
            error = "The cell printed more than the service keeps (1 MiB)."
        elif not timed_out:
            error = f"The Python process ended while the code ran (exit code {result.get('return_code')})."
        output = _filled(limit, stdout, err, error, None)
        cell = output.cell(time.perf_counter() - self._begun, timed_out=timed_out)
        return _lost(cell, died=error is not None and len(stdout.encode()) < _SERVICE_KEEPS)

    def _forget(self) -> None:
        self._session, self._known = None, []


class Replay:
    """A session that is the list of its cells so far."""

    path: ClassVar[str] = "/run_jupyter"

    def __init__(self) -> None:
        self._begun = 0.0
        self._forget()

    @property
    def extra(self) -> float:
        """Twice what the earlier cells took: a service is not equally fast at all times."""
        return 2 * self._replayed

    def begin(self) -> None:
        """Note the time."""
        self._begun = time.perf_counter()

    def request(self, code: str, timeout: float, seconds: float, limit: int) -> dict[str, Any]:
        """Return three cells: the earlier ones in one, silently; the new one; and a report of it."""
        prepare = f"{_LOAD}await {_MODULE}.prepare({self._history!r}, {timeout!r}, {limit!r})"
        return {"cells": [prepare, code, f"{_MODULE}.report()"], "total_timeout": seconds}

    def overflow(self, text: str, dropped: int) -> Cell:
        """Leave the cell out of the session: it may be one that never ends."""
        return Cell(error=text, seconds=time.perf_counter() - self._begun, truncated=dropped)

    def cell(self, code: str, told: Mapping[str, Any], limit: int) -> Cell:
        """Read the answer: the second of the three cells."""
        if told["status"] != "Success":
            return self._killed(told["driver"])
        prepared, ran, reported = told["cells"]
        if prepared["error"]:
            raise KernelError(f"SandboxFusion's kernel did not replay the session: {str(prepared['error'])[:300]}")
        shown = [data.get("text/plain") for data in ran["display"]]
        output = Output(limit)
        for kind in ("stdout", "stderr"):
            output.add("stream", {"name": kind, "text": ran[kind]})
        for text in shown[:-1]:
            output.add("display_data", {"data": {"text/plain": text}})
        output.limit *= 2  # No flood of prints may hide what the cell came to.
        for error in ran["error"]:
            # The frames of the guest are nothing to the model.
            plain = error.get("ename") == "OutputLimitExceeded"
            output.add("error", {**error, "traceback": None} if plain else error)
        if shown:
            output.add("execute_result", {"data": {"text/plain": shown[-1]}})
        timed_out, took = self._times(str(reported["stdout"]))
        if not timed_out:
            self._history.append(code)
            self._replayed += took
        return output.cell(time.perf_counter() - self._begun, timed_out=timed_out)

    def _times(self, report: str) -> tuple[bool, float]:
        """Read the guest's report; a cell can forge it, so the time it tells is bounded by that of the request."""
        most = time.perf_counter() - self._begun
        try:
            told = parse_json(report)
            return told["timed_out"] is True, min(most, max(0.0, float(told["seconds"])))
        except (ValueError, TypeError, KeyError):
            return False, most

    def _killed(self, driver: Mapping[str, Any]) -> Cell:
        self._forget()
        timed_out = driver["status"] == "TimeLimitExceeded"
        text = None if timed_out else f"The Python process ended while the code ran ({driver.get('return_code')})."
        cell = Cell(error=text, seconds=time.perf_counter() - self._begun, timed_out=timed_out)
        return _lost(cell, died=not timed_out)

    def _forget(self) -> None:
        self._history: list[str] = []
        self._replayed = 0.0


def _filled(limit: int, stdout: str, stderr: str, error: str | None, value: str | None, note: str = "") -> Output:
    output = Output(limit)
    output.add("stream", {"name": "stdout", "text": stdout})
    output.add("stream", {"name": "stderr", "text": stderr})
    # What follows is bounded at its source, and says what the cell came to: no flood of prints may hide it.
    output.limit += 2 * limit + len(note)
    output.add("stream", {"name": "stderr", "text": note})
    if error is not None:
        output.add("error", {"traceback": [error]})
    if value is not None:
        output.add("execute_result", {"data": {"text/plain": value}})
    return output


def _text(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} where text was expected")
    return value


def _lost(cell: Cell, *, died: bool = False) -> Cell:
    return replace(cell, state="lost", died=died)


MODES: Mapping[str, type[Stateful] | type[Replay]] = {"stateful": Stateful, "replay": Replay}
"""Modes by name."""
