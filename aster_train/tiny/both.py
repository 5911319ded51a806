"""The lesson of ``make demo-both``: a year is searched in an encyclopedia, and its cube computed with Python."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aster_env.dialects import Dialect
from aster_env.env import ToolEnv
from aster_env.envs.multi_tool.tasks import generated
from aster_env.types import Message, Task
from aster_train.examples import IGNORED
from aster_train.tiny import search
from aster_train.tiny.controls import InertPool
from aster_train.tiny.expert import Expert
from aster_train.tiny.lesson import Lesson, Row, alike, around, make_row
from aster_train.tiny.researcher import CLEAN, MIXTURE, Researcher, year_of
from aster_train.tiny.search import SHOWN, WORLD_SIZE

OPERATIONS, ABOUT = ("cube",), ("town", "organisation", "work")
"""Passages about persons often state two years, which this model does not learn to tell apart in minutes."""
FRAME = (*search.FRAME, '\n{"name": "python", "arguments": {"code": "', " ** ")


def ask_cubes(seed: int) -> list[Task]:
    """Return a world's problems, of both its parts."""
    asked = functools.partial(
        generated, mix={"both": 1}, operations=OPERATIONS, about=ABOUT, world_seed=seed, passages=WORLD_SIZE
    )
    return [*asked("train", size=500), *asked("unseen", size=100)]


def copying_rows(dialect: Dialect, rng: np.random.Generator) -> Iterator[Row]:
    """Yield rows in which a problem's name is copied into a search for it, or the result of code into an answer."""
    writer, encode = Researcher(dialect, ()), dialect.tokenizer.encode
    asked = around(lambda text: dialect.prompt([Message("user", text)], {}))
    observed = around(dialect.observation)
    while True:
        task, _ = search.draw(rng, 1, ask_cubes)
        ids = encode(asked(task.prompt))
        yield make_row(ids, encode(writer.search(task.metadata["queries"][0])))
        number = str(int(10 ** rng.uniform(2, 10)))
        shown = encode(writer.compute(str(rng.integers(100, 2000)))) + encode(observed(number))
        yield make_row(shown, encode(writer.answer(number)))


def reading_rows(dialect: Dialect, rng: np.random.Generator) -> Iterator[Row]:
    """Yield rows in which the year that was asked for is copied from the one passage that a search found."""
    return alike(_episodes(dialect, rng, 1, ("python",)), rng, 48)


def episode_rows(dialect: Dialect, rng: np.random.Generator) -> Iterator[Row]:
    """Yield rows of whole episodes in which the search finds ``SHOWN`` passages, the wanted one at any place."""
    return alike(_episodes(dialect, rng, SHOWN, ("search", "python", "answer")), rng, 32)


def _episodes(dialect: Dialect, rng: np.random.Generator, shown: int, taught: Sequence[str]) -> Iterator[Row]:
    """Yield rows of episodes up to the last of the turns that are taught: search, python, answer.

    The results of the code are not the true ones, and as long: nothing but copying gives the answer.
    """
    writer, encode = Researcher(dialect, ()), dialect.tokenizer.encode
    asked = around(lambda text: dialect.prompt([Message("user", text)], {}))
    observed = around(dialect.observation)
    while True:
        task, results = search.draw(rng, shown, ask_cubes)
        cube = str(rng.integers(3 * 10**8, 10**10))
        ids = encode(asked(task.prompt))
        labels = [IGNORED] * len(ids)
        for name, turn, result in (
            ("search", writer.search(task.metadata["queries"][0]), results[0]),
            ("python", writer.compute(year_of(task)), cube),
            ("answer", writer.answer(cube), ""),
        ):
            said = make_row([], encode(turn))
            ids += said["input_ids"]
            labels += said["labels"] if name in taught else [IGNORED] * len(said["labels"])
            if name == taught[-1]:
                break
            seen = encode(observed(result))
            ids += seen
            labels += [IGNORED] * len(seen)
        yield {"input_ids": ids, "labels": labels}


def _expert(env: ToolEnv, shares: Mapping[str, float], seed: int) -> Expert:
    return Expert(env.tokenizer, shares, seed, Researcher(env.dialect, env.tasks))


def _controls(env_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **search.find_controls(env_kwargs),
        "code is never executed": lambda: {"pool": InertPool()},
        "there is no python": lambda: {"tools": ("search",)},
        "there is no search": lambda: {"tools": ("python",)},
    }


LESSON = Lesson(
    title="Demo of two tools",
    asked="problems",
    config=Path(__file__).parents[1] / "configs" / "tiny_both.yaml",
    splits={"test": "other problems", "unseen": "unseen entities"},
    held_out="unseen",
    expert=_expert,
    clean=CLEAN,
    mixture=MIXTURE,
    tokenizer=functools.partial(search.make_search_tokenizer, frame=FRAME),
    texts=functools.partial(search.texts, ask_cubes),
    rows={"copying": copying_rows, "reading": reading_rows, "episodes": episode_rows},
    read={"copying": (450, 64), "reading": (200, 48), "episodes": (100, 32)},
    episodes=(600, 1200),
    rounds=((80, 2e-3), (80, 1.5e-3)),
    batch=24,
    mixture_steps=80,
    mixture_rows=400,
    solved_well=0.9,
    controls=_controls,
    tools=("search", "python"),
)
"""Both tools in ``ASTER/MultiTool-v0``."""
