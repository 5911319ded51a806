"""Real answer sets: every gold answer scores 1 and every perturbed one 0, as ``benchmarks/gold.py --perturbed`` has it.

The public sets are no part of the repository; where their files are absent, the tests that need them are skipped.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from aster_env.tasks import load_tasks
from aster_env.types import Task
from benchmarks.gold import check, perturb

DATA = Path(__file__).parents[2].parent / "shared" / "data"
SETS = [
    ("aime24", "aime/AIME24.jsonl", 30),
    ("aime25", "aime/AIME25.jsonl", 30),
    ("gsm8k", "gsm8k/test.jsonl", 1319),
    ("nq", "nq/NQ-open.dev.jsonl", 3610),
]


@pytest.mark.parametrize(("name", "file", "rows"), SETS, ids=[name for name, *_ in SETS])
def test_every_gold_answer_scores_1_and_every_empty_or_perturbed_one_0(name, file, rows):
    if not (DATA / file).exists():
        pytest.skip(f"{file} is not on this machine")
    tasks = load_tasks(name, path=str(DATA / file))
    assert len(tasks) == rows
    row = asyncio.run(check(name, tasks, perturbed=True))
    assert row["failed"] == []
    assert row["right"] == row["gold + 0"] == row["golds"] >= row["count"]
    assert row["empty"] == row["scored"] == 0
    assert row["perturbed"] > 2 * row["count"]
    assert row["left out"] < row["perturbed"] / 10


@pytest.mark.parametrize(
    ("golds", "kind", "wrong", "left_out"),
    [
        (("70",), "math", ["71", "69", "-70", "00", "0", "7"], 0),
        (("0",), "math", ["1", "-1", "3"], 1),
        (("x^2",), "math", ["x^2 + 1", "-(x^2)"], 0),
        (("the Big Apple", "New York"), "qa", ["the Apple", "the Big", "York", "New", "Rome"], 1),
    ],
)
def test_perturbed_answers_are_those_of_the_table_and_never_another_gold(golds, kind, wrong, left_out):
    made = perturb(Task("t", "?", golds, kind), Task("u", "?", ("Rome",), kind))
    assert made == (wrong, left_out)


def test_a_wrong_verdict_is_listed():
    tasks = load_tasks([Task("a", "?", ("1", "2 apples")), Task("b", "?", ("5",))])
    row = asyncio.run(check("mine", tasks, perturbed=True))
    assert row["failed"], row
