"""Runs cells as a notebook does: names persist, the last expression is echoed, ``await`` works at top level."""

from __future__ import annotations

import ast
import asyncio
import inspect
import linecache
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType, ModuleType
from typing import Any

from IPython.lib.pretty import pretty

from .tracebacks import cell_name, name_of, plain

_FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
_MAGIC = re.compile(r"\s*([\w, ]+=\s*)?[%!?]|.*\?\s*$")
_LONGEST_NAME = 200
_NO_MAGIC = (
    "UsageError: this session runs plain Python: IPython's magics (%…), shell commands (!…) and help (?) "
    "are not available."
)


@dataclass(slots=True)
class Outcome:
    """What a cell came to: the echo of its last expression, or its error."""

    value: str | None = None
    error: str | None = None
    name: str = ""
    message: str = ""


class Shell:
    """A session's names, and the cells run over them.

    Args:
        limit: characters of an echo or a traceback; the middle of a longer one is cut out.
        relieve: called when a cell failed, before its error is put in words: memory may have run out.
    """

    def __init__(self, limit: int, relieve: Callable[[], None]) -> None:
        self._limit, self._relieve = limit, relieve
        self._runner: asyncio.Runner | None = None
        module = ModuleType("__main__")
        # A stock session has these too, and pickle finds its classes by them.
        sys.modules["__main__"] = module
        self.names: dict[str, Any] = module.__dict__
        self.names["__builtins__"] = sys.modules["builtins"]
        self.names["display"] = _display

    def run(self, code: str, count: int) -> Outcome:
        """Run ``code`` as cell number ``count``; whatever it raises is in the outcome."""
        try:
            value = self._evaluate(code, count)
            if value is None:
                return Outcome()
            self.names.update(_=value, __=self.names.get("_"), ___=self.names.get("__"))
            return Outcome(value=self._shorten(pretty(value)))
        except BaseException as error:  # noqa: BLE001 (a cell may raise anything, SystemExit and KeyboardInterrupt too)
            return self._failed(error, code)

    def _evaluate(self, code: str, count: int) -> Any:
        name = cell_name(count)
        linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
        tree = compile(code, name, "exec", _FLAGS | ast.PyCF_ONLY_AST, dont_inherit=True)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        if tree.body:
            self._execute(compile(tree, name, "exec", _FLAGS, dont_inherit=True))
        if last is None:
            return None
        expression = ast.Expression(last.value)
        value = self._execute(compile(expression, name, "eval", _FLAGS, dont_inherit=True))
        return None if code.rstrip().endswith(";") else value

    def _execute(self, code: CodeType) -> Any:
        value = eval(code, self.names)
        if code.co_flags & inspect.CO_COROUTINE:
            return self._await(value)
        return value

    def _await(self, coroutine: Any) -> Any:
        if self._runner is None:
            self._runner = asyncio.Runner()
        try:
            return self._runner.run(coroutine)
        except KeyboardInterrupt:
            # The interrupt left the loop, not the task.
            loop = self._runner.get_loop()
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            raise

    def _failed(self, error: BaseException, code: str) -> Outcome:
        self._relieve()
        kind = type(error).__name__[:_LONGEST_NAME]
        try:
            if isinstance(error, SyntaxError) and _is_magic(error, code):
                return Outcome(error=_NO_MAGIC, name="UsageError", message=_NO_MAGIC)
            text = name_of(error) if isinstance(error, SystemExit) else plain(error)
            message = str(error)
        except BaseException as second:  # noqa: BLE001 (the model's own classes take part, and may do anything)
            text = message = f"{kind} (its traceback could not be made: {type(second).__name__[:_LONGEST_NAME]})"
        return Outcome(error=self._shorten(text), name=kind, message=self._shorten(message))

    def _shorten(self, text: str) -> str:
        if len(text) <= self._limit:
            return text
        half = self._limit // 2
        return f"{text[:half]}\n[… {len(text) - 2 * half} characters cut …]\n{text[-half:]}"


def _is_magic(error: SyntaxError, code: str) -> bool:
    """Whether the line that is no Python is one of IPython's own."""
    if not (str(error.filename).startswith("Cell In") and isinstance(error.lineno, int)):
        return False
    lines = code.splitlines()
    return 0 < error.lineno <= len(lines) and _MAGIC.match(lines[error.lineno - 1]) is not None


def _display(*values: object) -> None:
    """Print values as a cell echoes them."""
    for value in values:
        sys.stdout.write(pretty(value) + "\n")
