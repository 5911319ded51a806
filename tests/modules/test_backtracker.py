"""The backtracker: what stands in the row was sampled under it, and what was done stays counted and told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aster_env.episode import LOST_BEFORE, TAKEN_BACK, Episode
from aster_env.limits import Limits
from aster_env.modules import Backtracker
from aster_env.modules.backtracker import prefix_length
from aster_env.tokenizers import ByteTokenizer
from aster_env.types import Message, StopReason, Task, ToolCall, ToolResult, Trajectory, Turn
from tests.modules.support import play_one, sampled_as_the_row_says

DIALECTS = ("hermes", "tags")
NOTE = "Earlier calls are no longer shown."


def speaker(dialect, second="good", first="bad"):
    """Write three lines and a failing call; then, from the cut on, another call; then answer."""

    def speak(context, request):
        call = dialect_call(dialect, first)
        if "ran good" in context:
            return answer(dialect, "2")
        if context.endswith("Plan: add.\n"):
            return f"I am careful.\n{dialect_call(dialect, second)}"
        if "NameError" in context:
            return answer(dialect, "0")
        return f"Plan: add.\nI try.\n{call}"

    return speak


def dialect_call(dialect, code):
    if dialect == "tags":
        return f"<python>\n{code}\n</python>"
    return f'<tool_call>\n{{"name": "python", "arguments": {{"code": "{code}"}}}}\n</tool_call>'


def answer(dialect, value):
    return f"<answer>\\boxed{{{value}}}</answer>" if dialect == "tags" else f"\\boxed{{{value}}}"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_failed_call_is_sampled_again_from_the_line_before_it(dialect):
    trajectory, model, _ = play_one(Backtracker, speaker(dialect), dialect)
    turn = trajectory.model_turns[0]
    assert turn.text == f"Plan: add.\nI am careful.\n{dialect_call(dialect, 'good')}"
    assert (trajectory.stop, trajectory.reward) == (StopReason.ANSWERED, 1.0)
    assert "bad" not in "".join(t.text for t in trajectory.turns)
    assert [m.role for m in trajectory.messages][-3:] == ["assistant", "tool", "assistant"]
    assert len(model.requests) == 3


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_token_of_the_row_is_trained_and_was_sampled_under_the_ids_before_it(dialect):
    trajectory, _, _ = play_one(Backtracker, speaker(dialect), dialect)
    assert sampled_as_the_row_says(trajectory)
    assert trajectory.mask.count(1) == sum(len(turn.ids) for turn in trajectory.model_turns)
    # The model's last request saw exactly the row.
    last = trajectory.turns[-1]
    assert not any(turn.module for turn in trajectory.turns)
    assert last.role == "model"


def test_later_requests_continue_the_row_and_not_what_was_taken_back():
    trajectory, model, _ = play_one(Backtracker, speaker("hermes"))
    row = tuple(trajectory.ids)
    assert all(request.ids == row[: len(request.ids)] for request in model.requests[1:])
    assert [t.ids for t in model.requests[-1].turns] == [t.ids for t in trajectory.turns[:-1]]
    assert model.requests[1].seed != model.requests[0].seed == model.requests[2].seed


def test_the_call_that_was_taken_back_is_counted_and_the_next_result_tells_of_it_once():
    trajectory, _, env = play_one(Backtracker, speaker("hermes"))
    assert trajectory.tool_calls == 2
    assert NOTE in trajectory.turns[2].text
    assert sum(NOTE in turn.text for turn in trajectory.turns) == 1
    assert trajectory.usage["backtracker"] == 1
    assert trajectory.usage["back_tokens"] > 0
    assert env._episode.tokens == len(trajectory.ids)


def test_it_steps_in_once_an_episode():
    trajectory, model, _ = play_one(Backtracker, speaker("hermes", second="bad again"))
    assert trajectory.usage["backtracker"] == 1
    assert "NameError" in trajectory.turns[2].text
    assert trajectory.answer == "0"
    assert len(model.requests) == 3


def test_a_model_that_writes_the_same_again_keeps_its_failure():
    def speak(context, request):
        if "NameError" in context:
            return "\\boxed{0}"
        return dialect_call("hermes", "bad")

    trajectory, _, _ = play_one(Backtracker, speak)
    assert "backtracker" not in trajectory.usage
    assert trajectory.usage["side_tokens"] == len(trajectory.model_turns[0].ids)
    assert NOTE not in "".join(turn.text for turn in trajectory.turns)
    assert sampled_as_the_row_says(trajectory)


def test_whole_turns_go_back_for_a_policy_that_reads_messages():
    def speak(context, request):
        if "ran good" in context:
            return "\\boxed{2}"
        if len(model_said := [m for m in request.messages if m.role == "assistant"]) or request.ids != first[0]:
            return "\\boxed{0}" if model_said else "?"
        tries.append(1)
        return "Plan.\nTry.\n" + dialect_call("hermes", "bad" if len(tries) == 1 else "good")

    tries: list[int] = []
    first: list[tuple[int, ...]] = []

    def wrap(model, dialect):
        original = model.generate

        async def generate(request):
            first.append(request.ids)
            return await original(request)

        model.generate = generate
        return Backtracker(model, dialect, whole_turns=True)

    trajectory, model, _ = play_one(wrap, speak)
    assert first[1] == first[0]
    assert model.requests[1].messages == model.requests[0].messages
    assert trajectory.reward == 1.0


def test_an_episode_with_what_was_taken_back_survives_the_file():
    trajectory, _, _ = play_one(Backtracker, speaker("tags"), "tags")
    again = Trajectory.from_json(trajectory.to_json())
    assert (again.mask, again.logprobs, again.usage) == (trajectory.mask, trajectory.logprobs, trajectory.usage)


def test_a_call_that_could_not_be_executed_is_left_to_the_model():
    def speak(context, request):
        return "\\boxed{2}" if "not valid JSON" in context else "<tool_call>\n{oops\n</tool_call>"

    trajectory, model, _ = play_one(Backtracker, speak)
    assert len(model.requests) == 2
    assert not trajectory.usage


@given(st.text(), st.integers(0, 200))
def test_the_ids_before_a_cut_are_the_most_whose_text_is_before_it(text, cut):
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(text)
    text = tokenizer.decode(ids)
    kept = prefix_length(ids, text[:cut], tokenizer)
    assert text[:cut].startswith(tokenizer.decode(ids[:kept]))
    assert tokenizer.decode(ids[:kept]) == text[:cut]


def losing(code):
    """Lose the session in the first failing call."""
    return ToolResult("NameError: the session was lost", ok=False, state="lost") if code == "bad" else f"ran {code}"


def test_a_session_that_was_lost_in_a_call_taken_back_is_told_of_as_lost():
    trajectory, _, _ = play_one(Backtracker, speaker("hermes"), respond=losing)
    text = trajectory.turns[2].text
    assert "ran good" in text
    assert LOST_BEFORE in text
    assert "still there" not in text


def removed(*results, tool="python"):
    """Return the note after each of several calls in a row was taken back, one by one."""
    episode, notes = Episode(Trajectory(Task("t", "?", ("1",))), Limits()), []
    episode.append(Turn("environment", (1,), "?"), [])
    for result in results:
        call = ToolCall(tool, {})
        episode.append(Turn("model", (1,), "", calls=(call,)), [Message("assistant", "")])
        episode.append(Turn("environment", (1,), "", results=(result,)), [Message("tool", "")])
        episode.take_back(1)
        notes.append(episode.noted(""))
    return notes


def test_a_loss_is_told_again_when_the_result_that_told_of_it_is_taken_back_too():
    failed, lost = ToolResult("", ok=False), ToolResult("", ok=False, state="lost")
    assert removed(failed, lost, failed) == [TAKEN_BACK, LOST_BEFORE, LOST_BEFORE]


def test_calls_of_tools_that_define_nothing_are_taken_back_without_a_word():
    assert removed(ToolResult("", ok=False), tool="search") == [""]
