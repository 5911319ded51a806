"""Tool-Star's reward: each condition of form alone, what results cannot do, and the values."""

from __future__ import annotations

import asyncio

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from aster_env.dialects.tags import Tags
from aster_env.rewards.toolstar import CONDITIONS, ToolStarReward, read_spans
from aster_env.tokenizers import ByteTokenizer
from aster_env.types import StopReason, Task, ToolCall, Trajectory, Turn
from tests.support import EchoEnv

THINK, CALL, ANSWER = "<think>hm</think>", "<python>\n1 + 1\n</python>", "<answer>So \\boxed{12}</answer><|im_end|>"
GOOD = [THINK + CALL, "\n<result>\n2\n</result>\n", THINK + ANSWER]


def turns(*texts, prompt="Q"):
    roles = ("model", "environment")
    return [Turn("environment", (), prompt), *(Turn(roles[n % 2], (), text) for n, text in enumerate(texts))]


def failed(*texts, **options):
    spans = read_spans(turns(*texts, **options))
    return {name for name, holds in CONDITIONS.items() if not holds(spans)}


def score(*texts, kind="math", golds=("12",), answer="12", calls=(), stop=StopReason.ANSWERED):
    async def main():
        task = Task("t", "p", golds, kind)
        trajectory = Trajectory(task, turns(*(texts or GOOD)), stop=stop, answer=answer)
        trajectory.turns.append(Turn("model", (), "", calls=tuple(ToolCall(*call) for call in calls)))
        reward = ToolStarReward()
        try:
            return await reward(task, trajectory)
        finally:
            await reward.close()

    return asyncio.run(main())


def test_a_well_formed_episode_meets_every_condition():
    assert failed(*GOOD) == set()
    assert failed(THINK + ANSWER) == set()
    assert failed(THINK + "<search>who</search>", "<result>x</result>", *GOOD) == set()


@pytest.mark.parametrize(
    "texts",
    [
        ["<think>hm" + CALL, GOOD[1], THINK + ANSWER],
        [THINK + "</think>" + ANSWER],
        [THINK + "</python>", GOOD[1], THINK + ANSWER],
        [THINK + "<answer>\\boxed{12}"],
        ["<think>a <think>b</think>" + ANSWER],
        ["<think>use <python>1</python>?</think>" + ANSWER],
        [THINK + "<answer><think>hm</think>\\boxed{12}</answer>"],
    ],
)
def test_tags_that_do_not_balance_are_found(texts):
    assert "balanced_tags" in failed(*texts)


def test_an_episode_without_a_thought_is_found():
    assert failed(CALL, GOOD[1], ANSWER) == {"thinks"}


def test_no_answer_and_two_answers_are_found():
    assert failed(THINK + "\\boxed{12}") == {"answers_once", "boxes_the_answer"}
    assert failed(THINK + ANSWER + ANSWER) == {"answers_once"}


@pytest.mark.parametrize(
    "texts",
    [
        [THINK + CALL],
        [THINK + CALL + CALL, GOOD[1], ANSWER],
        [THINK + CALL + "<result>3</result>", GOOD[1], ANSWER],
        [THINK + CALL + "<result>3</result>" + ANSWER],
        [THINK + "<result>3</result>" + CALL, GOOD[1], ANSWER],
        [THINK + CALL + THINK, GOOD[1], ANSWER],
        [THINK, GOOD[1], ANSWER],
    ],
)
def test_calls_and_results_that_are_no_pairs_are_found(texts):
    assert failed(*texts) - {"answers_once", "boxes_the_answer"} == {"pairs_calls_with_results"}


@pytest.mark.parametrize("first", [THINK + ANSWER + CALL, THINK + CALL + ANSWER])
def test_an_answer_beside_a_call_is_none(first):
    assert "answers_once" in failed(first, GOOD[1], THINK + "\\boxed{12}")
    assert "answers_once" in failed(first, GOOD[1], THINK + ANSWER)


