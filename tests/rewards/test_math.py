"""The mathematical reward: equivalence, hostile answers, time, threads, processes."""

from __future__ import annotations

import asyncio
import os
import threading

import hypothesis.strategies as st
import pytest
from hypothesis import given

from aster_env.rewards.math import MathReward, grade_quickly
from aster_env.types import StopReason, Task, Trajectory


def grade(pairs, **options):
    async def main():
        reward = MathReward(**options)
        try:
            return [await reward.grade(golds, answer) for golds, answer in pairs], reward
        finally:
            await reward.close()

    return asyncio.run(main())


EQUAL = [
    ("12", "12"), ("12", "012"), ("1200", "1,200"), ("12", "12.0"), ("-3", "-3"), ("0", "-0"),
    ("\\frac{1}{2}", "0.5"), ("\\frac{1}{2}", "1/2"), ("\\frac12", "\\dfrac{1}{2}"), ("2\\sqrt{3}", "\\sqrt{12}"),
    ("\\pi/2", "\\frac{\\pi}{2}"), ("x^2+2x+1", "(x+1)^2"), ("(1,2)", "(1, 2)"), ("45", "45^\\circ"),
    ("\\{1,2\\}", "\\{2,1\\}"), ("2^{10}", "1024"), ("18", "$18"), ("18", "18 \\text{ dollars}"),
]  # fmt: skip
DIFFERENT = [
    ("12", "13"), ("12", ""), ("12", "   "), ("12", "twelve"), ("0.5", "0.6"), ("(1,2)", "(2,1)"), ("x+1", "x-1"),
    ("12", "1 2"), ("3", "\\boxed"), ("-3", "3"), ("12", "12, 13"), ("1", "(" * 500), ("1", "x" * 5000),
]  # fmt: skip


def test_equivalent_answers_score_and_others_do_not():
    verdicts, _ = grade([((gold,), answer) for gold, answer in EQUAL + DIFFERENT])
    wrong = [
        (pair, verdict)
        for pair, verdict in zip(EQUAL + DIFFERENT, verdicts, strict=True)
        if bool(verdict) != (pair in EQUAL)
    ]
    assert wrong == []


def test_any_reference_answer_will_do():
    assert grade([(("1", "\\frac{1}{2}"), "0.5")])[0] == [True]


def test_an_answer_that_cannot_be_judged_in_time_scores_zero_and_is_counted():
    async def main():
        reward = MathReward(timeout=0.05)
        try:
            tower = "9^{9^{9^{9}}}"
            trajectory = Trajectory(Task("t", "?", ("x^2+1",)), stop=StopReason.ANSWERED, answer=tower)
            result = await reward(trajectory.task, trajectory)
            assert (result.value, result.judged, result.terms["unjudged"], reward.unjudged) == (0.0, False, 1.0, 1)
            reward.timeout = 30
            assert await reward.grade(("\\frac{1}{2}",), "0.5") is True
        finally:
            await reward.close()

    asyncio.run(main())


@pytest.mark.parametrize("stop", [s for s in StopReason if s is not StopReason.ANSWERED])
def test_only_an_answered_episode_scores(stop):
    trajectory = Trajectory(Task("t", "?", ("2",)), stop=stop, answer="2")
    assert asyncio.run(MathReward()(trajectory.task, trajectory)).value == 0.0


def test_it_works_off_the_main_thread_and_leaves_no_process():
    seen = {}

    def work():
        async def main():
            reward = MathReward()
            seen["verdict"] = await reward.grade(("\\frac{1}{2}",), "0.5")
            seen["pids"] = [worker.pid for worker in reward._all]
            await reward.close()

        asyncio.run(main())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen["verdict"] is True
    assert seen["pids"]
    for pid in seen["pids"]:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@given(st.integers(-(10**30), 10**30), st.integers(-(10**30), 10**30))
def test_integers_are_judged_in_place_and_exactly(gold, answer):
    assert grade_quickly((str(gold),), f" {answer:,} ") == (gold == answer)
    assert grade_quickly((f"{gold:,}",), f"{gold}.0") is True


@given(st.text(max_size=40))
def test_the_quick_judgement_accepts_only_what_is_equal(answer):
    verdict = grade_quickly(("17",), answer)
    if verdict:
        assert float(answer.strip().replace(",", "")) == 17
