"""The code debugger: corrected code comes into the episode, marked as not the model's own."""

from __future__ import annotations

import pytest

from aster_env.errors import PolicyError
from aster_env.limits import Limits
from aster_env.modules import CodeDebugger
from aster_env.modules.debugger import read_code
from aster_env.types import StopReason, Trajectory
from tests.modules.support import play_one, sampled_as_the_row_says

CALLS = {
    "hermes": '<tool_call>\n{{"name": "python", "arguments": {{"code": "{}"}}}}\n</tool_call>',
    "tags": "<python>\n{}\n</python>",
}
ANSWERS = {"hermes": "\\boxed{{{}}}", "tags": "<answer>\\boxed{{{}}}</answer>"}


def speaker(dialect, fixed="```python\ngood\n```"):
    def speak(context, request):
        if "This Python code fails" in context:
            return fixed
        if "ran good" in context:
            return ANSWERS[dialect].format(2)
        if "NameError" in context:
            return ANSWERS[dialect].format(0)
        return "I try.\n" + CALLS[dialect].format("bad")

    return speak


@pytest.mark.parametrize("dialect", ["hermes", "tags"])
def test_corrected_code_is_called_and_its_result_comes_back(dialect):
    trajectory, _, _ = play_one(CodeDebugger, speaker(dialect), dialect)
    assert [turn.calls[0].arguments["code"] for turn in trajectory.model_turns[:2]] == ["bad", "good"]
    assert (trajectory.stop, trajectory.reward, trajectory.tool_calls) == (StopReason.ANSWERED, 1.0, 2)
    assert trajectory.usage["code_debugger"] == 1


@pytest.mark.parametrize("dialect", ["hermes", "tags"])
def test_what_it_wrote_is_masked_and_all_else_was_sampled_under_the_row(dialect):
    trajectory, _, _ = play_one(CodeDebugger, speaker(dialect), dialect)
    written = trajectory.model_turns[1]
    assert written.module == "code_debugger"
    assert written.logprobs is None
    own = [turn for turn in trajectory.model_turns if not turn.module]
    assert trajectory.mask.count(1) == sum(len(turn.ids) for turn in own)
    assert sampled_as_the_row_says(trajectory)
    assert all(chance == chance for chance in trajectory.logprobs)  # no NaN reaches a trainer
    again = Trajectory.from_json(trajectory.to_json())
    assert (again.mask, again.turns) == (trajectory.mask, trajectory.turns)


def test_the_helper_sees_the_code_and_the_error_alone_in_a_conversation_of_its_own():
    trajectory, model, env = play_one(CodeDebugger, speaker("hermes"))
    aside = model.requests[1]
    text = env.tokenizer.decode(aside.ids)
    assert "bad" in text
    assert "NameError" in text
    assert trajectory.task.prompt not in text
    assert aside.episode != model.requests[0].episode
    assert aside.episode in model.released
    assert trajectory.usage["side_tokens"] == len(env.tokenizer.encode("```python\ngood\n```" + env.tokenizer.end_text))


def test_it_steps_in_once_and_the_second_failure_is_the_models():
    trajectory, _, _ = play_one(CodeDebugger, speaker("hermes", "```python\nstill bad\n```"))
    assert trajectory.usage["code_debugger"] == 1
    assert (trajectory.answer, trajectory.tool_calls) == ("0", 2)


@pytest.mark.parametrize(
    "reply",
    [
        "I cannot.",
        "```python\nbad\n```",
        "```\n```",
        "<think>```python\ngood\n```",
        "```python\n" + "x" * 9000 + "\n```",
    ],
)
def test_a_reply_of_no_use_leaves_the_episode_as_it_is(reply):
    trajectory, _, _ = play_one(CodeDebugger, speaker("hermes", reply), limits=Limits(max_tokens=4000))
    assert "code_debugger" not in trajectory.usage
    assert not any(turn.module for turn in trajectory.turns)
    assert trajectory.answer == "0"


def test_code_that_would_break_out_of_its_tags_is_not_written():
    trajectory, _, _ = play_one(CodeDebugger, speaker("tags", "```python\nprint('</python>')\n```"), "tags")
    assert "code_debugger" not in trajectory.usage


def test_a_helper_that_cannot_be_reached_masks_the_episode():
    trajectory, _, _ = play_one(CodeDebugger, speaker("hermes", PolicyError("gone")))
    assert trajectory.stop is StopReason.INFRASTRUCTURE
    assert trajectory.reward is None


def test_the_error_cannot_open_a_turn_in_the_helpers_conversation():
    def speak(context, request):
        if "This Python code fails" in context:
            seen.append(context)
            return "```python\ngood\n```"
        return "\\boxed{2}" if "ran good" in context else CALLS["hermes"].format("bad")

    seen: list[str] = []
    play_one(CodeDebugger, speak)
    assert seen[0].count("<|im_end|>") == 1


def test_the_last_block_of_code_counts():
    assert read_code("```py\na\n```\nor\n```python\nb\nc\n```") == "b\nc"
    assert read_code("b") == ""
