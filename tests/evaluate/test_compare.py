"""Two runs in pairs."""

from __future__ import annotations

import pytest

from aster_env.errors import UsageError
from aster_env.evaluate.compare import compare
from aster_env.evaluate.records import Run
from aster_env.evaluate.report import compare_text
from tests.evaluate.test_statistics import run_of, sample


def run_with(scores, **changes):
    samples = [sample(task, n, score) for task, each in scores.items() for n, score in enumerate(each)]
    found = run_of(samples, k=4)
    return Run(found.folder, {**found.manifest, "reward": "r", **changes}, found.samples)


def test_the_difference_is_between_the_problems_that_both_have_scored():
    a = run_with({"p": [1, 1], "q": [1, 0], "r": [0], "only": [1], "failed": [None]})
    b = run_with({"p": [0, 0], "q": [0, 1], "r": [1], "failed": [1]})
    found = compare(a, b)
    assert (found["problems"], found["only_a"], found["only_b"]) == (3, 1, 1)
    assert (found["wins"], found["losses"], found["ties"]) == (1, 1, 1)
    assert found["difference"]["value"] == 0.0
    assert found["p"] == 1.0
    assert found["per_problem"][0] == {"task": "p", "a": 1.0, "b": 0.0}


def test_the_other_way_round_gives_the_opposite():
    a, b = run_with({str(i): [1, i % 3 != 0] for i in range(30)}), run_with({str(i): [i % 2, 0] for i in range(30)})
    there, back = compare(a, b), compare(b, a)
    assert there["difference"]["value"] == -back["difference"]["value"] > 0
    assert there["difference"]["low"] == -back["difference"]["high"]
    assert there["p"] == back["p"] < 0.001
    assert (there["wins"], there["losses"]) == (back["losses"], back["wins"])


def test_a_run_is_no_better_than_itself():
    a = run_with({str(i): [i % 2] for i in range(30)})
    found = compare(a, a)
    assert (found["p"], found["ties"], found["difference"]["value"]) == (1.0, 30, 0.0)


def test_sums_that_differ_in_the_last_bit_are_ties():
    a, b = run_with({"p": [0.1, 0.2, 0.3]}), run_with({"p": [0.3, 0.2, 0.1]})
    assert compare(a, b)["ties"] == 1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"environment": "other"}, r"environment \(e and other\)"),
        ({"reward": "f1"}, r"reward \(r and f1\)"),
        (
            {"tasks": {"name": "n", "count": 1, "kind": "math", "hash": "0123456789abcdef"}},
            r"tasks \(h and 0123456789ab\)",
        ),
    ],
)
def test_runs_of_different_things_are_refused_unless_asked_for(change, named):
    a, b = run_with({"p": [1]}), run_with({"p": [1]}, **change)
    with pytest.raises(UsageError, match=named):
        compare(a, b)
    assert compare(a, b, anyway=True)["problems"] == 1


def test_what_differs_and_what_has_no_score_is_said():
    a = run_with({"p": [1, None], "q": [1]})
    b = run_with({"p": [1, 1, 1, 1], "q": [0]})
    b.manifest["settings"] = {**b.manifest["settings"], "temperature": 0.6, "policy": {"kind": "chat", "model": "b"}}
    found = compare(a, b)
    assert ["temperature", None, 0.6] in found["settings"]
    assert ["policy.model", a.manifest["settings"]["policy"].get("model"), "b"] in found["settings"]
    planned = 4 * a.manifest["tasks"]["count"]
    assert found["without"] == [planned - 2, planned - 5]
    assert "a and b differ in temperature" in compare_text(found)
    assert compare(a, a)["settings"] == []


def test_runs_without_a_common_problem_are_refused():
    with pytest.raises(UsageError, match="no problem in common"):
        compare(run_with({"p": [1]}), run_with({"q": [1]}))
