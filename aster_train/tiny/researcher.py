"""How the expert solves problems that need both tools, well or badly: search a year, compute with it, answer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from aster_env.dialects import Dialect
from aster_env.types import Task
from aster_train.tiny.searcher import UNKNOWN, Searcher

CLEAN: Mapping[str, float] = {"expert": 1.0}
MIXTURE: Mapping[str, float] = {
    "skip": 0.55,
    "expert": 0.11,
    "no_code": 0.10,
    "no_search": 0.10,
    "misread": 0.05,
    "square": 0.05,
    "elsewhere": 0.02,
    "gives_up": 0.02,
}
"""Shares of behaviours in the second phase of the cold start: mostly a guess without a tool, or with one of the two."""
_FOUND = re.compile(r"<tool_response>\n(.*?)\n</tool_response>", re.DOTALL)
_YEAR = re.compile(r"\b\d{3,4}\b")


class Researcher:
    """Writes the turns of an episode; pass it to ``Expert``.

    Args:
        dialect: how calls and answers are written.
        tasks: those that are played: cubes of years, with ``queries`` and ``expression`` in their metadata.
    """

    def __init__(self, dialect: Dialect, tasks: Sequence[Task]) -> None:
        self._searcher = Searcher(dialect, tasks)
        self._all = list(tasks)
        self.answer = self._searcher.answer
        """Returns the last turn."""
        self.search = self._searcher.call
        """Returns the turn that searches."""

    def __call__(self, context: str, kind: str, rng: np.random.Generator) -> str:
        """Return the next turn: the search, then the code, then the answer.

        Args:
            context: the episode so far.
            kind: a behaviour of ``MIXTURE``.
            rng: decides an episode's details; equal at each of its turns.
        """
        task, other = self._searcher.asked(context), self._all[int(rng.integers(len(self._all)))]
        results = _FOUND.findall(context)
        if kind == "skip":
            return self.answer(other.answers[0])
        searched, computed = '"search"' in context, '"python"' in context
        if not searched and kind != "no_search":
            return self.search((other if kind == "elsewhere" else task).metadata["queries"][0])
        year = _read(task, other, kind, results[0] if searched else "", rng)
        if kind == "no_code":
            return self.answer(year)
        if not computed:
            return self.compute(year, 2 if kind == "square" else 3)
        return self.answer(UNKNOWN if kind == "gives_up" else results[-1])

    def compute(self, year: str, power: int = 3) -> str:
        """Return the turn that raises a year to a power."""
        return self._searcher.dialect.call("python", {"code": f"{year} ** {power}"})


def year_of(task: Task) -> str:
    """Return the year whose cube is asked for."""
    return str(task.metadata["expression"]).split()[0]


def _read(task: Task, other: Task, kind: str, found: str, rng: np.random.Generator) -> str:
    """Return the year that a behaviour goes on with; the right one only where it was found."""
    years, right = set(_YEAR.findall(found)), year_of(task)
    if kind != "misread" and right in years:
        return right
    others = sorted(years - {right})
    return str(rng.choice(others)) if others else year_of(other)