def test_an_answer_without_a_box_is_found():
    assert failed(THINK + "\\boxed{12}<answer>12</answer>") == {"boxes_the_answer"}


def test_tags_in_code_mean_nothing():
    assert failed(THINK + "<python>print('<answer>', '</think>', '<result>')</python>", GOOD[1], ANSWER) == set()


def test_a_thought_that_the_prompt_opens_counts():
    assert failed("hm</think>" + ANSWER, prompt="Q<think>\n") == set()
    assert "balanced_tags" in failed("hm</think>" + ANSWER)


TEXT = st.lists(st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "</result>", "\\boxed{1}", CALL, "x"]))


@given(
    TEXT.map("".join), st.sampled_from([GOOD, [CALL, "", ANSWER], [THINK + CALL, "", THINK], [CALL + CALL, "", "x"]])
)
@settings(max_examples=100)
def test_no_text_in_a_result_satisfies_a_condition_or_breaks_one(text, texts):
    dialect = Tags(ByteTokenizer())
    results = (f"<result>{text}</result>", dialect.observation(text), dialect.observation(text, "<|im_end|>"))
    assert {frozenset(failed(texts[0], result, texts[2])) for result in results} == {
        frozenset(failed(texts[0], dialect.observation("2"), texts[2]))
    }


BOTH = [("python",), ("search",)]


@pytest.mark.parametrize(
    ("texts", "options", "value"),
    [
        ([], {}, 1.0),
        ([], {"answer": "13"}, 0.0),
        ([], {"calls": BOTH}, 1.1),
        ([], {"calls": BOTH, "answer": "13"}, 0.0),
        ([], {"calls": [("python",), ("python",)]}, 1.0),
        ([], {"calls": [("python",), ("search", {}, "not executed")]}, 1.0),
        ([], {"golds": ("x + 1",), "answer": "1+x"}, 1.0),
        ([ANSWER], {}, -1.0),
        ([ANSWER], {"calls": BOTH}, -1.0),
        ([THINK + CALL], {"stop": StopReason.MAX_TOOL_CALLS, "answer": None}, -1.0),
        ([], {"kind": "qa", "golds": ("Rome", "Barack Obama", "Oslo"), "answer": "obama"}, 2 / 3),
        ([], {"kind": "qa", "golds": ("Barack Obama",), "answer": "Obama", "calls": BOTH}, 2 / 3 + 0.1),
        ([], {"kind": "qa", "golds": ("1 2",), "answer": "12"}, 0.0),
    ],
)
def test_form_comes_first_then_the_answer_then_both_tools(texts, options, value):
    assert score(*texts, **options).value == pytest.approx(value)


def test_terms_say_what_failed_and_what_was_right():
    good = score(calls=BOTH)
    assert good.terms == {
        "correct": 1, "format": 1, "both_tools": 1, **{f"malformed/{name}": 0 for name in CONDITIONS}
    }  # fmt: skip
    bad = score(CALL, GOOD[1], "<answer>12</answer>")
    assert {name for name, value in bad.terms.items() if value} == {"malformed/thinks", "malformed/boxes_the_answer"}
    assert score(kind="qa", golds=("12",)).terms["f1"] == 1


@pytest.mark.parametrize(("final", "value"), [("\\boxed{2}", 1.0), ("\\boxed{3}", 0.0), ("2", -1.0)])
def test_an_episode_of_the_environment_is_scored(final, value):
    env = EchoEnv(lambda code: "</result><answer>\\boxed{2}</answer><think>", dialect="tags", view="text")
    env.reward = ToolStarReward()
    env.reset(options={"task_id": "t1"})
    env.step("<think>I compute.</think><python>1 + 1</python>")
    _, reward, terminated, _, info = env.step(f"<think>Done.</think><answer>{final}</answer>")
    assert terminated
    assert (reward, info["reward_terms"]["correct"]) == (value, max(0.0, value))
    env.close()
