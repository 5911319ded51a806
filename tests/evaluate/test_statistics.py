"""The numbers of a run, against counting by hand and against runs that really had a smaller budget."""

from __future__ import annotations

import asyncio
import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from aster_env.evaluate.records import Run, Sample, read_run
from aster_env.evaluate.run import evaluate
from aster_env.evaluate.statistics import POINTS, group, majority, summarise
from tests.evaluate.agents import settings


def sample(task="t", number=0, score=0.0, answer=None, tokens=10, calls=0, seconds=1.0):
    outcomes = {"ok": calls, "error": 0, "timeout": 0, "invalid": 0}
    stop = "infrastructure" if score is None else "answered"
    return Sample(task, number, 0, score, stop, answer, tokens, calls, seconds, outcomes, {"usage": {"tokens": tokens}})


def run_of(samples, k=1, count=None, budgets=(), kind="math"):
    settings = {
        "policy": {"kind": "chat", "model": "m"},
        "k": k,
        "protocol": "",
        "max_tokens": 1000,
        "max_tool_calls": 50,
        "max_seconds": None,
        "budgets": list(budgets),
    }
    count = len({s.task for s in samples}) if count is None else count
    tasks = {"name": "n", "count": count, "kind": kind, "hash": "h"}
    return Run(Path("x"), {"name": "n", "environment": "e", "settings": settings, "tasks": tasks}, samples)


def played(folder, **options):
    asyncio.run(evaluate(settings(**options), folder, stream=io.StringIO()))
    return read_run(folder)


def test_each_problem_counts_the_same_however_many_samples_it_has():
    samples = [sample("a", i, 1.0, "1") for i in range(4)] + [sample("b", 0, 0.0, "2")]
    found = summarise(run_of(samples, k=4))
    assert found["avg@k"]["value"] == 0.5
    assert found["pass@k"]["1"]["value"] == 0.5
    assert found["pass@k"]["4"]["value"] == 1.0  # of the one problem that has four
    assert found["missing"] == 3


def test_failures_outside_the_model_are_counted_and_never_wrong():
    samples = [sample("a", 0, 1.0, "1"), sample("a", 1, None), sample("b", 0, None), sample("c", 0, 1.0, "1")]
    found = summarise(run_of(samples, k=2))
    assert (found["samples"], found["failed"], found["missing"]) == (2, 2, 2)
    assert found["avg@k"]["value"] == 1.0
    assert [row["score"] for row in found["per_problem"]] == [1.0, None, 1.0]
    assert found["stops"] == {"answered": 2, "infrastructure": 2}


def test_a_run_without_samples_has_numbers_that_are_none():
    found = summarise(run_of([], k=4, count=3, budgets=(5,)))
    assert found["avg@k"] == {"value": None, "low": None, "high": None}
    assert (found["missing"], found["per_problem"], found["pass@k"]) == (12, [], {})


@pytest.mark.parametrize(
    ("answers", "score"),
    [
        ([("1", 1), ("1", 1), ("2", 0)], 1.0),
        ([("1", 1), ("2", 0), ("2", 0)], 0.0),
        ([("1", 1), ("2", 0)], 0.5),
        ([("1", 1), ("2", 0), ("3", 0)], 1 / 3),
        ([("1", 1), (None, 0), (None, 0)], 1.0),
        ([("1", 1), (" ", 0), (" ", 0)], 1.0),
        ([(None, 0)], 0.0),
        ([("012", 1), ("12.0", 1), ("7", 0), (" 7 ", 0), ("12", 1)], 1.0),
        ([("1,000", 1), ("1000", 1), ("7", 0)], 1.0),
    ],
)
def test_the_majority_votes_by_answer_and_ties_count_by_their_share(answers, score):
    samples = [sample(number=i, score=float(right), answer=answer) for i, (answer, right) in enumerate(answers)]
    assert majority(samples, "math") == pytest.approx(score)


def test_answers_to_questions_are_the_same_as_the_reward_reads_them():
    samples = [sample(number=i, answer=a) for i, a in enumerate(["The Nile", "nile.", "NILE", "Rhine"])]
    assert sorted(map(len, group(samples, "qa"))) == [1, 3]


@given(st.permutations([("1", 1.0), ("1.0", 1.0), ("2", 0.0), ("2", 0.0), ("x", 0.0), (None, 0.0)]))
def test_the_order_of_samples_changes_nothing(rows):
    samples = [sample(number=i, score=score, answer=answer) for i, (answer, score) in enumerate(rows)]
    assert majority(samples, "math") == 0.5


@pytest.fixture(scope="module")
def whole():
    with tempfile.TemporaryDirectory() as folder:
        yield read_run_of(folder)


def read_run_of(folder):
    return played(folder, k=4)


@hypothesis_settings(max_examples=12)
@given(budget=st.integers(452, 900))
def test_the_accuracy_at_a_token_budget_is_that_of_a_run_with_this_budget(whole, budget):
    curve = [row["value"] for row in summarise(_with(whole, budgets=[budget]))["at"]]
    with tempfile.TemporaryDirectory() as folder:
        limited = summarise(played(folder, k=4, max_tokens=budget))
    assert curve == [limited["avg@k"]["value"]]


def test_the_budgets_that_matter_most_are_those_at_which_an_episode_just_ends(whole):
    for right in [s for s in whole.samples if s.score][:3]:
        for budget in (right.tokens - 1, right.tokens):
            at = summarise(_with(whole, budgets=[budget]))["at"][0]["value"]
            with tempfile.TemporaryDirectory() as folder:
                assert at == summarise(played(folder, k=4, max_tokens=budget))["avg@k"]["value"]


@pytest.mark.parametrize("calls", [0, 1, 2])
def test_the_accuracy_at_a_call_budget_is_that_of_a_run_with_this_budget(whole, tmp_path, calls):
    curve = {row["limit"]: row["value"] for row in summarise(whole)["budgets"]["tool_calls"]}
    assert curve[calls] == summarise(played(tmp_path, k=4, max_tool_calls=calls))["avg@k"]["value"]


def test_curves_rise_to_the_average_and_have_few_points():
    rng = np.random.default_rng(0)
    samples = [
        sample(f"t{i % 30}", i // 30, float(rng.integers(2)), "1", int(rng.integers(1000)), seconds=rng.random())
        for i in range(480)
    ]
    found = summarise(run_of(samples, k=16, budgets=(500,)))
    for curve in found["budgets"].values():
        values = [row["value"] for row in curve]
        assert len(curve) <= POINTS + 3
        assert values == sorted(values)
        assert values[-1] == pytest.approx(found["avg@k"]["value"])


def test_tool_use_is_counted(whole):
    found = summarise(whole)["tools"]
    counts = [s.tool_calls for s in whole.samples]
    assert found["mean"] == np.mean(counts)
    assert found["ok"] == sum(counts)
    assert found["by_calls"] == [
        [n, counts.count(n), sum(s.score for s in whole.samples if s.tool_calls == n)] for n in sorted(set(counts))
    ]


def _with(run, **changes):
    settings = {**run.manifest["settings"], **changes}
    return Run(run.folder, {**run.manifest, "settings": settings}, run.samples)
