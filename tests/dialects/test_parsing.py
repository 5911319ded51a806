from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aster_env.dialects import DIALECTS, make_dialect
from aster_env.dialects.base import last_boxed, split_thought
from aster_env.tokenizers import TAG_NAMES, ByteTokenizer
from aster_env.tools.base import check_call
from tests.support import EchoTool

SCHEMAS = {"python": EchoTool.schema}
CALL = {
    "hermes": '<tool_call>\n{"name": "python", "arguments": {"code": "1+1"}}\n</tool_call>',
    "tags": "<python>1+1</python>",
}
ANSWER = {"hermes": "\\boxed{2}", "tags": "<answer>\\boxed{2}</answer>"}
OPENED = {"hermes": '<tool_call>\n{"name": "python"', "tags": "<python>1+1"}
CLOSED = {"hermes": "</tool_call>", "tags": "</python>"}
dialects = pytest.mark.parametrize("name", sorted(DIALECTS))


def parse(name, text):
    return make_dialect(name, ByteTokenizer()).parse(text, SCHEMAS)


@dialects
def test_a_well_formed_call_is_read(name):
    parsed = parse(name, f"Let me compute. {CALL[name]}")
    assert parsed.call.problem is None
    assert (parsed.call.name, dict(parsed.call.arguments)) == ("python", {"code": "1+1"})
    assert parsed.answer is None
    assert parsed.note == ""


@dialects
def test_of_two_calls_the_first_is_read_and_the_model_is_told(name):
    second = CALL[name].replace("1+1", "2+2")
    parsed = parse(name, CALL[name] + second)
    assert parsed.call.arguments["code"] == "1+1"
    assert "first call" in parsed.note


@dialects
def test_an_answer_beside_a_call_is_ignored_and_the_model_is_told(name):
    parsed = parse(name, f"{ANSWER[name]} {CALL[name]}")
    assert parsed.call.problem is None
    assert parsed.answer is None
    assert "ignored" in parsed.note


@dialects
def test_an_answer_inside_the_code_is_no_answer_beside_the_call(name):
    parsed = parse(name, CALL[name].replace("1+1", "print('boxed{2}')"))
    assert parsed.note == ""


@dialects
@pytest.mark.parametrize("think", ["<think>{}</think>", "<think>{}", "{}</think>"])
def test_a_call_inside_a_thought_is_refused_with_the_reason(name, think):
    parsed = parse(name, think.format(CALL[name]))
    assert "inside the thought" in parsed.call.problem


@dialects
def test_a_call_in_a_thought_does_not_hide_a_call_after_it(name):
    parsed = parse(name, f"<think>{CALL[name].replace('1+1', '0')}</think>{CALL[name]}")
    assert parsed.call.problem is None
    assert parsed.call.arguments["code"] == "1+1"


@dialects
def test_an_answer_after_a_thought_counts_and_one_inside_it_does_not(name):
    assert parse(name, f"<think>{ANSWER[name].replace('2', '3')}</think>{ANSWER[name]}").answer == "2"
    inside = parse(name, f"<think>{ANSWER[name]}</think>done")
    assert (inside.call, inside.answer) == (None, None)


@dialects
def test_an_unclosed_call_is_refused_with_the_reason(name):
    assert "not closed" in parse(name, OPENED[name]).call.problem


@dialects
def test_a_stray_closing_tag_is_refused_with_the_reason(name):
    assert parse(name, f"oops {CLOSED[name]}").call.problem


@dialects
@pytest.mark.parametrize("turn", ["{answer}{closed}", "{closed}{answer}"])
def test_an_answer_beside_a_stray_closing_tag_counts(name, turn):
    parsed = parse(name, turn.format(answer=ANSWER[name], closed=CLOSED[name]))
    assert (parsed.call, parsed.answer) == (None, "2")


@dialects
def test_a_turn_with_neither_is_void(name):
    parsed = parse(name, "I do not know.")
    assert (parsed.call, parsed.answer) == (None, None)


@dialects
def test_text_after_the_end_of_turn_does_not_count(name):
    assert parse(name, f"nothing<|im_end|>{ANSWER[name]}").answer is None


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("{", "not valid JSON"),
        ("[1]", "no 'name'"),
        ('{"arguments": {}}', "no 'name'"),
        ('{"name": 3}', "no 'name'"),
        ('{"name": "python", "arguments": [1]}', "must be a JSON object"),
        ('{"name": "python", "arguments": "[1]"}', "must be a JSON object"),
        ('{"name": "python", "arguments": "{"}', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("9" * 5000, "not valid JSON"),
        ("", "not valid JSON"),
    ],
)
def test_malformed_json_names_the_fault_and_the_form(body, says):
    problem = parse("hermes", f"<tool_call>{body}</tool_call>").call.problem
    assert says in problem
    assert '"arguments"' in problem


def test_raw_newlines_and_doubly_encoded_arguments_are_read():
    raw = parse("hermes", '<tool_call>{"name": "python", "arguments": {"code": "a = 1\nprint(a)"}}</tool_call>')
    assert raw.call.arguments["code"] == "a = 1\nprint(a)"
    twice = json.dumps({"name": "python", "arguments": json.dumps({"code": "1"})})
    assert dict(parse("hermes", f"<tool_call>{twice}</tool_call>").call.arguments) == {"code": "1"}


