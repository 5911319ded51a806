"""The chain refiner, and modules inside one another."""

from __future__ import annotations

import pytest

from aster_env.episode import LOST_BEFORE
from aster_env.errors import UsageError
from aster_env.limits import Limits
from aster_env.modules import MODULES, Backtracker, ChainRefiner, CodeDebugger, with_modules
from aster_env.rollout import Policy
from aster_env.types import StopReason, ToolResult
from tests.modules.support import EchoEnv, Model, play_one, run, sampled_as_the_row_says

CALL = '<tool_call>\n{{"name": "python", "arguments": {{"code": "{}"}}}}\n</tool_call>'
SHORT = "x was set to 1."


def speaker(short=SHORT):
    """Make long turns until the chain is rewritten; then one call, then the answer."""

    def speak(context, request):
        if "Write the chain again" in context:
            return short
        if SHORT in context:
            return "\\boxed{2}" if "ran last" in context else "Go on.\n" + CALL.format("last")
        if context.count("</tool_response>") > 6:
            return "\\boxed{0}"
        return "Long thought. " * 8 + CALL.format("x = 1")

    return speak


def refine(model, dialect):
    return ChainRefiner(model, dialect, over=600)


def test_a_long_chain_is_replaced_and_the_model_goes_on_from_the_shorter_one():
    trajectory, model, env = play_one(refine, speaker())
    texts = [turn.text for turn in trajectory.turns]
    assert texts[1].startswith(f"{SHORT}\n\nGo on.")
    assert "Long thought" not in "".join(texts)
    assert (trajectory.stop, trajectory.reward) == (StopReason.ANSWERED, 1.0)
    assert trajectory.usage["chain_refiner"] == 1
    assert env._episode.tokens == len(trajectory.ids)
    assert model.requests[-1].ids == tuple(i for turn in trajectory.turns[:-1] for i in turn.ids)


def test_calls_before_stay_counted_and_are_told_of_and_the_mixed_turn_is_masked():
    trajectory, model, _ = play_one(refine, speaker())
    # The request that was answered by the module reached no model.
    before = 1 + sum("Long thought" in turn.text for turn in model.requests[-4].turns if turn.role == "model")
    assert trajectory.tool_calls == before + 1 > 3
    assert "What they defined is still there" in trajectory.turns[2].text
    assert [turn.module for turn in trajectory.model_turns] == ["chain_refiner", ""]
    assert trajectory.mask.count(1) == len(trajectory.turns[-1].ids)
    assert sampled_as_the_row_says(trajectory)


def test_a_session_that_was_lost_in_the_chain_before_is_told_of_as_lost():
    def respond(code):
        return ToolResult("lost", ok=False, state="lost") if code == "x = 1" else ToolResult(f"ran {code}")

    trajectory, _, _ = play_one(refine, speaker(), respond=respond, limits=Limits(max_losses=1000))
    assert LOST_BEFORE in trajectory.turns[2].text
    assert "still there" not in trajectory.turns[2].text


def test_a_chain_that_is_not_shorter_or_empty_is_left_alone():
    for reply in ("long " * 500, "", "<think>hm"):
        trajectory, _, _ = play_one(refine, speaker(reply))
        assert "chain_refiner" not in trajectory.usage
        assert trajectory.answer == "0"
        assert sampled_as_the_row_says(trajectory)


def test_a_rewritten_chain_can_make_no_call_and_give_no_turn():
    trajectory, _, _ = play_one(refine, speaker(SHORT + CALL.format("evil") + "<|im_end|>"))
    assert "ran evil" not in "".join(turn.text for turn in trajectory.turns)
    assert trajectory.turns[1].calls[0].arguments["code"] == "last"


def test_the_calls_limit_counts_what_was_taken_back():
    spent = play_one(refine, speaker())[0].tool_calls
    cut, _, _ = play_one(refine, speaker(), limits=Limits(max_tool_calls=spent - 1))
    assert cut.stop is StopReason.MAX_TOOL_CALLS


def failing(context, request):
    """Fail twice, then answer; correct code when asked to."""
    if "This Python code fails" in context:
        return "```python\nalso bad\n```"
    if "ran good" in context:
        return "\\boxed{2}"
    if request.seed != 7:
        return "Better.\n" + CALL.format("good")
    return "\\boxed{0}" if "also bad" in context and context.count("NameError") > 1 else CALL.format("bad")


def test_modules_inside_one_another_each_step_in_once():
    trajectory, _, _ = play_one(lambda m, d: with_modules(m, list(MODULES), d), failing)
    assert (trajectory.usage["code_debugger"], trajectory.usage["backtracker"]) == (1, 1)
    assert trajectory.reward == 1.0
    assert sampled_as_the_row_says(trajectory)


def test_the_backtracker_takes_back_a_whole_turn_that_the_debugger_wrote():
    trajectory, _, _ = play_one(lambda m, d: CodeDebugger(Backtracker(m, d), d), failing)
    assert [turn.module for turn in trajectory.model_turns] == ["", "", ""]
    assert trajectory.model_turns[1].text.startswith("Better.")


def test_they_are_policies_made_by_name():
    env = EchoEnv(run)
    policy = with_modules(Model(env, failing), ["code_debugger", "chain_refiner"], env.dialect)
    assert isinstance(policy, Policy)
    assert isinstance(policy, CodeDebugger)
    assert isinstance(policy.policy, ChainRefiner)
    for names in (["debugger"], ["backtracker", "backtracker"]):
        with pytest.raises(UsageError):
            with_modules(Model(env, failing), names, env.dialect)
    with pytest.raises(UsageError, match="over=0"):
        ChainRefiner(Model(env, failing), env.dialect, over=0)
