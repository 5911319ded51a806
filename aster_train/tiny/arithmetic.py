"""The lesson of ``make demo``: arithmetic, step by step, in a Python session that remembers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from aster_env.dialects import Dialect
from aster_env.env import ToolEnv
from aster_env.envs.python_math.tasks import Level, draw_problem
from aster_env.kernels import open_pool
from aster_env.types import Message
from aster_train.tiny.controls import ForgetfulPool, InertPool
from aster_train.tiny.expert import CLEAN, MIXTURE, Expert, Problem, read_problem, write_answer, write_call, write_turn
from aster_train.tiny.lesson import Lesson, Row, make_row
from aster_train.tiny.tokenizer import make_tokenizer

READING = Level(("*", "+", "-"), (2, 5), (100, 999), (11, 99))
"""Longer problems than the task's: a model that has read these follows the order of steps in shorter ones."""


def reading_rows(dialect: Dialect, rng: np.random.Generator) -> Iterator[Row]:
    """Yield rows in which a problem's numbers and operations are copied, as a plan or as the first call."""
    tokenizer = dialect.tokenizer
    while True:
        problem, before = _draw(dialect, rng)
        plan = "".join(f" {sign} {operand}" for sign, operand in problem.steps)
        text = f"<think>{problem.start}{plan}</think>" if rng.integers(2) else write_call(problem, 0)
        yield make_row(before, tokenizer.encode(text))


def answering_rows(dialect: Dialect, rng: np.random.Generator) -> Iterator[Row]:
    """Yield rows in which the last of up to three results is copied as the answer.

    The results are not the true ones, and as long as any that a problem has: nothing but copying gives them.
    """
    tokenizer = dialect.tokenizer
    while True:
        problem, ids = _draw(dialect, rng)
        for step in range(min(3, len(problem.steps))):
            result = int(10 ** rng.uniform(1, 8))
            ids += tokenizer.encode(write_call(problem, step)) + tokenizer.encode(dialect.observation(str(result)))
        yield make_row(ids, tokenizer.encode(write_answer(result)))


def _draw(dialect: Dialect, rng: np.random.Generator) -> tuple[Problem, list[int]]:
    prompt, _, _ = draw_problem(rng, "train", READING)
    return read_problem(prompt), dialect.tokenizer.encode(dialect.prompt([Message("user", prompt)], {}))


def _expert(env: ToolEnv, shares: Mapping[str, float], seed: int) -> Expert:
    return Expert(env.tokenizer, shares, seed, write_turn)


LESSON = Lesson(
    title="Demo",
    asked="problems",
    config=Path(__file__).parents[1] / "configs" / "tiny_demo.yaml",
    splits={"test": "fresh", "unseen": "unseen numbers"},
    held_out="test",
    expert=_expert,
    clean=CLEAN,
    mixture=MIXTURE,
    tokenizer=make_tokenizer,
    texts=list,
    rows={"reading": reading_rows, "answering": answering_rows},
    read={"reading": (600, 64)},
    episodes=(2000, 1600),
    # Most seeds need one or two.
    rounds=((400, 3e-3), (200, 2e-3), (200, 2e-3), (200, 2e-3)),
    batch=48,
    mixture_steps=150,
    mixture_rows=0,
    solved_well=0.94,
    controls=lambda _: {
        "variables do not persist": lambda: {"pool": ForgetfulPool(open_pool())},
        "calls are never executed": lambda: {"pool": InertPool()},
    },
)
"""Arithmetic in ``ASTER/PythonMath-v0``."""
