"""Generated arithmetic problems: seeded, unlimited, with splits that share no problem."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from aster_env.errors import UsageError, check_name
from aster_env.tasks import TaskSet
from aster_env.types import Task

SPLITS = ("train", "test", "unseen")
_FRAMES = (
    "A counter shows {start}. {steps}. What does it show now?",
    "Take {start}. {steps}. What is the result?",
    "Start from {start}. {steps}. Where do you end?",
)


@dataclass(frozen=True, slots=True)
class Step:
    """One dependent operation on the running value."""

    operation: str
    operand: int

    def text(self) -> str:
        """Say the step in words."""
        return OPERATIONS[self.operation][0].format(self.operand)

    def apply(self, value: int) -> int:
        """Return the running value after the step."""
        return OPERATIONS[self.operation][1](value, self.operand)


OPERATIONS: dict[str, tuple[str, Callable[[int, int], int]]] = {
    "*": ("multiply by {}", lambda x, n: x * n),
    "+": ("add {}", lambda x, n: x + n),
    "-": ("subtract {}", lambda x, n: x - n),
    "//": ("divide by {} and drop the remainder", lambda x, n: x // n),
    "%": ("take the remainder after division by {}", lambda x, n: x % n),
    "gcd": ("take the greatest common divisor with {}", math.gcd),
    "**": ("raise to the power {}", lambda x, n: x**n),
    "sum": ("add up all integers from 1 to it, then add {}", lambda x, n: x * (x + 1) // 2 + n),
}


@dataclass(frozen=True, slots=True)
class Level:
    """How hard a problem is: the ranges of its parts (all bounds inclusive)."""

    operations: tuple[str, ...]
    steps: tuple[int, int]
    start: tuple[int, int]
    operand: tuple[int, int]


LEVELS = {
    1: Level(("*", "+", "-"), (1, 2), (100, 999), (11, 99)),
    2: Level(("*", "+", "-"), (2, 3), (100, 999), (11, 99)),
    3: Level(("*", "+", "-", "//", "%"), (3, 5), (1_000, 99_999), (101, 9_999)),
    4: Level(("*", "+", "-", "//", "%", "sum"), (4, 7), (1_000, 999_999), (101, 99_999)),
    5: Level(("*", "+", "-", "//", "%", "gcd", "sum", "**"), (5, 9), (10_000, 999_999), (1_001, 99_999)),
}


def generated(split: str = "train", *, level: int = 2, size: int = 4096, seed: int = 0) -> TaskSet:
    """Return ``size`` problems of one to nine dependent steps, too large to do in the head.

    Args:
        split: ``"train"``, ``"test"`` (other problems, the same numbers) or ``"unseen"`` (numbers that occur in no
            other split). No problem is in two splits, whatever the seeds.
        level: 1 to 5: more steps, larger numbers, more kinds of operations.
        size: how many.
        seed: other problems of the same split.

    Raises:
        UsageError: an argument is not allowed.
    """
    check_name("split", split, SPLITS)
    if level not in LEVELS:
        raise UsageError(f"level={level!r} is not allowed. Allowed: {', '.join(map(str, LEVELS))}.")
    if size < 1:
        raise UsageError(f"size={size} is not allowed. Allowed: at least 1.")
    return TaskSet([generate_task(split, n, level=level, seed=seed) for n in range(size)], f"generated-{split}")


def generate_task(split: str, index: int, *, level: int = 2, seed: int = 0) -> Task:
    """Return problem ``index`` of a split; see ``generated``."""
    rng = np.random.default_rng((SPLITS.index(split), level, seed, index))
    prompt, answer, steps = draw_problem(rng, split, LEVELS[level])
    metadata = {"level": level, "split": split, "steps": steps}
    return Task(f"{split}-l{level}-s{seed}-{index}", prompt, (answer,), "math", metadata)


def draw_problem(rng: np.random.Generator, split: str, level: Level) -> tuple[str, str, int]:
    """Return a problem of a split, its answer and its number of steps."""
    while True:
        frame = _FRAMES[int(rng.integers(len(_FRAMES)))]
        start, steps, value = _draw(rng, level, split == "unseen")
        if value > 0 and (split == "unseen" or _split_of(start, steps) == split):
            said = ", then ".join(step.text() for step in steps)
            return frame.format(start=start, steps=said[0].upper() + said[1:]), str(value), len(steps)


def _draw(rng: np.random.Generator, level: Level, unseen: bool) -> tuple[int, tuple[Step, ...], int]:
    """Draw a start and steps whose running value stays positive; the value is 0 if that failed."""

    def number(bounds: tuple[int, int]) -> int:
        while True:
            drawn = int(rng.integers(bounds[0], bounds[1] + 1))
            if (drawn % 7 == 3) == unseen:
                return drawn

    start = value = number(level.start)
    steps = []
    for _ in range(int(rng.integers(level.steps[0], level.steps[1] + 1))):
        operation = level.operations[int(rng.integers(len(level.operations)))]
        # A power's exponent is small and so neither seen nor unseen: 10 is 3 mod 7, and too large a power.
        operand = int(rng.integers(2, 4)) if operation == "**" else number(level.operand)
        step = Step(operation, operand)
        value = step.apply(value)
        steps.append(step)
        if not 0 < value < 10**60:
            return start, (), 0
    return start, tuple(steps), value


def _split_of(start: int, steps: tuple[Step, ...]) -> str:
    """Assign a problem, whatever its wording, to train (9 of 10) or test by a hash."""
    key = f"{start} {' '.join(f'{s.operation}{s.operand}' for s in steps)}"
    digest = hashlib.blake2b(key.encode(), digest_size=4).digest()
    return "test" if int.from_bytes(digest, "big") % 10 == 0 else "train"


GENERATORS: dict[str, Callable[..., TaskSet]] = {"generated": generated}