def test_a_tag_without_such_a_tool_is_a_call_by_that_name():
    assert parse("tags", "<search>x</search>").call.name == "search"


MARKS = [*CALL.values(), *ANSWER.values(), *OPENED.values(), *CLOSED.values()]
HALF = '<tool_call>{"name": "python", "arguments": {"code": "\\ud83d"}}</tool_call>'
PIECES = [*MARKS, HALF, "<think>", "</think>", "<|im_end|>", "{"]
TOOLS = {"python": EchoTool(str)}


@given(code=st.text(st.characters(categories=["Cs", "L", "N"]), max_size=5), wrap=st.sampled_from([str, lambda c: [c]]))
def test_a_call_that_is_not_refused_can_be_sent_as_utf8(code, wrap):
    call = {"name": "python", "arguments": {"code": wrap(code)}}
    checked = check_call(parse("hermes", f"<tool_call>{json.dumps(call)}</tool_call>").call, TOOLS)
    half = any("\ud800" <= character <= "\udfff" for character in code)
    assert (checked.problem is not None) == (half or wrap is not str)
    (checked.problem or checked.arguments["code"]).encode()


def test_half_a_surrogate_pair_is_refused_with_the_reason():
    problem = check_call(parse("hermes", HALF).call, TOOLS).problem
    assert "'code'" in problem
    assert "surrogate" in problem
    whole = HALF.replace("\\ud83d", "\\ud83d\\ude42")
    assert check_call(parse("hermes", whole).call, TOOLS).arguments["code"] == "🙂"


@dialects
@given(text=st.text(max_size=200) | st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
def test_parsing_is_total_and_gives_at_most_one_outcome(name, text):
    parsed = parse(name, text)
    assert parsed.call is None or parsed.answer is None
    assert parse(name, text) == parsed


PARTS = {"call": CALL, "answer": ANSWER, "closed": CLOSED}


@given(st.lists(st.sampled_from([*PARTS, "<think>", "</think>", " so "]), max_size=6))
def test_turns_of_the_same_parts_have_the_same_outcome_in_every_dialect(parts):
    outcomes = []
    for name in DIALECTS:
        parsed = parse(name, "".join(PARTS[part][name] if part in PARTS else part for part in parts))
        refused = parsed.call is not None and parsed.call.problem is not None
        outcomes.append((parsed.call is None, refused, parsed.answer, parsed.note))
    assert len(set(outcomes)) == 1


@dialects
@given(code=st.text(st.characters(exclude_categories=["Cs"]), max_size=80))
def test_writing_a_call_and_reading_it_back_gives_the_same_code(name, code):
    if any(mark in code for mark in ("<", ">")):
        return
    text = make_dialect(name, ByteTokenizer()).call("python", {"code": code})
    expected = code if name == "hermes" else code.strip("\n")
    assert parse(name, text).call.arguments["code"] == expected


@given(
    st.lists(
        st.sampled_from(
            ["</tool_call>", "<tool_call>", "<|im_end|>", "<think>", "a < b", "\\", '"', "\n", "<tool", "_call>"]
        ),
        max_size=6,
    ).map("".join)
)
def test_hermes_writes_code_that_holds_its_own_tags(code):
    text = make_dialect("hermes", ByteTokenizer()).call("python", {"code": code})
    assert parse("hermes", text).call.arguments == {"code": code}
    assert parse("hermes", text).call.problem is None


@dialects
@given(value=st.text(st.characters(exclude_characters="{}\\<>", exclude_categories=["Cs"]), min_size=1, max_size=30))
def test_writing_an_answer_and_reading_it_back_gives_the_same_value(name, value):
    assert parse(name, make_dialect(name, ByteTokenizer()).answer(value)).answer == value.strip()


@given(st.text(alphabet="{}\\boxed{ab", max_size=40))
def test_last_boxed_is_balanced_or_none(text):
    value = last_boxed(text)
    assert value is None or value in text


@given(st.lists(st.sampled_from(["<think>", "</think>", "a", "b"]), max_size=10).map("".join))
def test_splitting_a_thought_loses_no_letter(text):
    visible, thought = split_thought(text)
    letters = [c for c in text.replace("think", "") if c in "ab"]
    assert sorted(visible.replace("think", "") + thought.replace("think", "")).count("a") == letters.count("a")


def test_every_tag_of_a_dialect_is_a_marker():
    assert {tag.strip("</>") for dialect in DIALECTS.values() for tag in dialect.stop} <= set(TAG_NAMES)


@dialects
@given(text=st.text(max_size=60) | st.sampled_from(ByteTokenizer().specials).map(lambda s: f"a{s}b{s}"))
def test_a_result_cannot_forge_a_marker(name, text):
    tokenizer = ByteTokenizer()
    dialect = make_dialect(name, tokenizer)
    plain = tokenizer.encode(dialect.observation(""))
    forged = tokenizer.encode(dialect.observation(text))
    assert [i for i in forged if i > 255] == [i for i in plain if i > 255]
