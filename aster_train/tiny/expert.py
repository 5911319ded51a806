"""A scripted policy that solves generated problems step by step, well or badly, through the real environment."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from aster_env.rollout import Completion, GenerateRequest
from aster_env.tokenizers import Tokenizer

_START = re.compile(r"(?:shows|Take|from) (\d+)\.")
_STEP = re.compile(r"(?i)(multiply by|add|subtract) (\d+)")
_RESULT = re.compile(r"<tool_response>\n(-?\d+)\n</tool_response>")
_SIGN = {"multiply by": "*", "add": "+", "subtract": "-"}
_CALL = '<tool_call>\n{{"name": "python", "arguments": {{"code": "{}"}}}}\n</tool_call>'

CLEAN: Mapping[str, float] = {"expert": 1.0}
MIXTURE: Mapping[str, float] = {
    "skip": 0.58,
    "expert": 0.12,
    "wrong_sign": 0.10,
    "stops_early": 0.08,
    "wrong_number": 0.06,
    "no_echo": 0.06,
}
"""Shares of behaviours in the second phase of the cold start: mostly a guess without the tool, and flaws."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A generated problem as the expert reads it from the prompt."""

    start: int
    steps: tuple[tuple[str, int], ...]


def read_problem(prompt: str) -> Problem:
    """Read a level 1 or 2 problem of ``ASTER/PythonMath-v0`` from its prompt."""
    start = _START.search(prompt)
    if start is None:
        raise ValueError(f"not a generated problem of level 1 or 2: {prompt!r}")
    return Problem(int(start[1]), tuple((_SIGN[said.lower()], int(n)) for said, n in _STEP.findall(prompt)))


def write_call(problem: Problem, step: int, echo: str = "\\nx") -> str:
    """Return the expert's call for one step of a problem."""
    sign, number = problem.steps[step]
    return _CALL.format(f"x = {'x' if step else problem.start} {sign} {number}{echo}")


def write_answer(number: int | str) -> str:
    """Return the expert's last turn."""
    return f"\\boxed{{{number}}}<|im_end|>"


Write = Callable[[str, str, np.random.Generator], str]
"""Returns the next turn from the episode so far, a behaviour, and what decides the episode's details."""


class Expert:
    """Writes an episode's turns, in one of several behaviours.

    Args:
        tokenizer: encodes the turns.
        shares: how often each behaviour occurs.
        seed: with a request's own seed, decides the behaviour of an episode.
        write: returns a turn; ``write_turn`` is that of arithmetic.
    """

    def __init__(self, tokenizer: Tokenizer, shares: Mapping[str, float], seed: int, write: Write) -> None:
        self.tokenizer, self.seed, self.write = tokenizer, seed, write
        self._kinds = list(shares)
        weights = np.array(list(shares.values()))
        self._weights = weights / weights.sum()

    async def generate(self, request: GenerateRequest) -> Completion:
        """Write the next turn."""
        text = self.write(self.tokenizer.decode(request.ids), *self._plan(request.seed))
        return Completion(tuple(self.tokenizer.encode(text)))

    async def release(self, episode: str) -> None:
        """Do nothing: all that is needed is in the request."""

    def _plan(self, seed: int) -> tuple[str, np.random.Generator]:
        rng = np.random.default_rng((self.seed, seed))
        return self._kinds[int(rng.choice(len(self._kinds), p=self._weights))], rng


def write_turn(context: str, kind: str, rng: np.random.Generator) -> str:
    """Return the next turn of an episode: a call a step, each on the variable that the last left, then the result.

    Args:
        context: the episode so far.
        kind: a behaviour of ``MIXTURE``.
        rng: decides an episode's details; equal at each of its turns.
    """
    problem = read_problem(context)
    steps = _spoil(problem, kind, rng)
    calls = context.count("<tool_call>")
    if calls < len(steps) and kind != "skip":
        silent = kind == "no_echo" and calls == len(steps) - 1
        return write_call(Problem(problem.start, steps), calls, "" if silent else "\\nx")
    results = _RESULT.findall(context)
    guess = int(rng.integers(100, 100_000))
    return write_answer(results[-1] if results else guess)


def _spoil(problem: Problem, kind: str, rng: np.random.Generator) -> tuple[tuple[str, int], ...]:
    """Return the steps that a behaviour takes."""
    steps = list(problem.steps)
    place = int(rng.integers(len(steps)))
    sign, number = steps[place]
    if kind == "wrong_sign":
        steps[place] = (str(rng.choice([s for s in "*+-" if s != sign])), number)
    elif kind == "wrong_number":
        steps[place] = (sign, int(rng.integers(11, 100)))
    elif kind == "stops_early":
        steps = steps[:-1]
    return tuple(steps)
