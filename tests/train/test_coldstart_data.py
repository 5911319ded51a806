"""ReTool's data as conversations: nothing of the code, the results or the text between is lost."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aster_env.dialects import make_dialect
from aster_env.errors import UsageError
from aster_env.tokenizers import as_tokenizer
from aster_train.coldstart.retool import main, rewrite, rewrite_all
from aster_train.conversations import read_conversation

ASKED = "Use <code> tags.\n*user question:*\nWhat is 2 + 3?\nRemember to place the final answer in the last part."
SAID = (
    "I compute.\n<code>\n```python\nx = 2 + 3\nprint(x)\n```\n</code>\n<interpreter>\n5\n</interpreter>\n"
    "So five.\n<answer>\n\\boxed{5}\n</answer>"
)


def row(asked=ASKED, said=SAID):
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]}


def test_blocks_become_calls_and_results():
    user, call, result, answer = rewrite(row())["messages"]
    assert user == {"role": "user", "content": "What is 2 + 3?"}
    assert call["content"] == "I compute."
    assert call["tool_calls"][0]["function"] == {"name": "python", "arguments": {"code": "x = 2 + 3\nprint(x)"}}
    assert result == {"role": "tool", "content": "5"}
    assert answer == {"role": "assistant", "content": "So five.\n\\boxed{5}"}


def test_an_answer_is_freed_of_its_tags_wherever_it_stands():
    early, _, last = rewrite(row(said="<answer>\\boxed{4}</answer>? No. " + SAID))["messages"][1:]
    assert early["content"] == "\\boxed{4}? No. I compute."
    assert last["content"] == "So five.\n\\boxed{5}"


@pytest.mark.parametrize("name", ["hermes", "tags"])
def test_what_is_rewritten_is_what_sft_reads(name):
    dialect = make_dialect(name, as_tokenizer(None))
    turns = read_conversation(rewrite(row()), dialect, {})
    said = [turn for turn in turns if turn.role == "model"]
    assert dialect.parse(said[0].text, {"python": {"parameters": {"required": ["code"]}}}).call.name == "python"
    assert len(said) == 2


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (row(said="<code>x</code>"), "<code> without its partner"),
        (row(said="x</interpreter>"), "</interpreter> without its partner"),
        (row(said="<code>x</code> then <code>y</code><interpreter>1</interpreter>"), "</code> in the code of a block"),
        (
            row(said="<code>x</code><interpreter>1<interpreter>2</interpreter>"),
            "<interpreter> in the result of a block",
        ),
        ({"messages": [{"role": "user", "content": "x"}]}, "not one of a user"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant"}]}, "message 2 has no text in 'content'"),
        ({"messages": [{"content": "x"}]}, "message 1 has no text in 'role'"),
        ({"messages": ["x"]}, "message 1 has no text in 'role'"),
        ({"text": "x"}, "no list 'messages'"),
    ],
)
def test_a_row_of_another_form_is_left_out_and_named(bad, why):
    kept, (left,) = rewrite_all([row(), bad])
    assert len(kept) == 1
    assert left.startswith("row 2: ")
    assert why in left


PLAIN = st.text("ab `\n=+<>/", max_size=12).filter(lambda text: "```" not in text)


@given(st.lists(st.tuples(PLAIN, PLAIN, PLAIN), max_size=4), PLAIN)
def test_code_results_and_text_survive(blocks, end):
    said = "".join(
        f"{text}<code>\n```python\n{code}\n```\n</code>\n<interpreter>\n{result}\n</interpreter>"
        for text, code, result in blocks
    )
    messages = rewrite(row(said=said + end))["messages"][1:]
    assert len(messages) == 2 * len(blocks) + 1
    for (text, code, result), call, told in zip(blocks, messages[::2], messages[1::2], strict=False):
        assert call["content"] == text.strip()
        assert call["tool_calls"][0]["function"]["arguments"]["code"].strip() == code.strip()
        assert told["content"] == result
    assert messages[-1]["content"] == end.strip()


def test_the_command_rewrites_a_file_and_says_what_it_left(tmp_path, capsys):
    source, target = tmp_path / "retool.jsonl", tmp_path / "out" / "sft.jsonl"
    source.write_text(json.dumps(row()) + "\n" + json.dumps(row(said="<code>x")) + "\n")
    main([str(source), str(target)])
    assert len(target.read_text().splitlines()) == 1
    assert "1 conversations with 1 calls written; 1 rows left out" in capsys.readouterr().out
    source.write_text(json.dumps({"text": "x"}) + "\n")
    with pytest.raises(UsageError, match="no row of ReTool's form; row 1"):
        main([str(source), str(target)])
