"""How the expert answers generated questions by searching, well or badly."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from aster_env.dialects import Dialect
from aster_env.types import Task

CLEAN: Mapping[str, float] = {"expert": 1.0}
MIXTURE: Mapping[str, float] = {
    "skip": 0.58,
    "expert": 0.12,
    "half_name": 0.10,
    "elsewhere": 0.08,
    "misread": 0.06,
    "gives_up": 0.06,
}
"""Shares of behaviours in the second phase of the cold start: mostly a guess without a search, and flaws."""
UNKNOWN = "unknown"
_QUESTION = re.compile(r"<\|im_start\|>user\n(.*?)<\|im_end\|>", re.DOTALL)
_FOUND = re.compile(r"<tool_response>\n(.*?)\n</tool_response>", re.DOTALL)
_NAME = re.compile(r"[^\W\d_]*[A-Z][^\W\d_]+(?: [A-Z][^\W\d_]+)*")


class Searcher:
    """Writes the turns of an episode; pass it to ``Expert``.

    Args:
        dialect: how calls and answers are written.
        tasks: those that are played, with ``queries`` in their metadata.
    """

    def __init__(self, dialect: Dialect, tasks: Sequence[Task]) -> None:
        self.dialect = dialect
        self.tasks = {task.prompt: task for task in tasks}
        self._all = list(tasks)

    def __call__(self, context: str, kind: str, rng: np.random.Generator) -> str:
        """Return the next turn: the ideal searches one after the other, then the answer.

        Args:
            context: the episode so far.
            kind: a behaviour of ``MIXTURE``.
            rng: decides an episode's details; equal at each of its turns.
        """
        task, other = self.asked(context), self._all[int(rng.integers(len(self._all)))]
        queries = task.metadata["queries"]
        calls = context.count("<tool_call>")
        if kind != "skip" and calls < len(queries):
            return self.call(_spoil(queries, other, kind)[calls])
        found = "\n".join(_FOUND.findall(context))
        return self.answer(_read(task, other, kind, found, rng))

    def asked(self, context: str) -> Task:
        """Return the task that an episode is about; ``ValueError`` if it is none of those that are played."""
        asked = _QUESTION.search(context)
        if asked is None or asked[1] not in self.tasks:
            raise ValueError(f"not one of the {len(self.tasks)} questions: {context[:200]!r}")
        return self.tasks[asked[1]]

    def call(self, query: str) -> str:
        """Return the turn that searches for ``query``."""
        return self.dialect.call("search", {"query": query})

    def answer(self, value: str) -> str:
        """Return the last turn."""
        return f"{self.dialect.answer(value)}<|im_end|>"


def _spoil(queries: Sequence[str], other: Task, kind: str) -> list[str]:
    """Return the searches that a behaviour makes."""
    if kind == "half_name":
        return [query.split()[0] for query in queries]
    return [*other.metadata["queries"], *queries][: len(queries)] if kind == "elsewhere" else list(queries)


def _read(task: Task, other: Task, kind: str, found: str, rng: np.random.Generator) -> str:
    """Return the answer that a behaviour gives; the right one only where it was found."""
    if kind == "gives_up":
        return UNKNOWN
    names = _NAME.findall(found)
    right = next((answer for answer in task.answers if answer in found), None)
    if kind == "skip" or not names:
        return other.answers[0]
    return str(rng.choice(names)) if kind == "misread" or right is None else right
