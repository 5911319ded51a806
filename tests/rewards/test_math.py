"""The mathematical reward: equivalence, hostile answers, time, threads, processes."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from aster_env.errors import JudgeError
from aster_env.rewards import judges
from aster_env.rewards.math import MathReward, grade_quickly
from aster_env.types import StopReason, Task, Trajectory
from tests.kernels.test_ipykernel import alive, wait_until_gone


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
    ("\\{1,2\\}", "\\{2,1\\}"), ("2^{10}", "1024"), ("18", "$18"), ("18", "18 \\text{ dollars}"), ("12", "x = 12"),
    ("12", "$x = 12$"), ("12", "x=\\boxed{12}"), ("12", "m + n = 12"), ("12", "2+10=12"), ("12", "= 12"),
    ("12", "f(2) = 12"), ("12", "a_{10} = 12"), ("12", "P(A|B) = 12"), ("12", "\\text{Area} = 12"), ("12", "e = 12"),
    ("12", "\\sum_{k=1}^{3} 4 = 12"), ("12", "y = mx + b = 12"), ("12", "x \\equiv 12 \\pmod{13}"),
    ("12", "x \\approx 12"), ("12", "12 \\implies 12"), ("\\frac13", "\\frac13 \\approx 0.333"),
    ("2\\sqrt{3}", "x = 2\\sqrt3 \\approx 3.46\\ldots"), ("12.3", "12.3 \\approx 12"), ("x+1", "y = x + 1"),
    ("x+1", "f(x)=1+x"), ("x=12", "12"), ("x=12", "x=12"), ("(1,2)", "(x,y)=(1,2)"), ("12,3", "x=12, y=3"),
    ("18", "x = \\$18"), ("12", "12 = x"), ("12", "x = 12."), ("12", "{x = 12}"), ("12", "(x = 12)"),
    ("12", "x \\to 12"), ("\\frac23", "\\frac23 \\approx 0.67"), ("\\frac23", "\\frac23 \\approx 0.66"),
    ("12", "x=12 \\iff x=12"),
]  # fmt: skip
DIFFERENT = [
    ("12", "13"), ("12", ""), ("12", "   "), ("12", "twelve"), ("0.5", "0.6"), ("(1,2)", "(2,1)"), ("x+1", "x-1"),
    ("12", "1 2"), ("3", "\\boxed"), ("-3", "3"), ("12", "12, 13"), ("1", "(" * 500), ("1", "x" * 5000),
    ("12", "13=12"), ("12", "12=13"), ("12", "12 \\approx 13"), ("12", "12 ≈ 13"), ("12", "13 \\approx 12"),
    ("12", "x = 13"), ("12", "x=13=12"), ("12", "1=2=12"), ("12", "x=12=13"), ("12", "x+1=13"), ("12", "13 \\to 12"),
    ("12", "13 \\Rightarrow 12"), ("12", "13 \\sim 12"), ("12", "13 \\equiv 12"), ("12", "x = \\pm 12"),
    ("12", "x < 12"), ("12", "x \\ge 12"), ("12", "12 \\ne 13"), ("12", "x = 12, y = 3"),
    ("12", "\\frac{13}{1} = 12"), ("\\frac13", "\\frac13 \\approx 0.5"), ("\\frac13", "x \\approx 0.333"),
    ("2\\sqrt{3}", "2\\sqrt3 \\approx 3.6"), ("x+1", "x-1=x+1"), ("x+1", "2=x+1"), ("12", "="), ("12", "x ="),
    ("12", "(13=12)"), ("12", "{13=12}"), ("12", "13 \\iff 12"), ("12", "13 \\Longrightarrow 12"), ("12", "13 ⟹ 12"),
    ("12.3", "12.3 \\approx 13"), ("\\frac23", "\\frac23 \\approx 0.68"), ("12", "12 = x + 1"), ("12", "x = y"),
]  # fmt: skip


def test_equivalent_answers_score_and_others_do_not():
    verdicts, _ = grade([((gold,), answer) for gold, answer in EQUAL + DIFFERENT])
    wrong = [
        (pair, verdict)
        for pair, verdict in zip(EQUAL + DIFFERENT, verdicts, strict=True)
        if bool(verdict) != (pair in EQUAL)
    ]
    assert wrong == []


GOLDS = [
    "204", "070", "1,002", "-3", "0", "0.125", "\\frac{3}{4}", "\\dfrac{9\\sqrt{23}}{23}", "1-\\frac{2}{\\pi}",
    "2^{99}", "\\sqrt{33}+1", "e^{2}", "\\binom{10}{3}", "x^2+2x+1",
    "\\frac{-1+\\sqrt{17}}{2}, \\frac{-1-\\sqrt{17}}{2}", "(3, \\frac{\\pi}{2})", "\\{1, 2\\}", "[0, 1)",
    "(-\\infty, 2)", "90^\\circ", "\\text{Evelyn}", "6 - 5i", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "10\\%",
    "\\$32,348", "2516_8", "y = 2x + 3", "11\\sqrt{2}", "\\frac{1}{2^{10}}", "10!",
]  # fmt: skip
"""The forms that reference answers have in AIME, GSM8K, MATH-500, HMMT and BeyondAIME, written by hand."""


def test_every_form_of_a_gold_answer_scores_one_and_an_empty_one_zero():
    async def main():
        # The same strings are judged in place; here they take the road through the judge's processes too.
        processes = judges.Judges(2)
        try:
            return [await processes.judge((gold,), gold, 30) for gold in GOLDS]
        finally:
            await processes.close()

    assert [gold for gold, verdict in zip(GOLDS, asyncio.run(main()), strict=True) if verdict is not True] == []
    pairs = [((gold,), answer) for gold in GOLDS for answer in (gold, "")]
    assert grade(pairs)[0] == [True, False] * len(GOLDS)


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
            seen["pids"] = reward._judges.pids
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


HALF = (("\\frac{1}{2}",), "0.5")


def test_rewards_of_one_loop_share_their_judges_and_the_last_ends_them():
    async def main():
        first, second = MathReward(), MathReward(timeout=30)
        assert await first.grade(*HALF)
        assert await second.grade(*HALF)
        (pid,) = first._judges.pids
        assert second._judges.pids == [pid]
        await first.close()
        assert alive(pid)
        assert await second.grade(*HALF)
        await second.close()
        await second.close()
        assert not alive(pid)

    asyncio.run(main())


def test_a_judge_that_died_while_idle_costs_no_right_answer():
    async def main():
        reward = MathReward(workers=1)
        try:
            for _ in range(2):
                assert await reward.grade(*HALF) is True
                (pid,) = reward._judges.pids
                os.kill(pid, signal.SIGKILL)
                wait_until_gone([pid])
            assert await reward.grade(*HALF) is True
            assert len(reward._judges.pids) == 1
        finally:
            await reward.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("print('ready', flush=True); input()", "Two judge processes in a row"),
        ("print('ready', flush=True); input(); print('tr', end='', flush=True)", "Two judge processes in a row"),
        ("", "ended at its start"),
    ],
)
def test_a_judge_that_does_not_work_is_an_infrastructure_failure(tmp_path, monkeypatch, program, says):
    broken = tmp_path / "worker.py"
    broken.write_text(program)
    monkeypatch.setattr(judges, "_WORKER", str(broken))
    with pytest.raises(JudgeError, match=says):
        grade([HALF])


def test_a_judge_that_cannot_be_started_is_an_infrastructure_failure():
    async def main():
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")), hard))
        try:
            with pytest.raises(JudgeError, match="Too many open files"):
                await MathReward().grade(*HALF)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    asyncio.run(main())


def test_a_judge_ends_with_its_parent_even_in_native_code():
    program = textwrap.dedent("""
        import asyncio
        from aster_env.rewards.math import MathReward
        async def main():
            reward = MathReward(timeout=1000)
            await reward.grade(("0.5",), "1/2")
            print(*reward._judges.pids, flush=True)
            await reward.grade(("x^2+1",), "7^{300000000}")
        asyncio.run(main())
    """)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        wait_until_busy(pid)
        parent.kill()
    wait_until_gone([pid], seconds=5)


def wait_until_busy(pid, seconds=2.0):
    """Wait until a process has used so much more processor time: it is in the middle of its work."""

    def used():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    start, end = used(), time.monotonic() + 60
    while used() < start + seconds:
        assert time.monotonic() < end
        time.sleep(0.02)  # polling with a deadline, not waiting for luck


@given(st.integers(-(10**30), 10**30), st.integers(-(10**30), 10**30))
def test_integers_are_judged_in_place_and_exactly(gold, answer):
    assert grade_quickly((str(gold),), f" {answer:,} ") == (gold == answer)
    assert grade_quickly((f"{gold:,}",), f"{gold}.0") is True


@given(st.text(max_size=40))
def test_the_quick_judgement_accepts_only_what_is_equal(answer):
    verdict = grade_quickly(("17",), answer)
    if verdict:
        assert float(answer.strip().replace(",", "")) == 17


def test_many_judgements_by_workers_that_cannot_start_fail_at_once_and_leave_nothing(tmp_path, monkeypatch):
    broken = tmp_path / "worker.py"
    broken.write_text("def (\n")
    monkeypatch.setattr("aster_env.rewards.judges._WORKER", str(broken))

    async def main():
        reward = MathReward()
        try:
            with pytest.raises(JudgeError, match="exit code 1"):
                await asyncio.gather(*(reward.grade(["x+1"], f"x+{i}") for i in range(200)))
        finally:
            await reward.close()

    asyncio.run(asyncio.wait_for(main(), 30))
