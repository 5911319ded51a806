"""Runs inside SandboxFusion, sent there as text: bounds a cell in time and output, and tells what became of it.

The service runs programs; this makes a notebook's cell out of one. Nothing of this package is installed there, so
only the standard library is imported, and IPython or dill where the service's own way of running has them. Code of a
cell can reach all of this and forge what it tells: the session is the cell's own, and no reward may rest on it.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import importlib
import inspect
import json
import linecache
import signal
import sys
import time
import traceback
from typing import Any

_NAME = "<cell>"


class OutputLimitExceeded(RuntimeError):
    """A cell printed more than the session allows; raised at each further print."""


class Budget:
    """Characters that may be printed, over the streams that share it."""

    def __init__(self, limit: int) -> None:
        self.limit, self.printed = limit, 0


class Bounded:
    """A text stream that passes on what the budget allows; to nowhere if it has no sink."""

    def __init__(self, sink: Any, budget: Budget, *, silent: bool = False) -> None:
        self._sink, self._budget, self._silent = sink, budget, silent

    def write(self, text: str) -> int:
        """Write what may still be printed, and say so where that is not all."""
        budget = self._budget
        room = max(0, budget.limit - budget.printed)
        budget.printed += len(text)
        if not self._silent:
            self._sink.write(text[:room])
        if budget.printed > budget.limit:
            raise OutputLimitExceeded(f"The cell printed more than {budget.limit} characters. Print less.")
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sink, name)


class Clock:
    """The time limit of one cell: an interrupt, as from a user, when it is reached."""

    def __init__(self) -> None:
        self.rang, self.started = False, time.perf_counter()

    def arm(self, seconds: float) -> None:
        """Interrupt the main thread after ``seconds``."""
        self.started = time.perf_counter()
        if signal.getsignal(signal.SIGINT) != signal.default_int_handler and "IPython" not in sys.modules:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # A service in the background ignores SIGINT.
        signal.signal(signal.SIGALRM, self._ring)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM, signal.SIGINT})
        signal.setitimer(signal.ITIMER_REAL, seconds)

    def disarm(self) -> float:
        """Stop the clock and return the seconds since it was armed."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        return time.perf_counter() - self.started

    def _ring(self, *_: object) -> None:
        self.rang = True
        with contextlib.suppress(RuntimeError):  # Where a cell awaits, ipykernel's own reaction does not wake its loop.
            asyncio.get_running_loop().call_soon_threadsafe(lambda: None)
        # By way of SIGINT: an event loop that runs a cell has its own way to stop at that.
        signal.raise_signal(signal.SIGINT)


clock = Clock()


async def prepare(history: list[str], seconds: float, limit: int) -> None:
    """In IPython: run the session's earlier cells without output, then bound the cell that comes next."""
    shell: Any = sys.modules["IPython"].get_ipython()
    streams, hook, publisher = (sys.stdout, sys.stderr), shell.displayhook, shell.display_pub
    changed = (
        (shell, "_showtraceback", lambda *_, **__: None),
        (hook, "write_format_data", lambda *_, **__: None),
        (publisher, "publish", lambda *_, **__: None),
    )
    for owner, name, quiet in changed:
        setattr(owner, name, quiet)
    for source in history:
        budget = Budget(limit)
        sys.stdout, sys.stderr = (Bounded(stream, budget, silent=True) for stream in streams)
        problem = None
        try:
            text = shell.transform_cell(source)
        except Exception:  # noqa: BLE001 - IPython too takes whatever a transformer raises for the cell's error.
            text, problem = source, sys.exc_info()
        await shell.run_cell_async(source, store_history=True, transformed_cell=text, preprocessing_exc_tuple=problem)
    for owner, name, _ in changed:
        vars(owner).pop(name, None)
    budget = Budget(limit)
    sys.stdout, sys.stderr = (Bounded(stream, budget) for stream in streams)
    clock.arm(seconds)


def report() -> None:
    """In IPython: print what became of the cell that ran last."""
    seconds = clock.disarm()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, Bounded):
            setattr(sys, name, stream._sink)
    print(json.dumps({"timed_out": clock.rang, "seconds": seconds}))  # noqa: T201


def run(source: str, names: dict[str, Any], known: list[str], seconds: float, limit: int, mark: str) -> None:
    """In a plain program: run a cell in ``names``, drop what cannot be pickled, print what became of the cell."""
    out, err = sys.stdout, sys.stderr
    budget = Budget(limit)
    sys.stdout, sys.stderr = Bounded(out, budget), Bounded(err, budget)
    missing = [name for name in known if name not in names]
    value: str | None = None
    error: str | None = None
    clock.arm(seconds)
    try:
        value = _execute(source, names)
    except BaseException as problem:  # noqa: BLE001 - SystemExit and the interrupt too are the cell's own.
        error = _tell(problem)
    clock.disarm()
    sys.stdout, sys.stderr = out, err
    dropped = _prune(names)
    told: dict[str, object] = {"value": value and value[:limit], "error": error and error[-limit:]}
    told.update(timed_out=clock.rang, missing=missing, dropped=dropped)
    told["names"] = [name for name in names if not name.startswith("__")]
    out.write("\n" + mark + json.dumps(told) + "\n")
    out.flush()


def _execute(source: str, names: dict[str, Any]) -> str | None:
    """Run the code and return its last expression's representation, as a notebook shows it."""
    linecache.cache[_NAME] = (len(source), None, source.splitlines(keepends=True), _NAME)
    tree = ast.parse(source, _NAME)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    _evaluate(tree, "exec", names)
    if last is None:
        return None
    value = _evaluate(ast.Expression(last.value), "eval", names)  # type: ignore[attr-defined]
    return None if value is None or source.rstrip().endswith(";") else repr(value)


def _evaluate(tree: Any, mode: str, names: dict[str, Any]) -> Any:
    code = compile(tree, _NAME, mode, flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    value = eval(code, names)
    return asyncio.run(value) if code.co_flags & inspect.CO_COROUTINE else value


def _tell(problem: BaseException) -> str:
    """Return the traceback, from the cell's own frames on."""
    frames = problem.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename != _NAME:
        frames = frames.tb_next
    if isinstance(problem, OutputLimitExceeded):
        frames = None
    return "".join(traceback.format_exception(type(problem), problem, frames))


def _prune(names: dict[str, Any]) -> list[str]:
    """Take away the names whose values cannot be pickled: one of them keeps the service from saving any."""
    dill = importlib.import_module("dill")
    dropped = []
    for name in [name for name in names if not name.startswith("__")]:
        try:
            dill.dumps(names[name])
        except BaseException:  # noqa: BLE001 - a value's own __reduce__ may raise anything.
            dropped.append(name)
            del names[name]
    return dropped
