"""What a demo teaches: the parts in which one lesson differs from another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from aster_env.dialects import Dialect
from aster_env.env import ToolEnv
from aster_env.rollout import Policy
from aster_train.examples import IGNORED

Row = dict[str, list[int]]
"""``input_ids`` and ``labels`` of one example, without padding."""
MakeRows = Callable[[Dialect, np.random.Generator], Iterator[Row]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """One thing that the embedded model learns.

    Args:
        title: of the report.
        asked: what the tasks are called there.
        config: the file of its GRPO; its ``env`` and ``env_kwargs`` are used throughout.
        splits: of the evaluations, with what the report calls them.
        held_out: the split of the controls and of the picture.
        expert: makes the scripted policy: ``expert(env, shares, seed)``.
        clean: shares of the expert's behaviours in the first phase of trajectories.
        mixture: the same in the second: mostly a guess without the tool, and flaws.
        tokenizer: makes a tokenizer from texts.
        texts: for the tokenizer, beside the expert's episodes.
        rows: makers of synthetic rows without end, by name; they go on beside the clean trajectories.
        read: which of them are learned before the trajectories, one after the other, with the most steps of each and
            the rows of a batch.
        episodes: how many of the expert's there are of either phase.
        rounds: steps and learning rate of each round on clean trajectories; one that solves enough is the last.
        batch: rows of a batch there.
        mixture_steps: updates on the mixture.
        mixture_rows: how many rows of each of ``rows`` go on beside it, so that its guesses do not spoil copying.
        solved_well: what share of ``CHECKED`` tasks, solved greedily, is enough.
        controls: by name, what makes the arguments of the environment that a control replaces; all of them get the
            environment's own. An argument that has ``close()``, a coroutine, is closed.
        tools: those that a solution needs, where there are several: the report counts who executed all of them.
    """

    title: str
    asked: str
    config: Path
    splits: Mapping[str, str]
    held_out: str
    expert: Callable[[ToolEnv, Mapping[str, float], int], Policy]
    clean: Mapping[str, float]
    mixture: Mapping[str, float]
    tokenizer: Callable[[Iterable[str]], Any]
    texts: Callable[[], Iterable[str]]
    rows: Mapping[str, MakeRows]
    read: Mapping[str, tuple[int, int]]
    episodes: tuple[int, int]
    rounds: Sequence[tuple[int, float]]
    batch: int
    mixture_steps: int
    mixture_rows: int
    solved_well: float
    controls: Callable[[Mapping[str, Any]], Mapping[str, Callable[[], Mapping[str, Any]]]]
    tools: Sequence[str] = ()


def around(render: Callable[[str], str]) -> Callable[[str], str]:
    """Return what ``render`` does to a text without structure, faster."""
    before, after = render("0").split("0")
    return lambda text: before + text + after


def alike(rows: Iterator[Row], rng: np.random.Generator, batch: int, batches: int = 4) -> Iterator[Row]:
    """Yield the rows in an order that puts those of about the same length into a batch: less of it is padding."""
    while True:
        ordered = sorted(islice(rows, batch * batches), key=lambda row: len(row["input_ids"]))
        for n in rng.permutation(batches):
            yield from ordered[n * batch : (n + 1) * batch]


def make_row(before: list[int], ids: list[int]) -> Row:
    """Return a row that teaches to go on with ``ids``, all but the first of them.

    The first token says what kind of row follows, which nothing before it tells: it is not learned.
    """
    return {"input_ids": before + ids, "labels": [IGNORED] * (len(before) + 1) + ids[1:]}
