"""Conversations of public corpora against the environment's own text."""

from __future__ import annotations

import json

import gymnasium as gym
import pytest

from aster_env.dialects import make_dialect
from aster_env.errors import UsageError
from aster_env.tokenizers import ByteTokenizer, as_tokenizer
from aster_train.conversations import read_conversation, tool_schemas
from aster_train.examples import read_examples
from aster_train.tiny.tokenizer import make_tokenizer
from tests.train.support import TEXT

ENV = "ASTER/PythonMath-v0"
CALL = {"type": "function", "id": "c1", "function": {"name": "python", "arguments": '{"code": "6 * 7"}'}}
FUNCTION = {"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {}}}


def with_tools_in_its_template():
    tokenizer = make_tokenizer([TEXT])
    tokenizer.chat_template = (
        "{% for tool in tools or () %}[{{ tool.function.name }}]{% endfor %}" + tokenizer.chat_template
    )
    return as_tokenizer(tokenizer)


@pytest.mark.parametrize("name", ["hermes", "tags"])
@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), with_tools_in_its_template()], ids=["bytes", "template"])
def test_a_stored_conversation_is_the_row_of_the_episode_that_it_tells_of(name, tokenizer):
    env = gym.make(ENV, tokenizer=tokenizer, dialect=name, task_options={"size": 4, "level": 1}).unwrapped
    dialect = env.dialect
    try:
        observation, info = env.reset(seed=0)
        turns = [
            "I compute. " + dialect.call("python", {"code": "6 * 7"}),
            dialect.answer("42") + tokenizer.end_text,
        ]
        row, asked = list(observation), info["messages"]
        for turn in turns:
            action = tokenizer.encode(turn)
            observation, *_, info = env.step(action)
            row += [*action, *observation]
    finally:
        env.close()
    said = [
        *({"role": m.role, "content": m.content} for m in asked),
        {"role": "assistant", "content": turns[0]},
        {"role": "tool", "content": "42"},
        {"role": "assistant", "content": dialect.answer("42")},
    ]
    schemas = tool_schemas(ENV, {}, dialect)
    assert list(schemas) == ["python"]
    rendered = read_conversation({"messages": said}, dialect, schemas)
    assert [i for turn in rendered for i in turn.ids] == row


def text(messages, name="hermes", **row):
    dialect = make_dialect(name, ByteTokenizer())
    return "".join(turn.text for turn in read_conversation({"messages": messages, **row}, dialect, {}))


def conversation(call, result):
    return [{"role": "user", "content": "Q"}, call, result, {"role": "assistant", "content": "A"}]


RESULT = {"role": "tool", "tool_call_id": "c1", "content": "42"}


@pytest.mark.parametrize("name", ["hermes", "tags"])
def test_openai_tool_calls_are_written_as_the_dialect_writes_calls(name):
    call = make_dialect(name, ByteTokenizer()).call("python", {"code": "6 * 7"})
    written = {"role": "assistant", "content": f"First.\n{call}"}
    given = {"role": "assistant", "content": "First.", "tool_calls": [CALL]}
    assert text(conversation(given, RESULT), name) == text(conversation(written, RESULT), name)
    written, given = (
        {"role": "assistant", "content": call},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
    )
    assert text(conversation(given, RESULT), name) == text(conversation(written, RESULT), name)
    parts = {"role": "assistant", "content": [{"type": "text", "text": call[:9]}, {"type": "text", "text": call[9:]}]}
    assert text(conversation(parts, RESULT), name) == text(conversation(written, RESULT), name)


@pytest.mark.parametrize("tag", ["tool_response", "result"])
@pytest.mark.parametrize("role", ["user", "tool"])
def test_a_result_between_tags_is_not_put_between_tags_again(tag, role):
    call = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    wrapped = {"role": role, "content": f"<{tag}>\n42\n</{tag}>"}
    assert text(conversation(call, wrapped)) == text(conversation(call, RESULT))
    assert "\n<tool_response>\n42\n</tool_response>" in text(conversation(call, wrapped))


def test_a_line_brings_its_own_tools():
    messages = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    tools = [{"type": "function", "function": FUNCTION}]
    assert "<tools>" not in text(messages)
    assert json.dumps(tools[0]) in text(messages, tools=tools)
    assert text(messages, tools=json.dumps(tools)) == text(messages, tools=[FUNCTION]) == text(messages, tools=tools)


@pytest.mark.parametrize(
    ("call", "result", "says"),
    [
        ({"role": "assistant", "content": None}, RESULT, "null in an assistant's message"),
        ({"role": "assistant", "content": "", "tool_calls": [CALL, CALL]}, RESULT, "2 tool_calls"),
        ({"role": "assistant", "content": [{"type": "image_url"}]}, RESULT, "text parts"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}, RESULT, "line 1"),
        (
            {"role": "assistant", "tool_calls": [CALL]},
            {"role": "user", "content": "<tool_response>1</tool_response>\n<tool_response>2</tool_response>"},
            "several results",
        ),
    ],
)
def test_what_is_no_episode_is_named_with_its_line(tmp_path, call, result, says):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"messages": conversation(call, result)}))
    with pytest.raises(UsageError, match=says) as caught:
        read_examples(str(path), make_dialect("hermes", ByteTokenizer()), None)
    assert "line 1" in str(caught.value)
