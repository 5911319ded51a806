"""Tokenizers: several chat templates, and errors that say what to do."""

from __future__ import annotations

import pytest

from aster_env.dialects import DIALECTS, make_dialect
from aster_env.errors import UsageError
from aster_env.tokenizers import as_tokenizer
from aster_env.types import Message
from aster_train.tiny.tokenizer import TEMPLATE, make_tokenizer
from tests.support import EchoTool


def with_templates(templates):
    inner = make_tokenizer(["What is 1 + 1?"], 400)
    inner.chat_template = templates
    return as_tokenizer(inner)


@pytest.mark.parametrize("name", sorted(DIALECTS))
def test_of_several_templates_the_one_for_tools_renders_everything(name):
    def texts(tokenizer):
        dialect = make_dialect(name, tokenizer)
        prompt = dialect.prompt([Message("user", "Q")], {"python": EchoTool.schema})
        return prompt, dialect.observation("4"), dialect.observation("4", tokenizer.end_text)

    several = with_templates({"default": "{{ raise_exception('wrong one') }}", "tool_use": TEMPLATE})
    assert texts(several) == texts(with_templates(TEMPLATE)) == texts(with_templates({"default": TEMPLATE}))


def test_templates_that_are_for_neither_are_named():
    with pytest.raises(UsageError, match=r"'rag'.*Allowed: one called 'tool_use' or 'default'"):
        with_templates({"rag": TEMPLATE})


def test_a_failure_to_load_without_a_message_is_named(tmp_path, monkeypatch):
    import transformers

    def fail(*arguments):
        raise OSError

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", fail)
    with pytest.raises(UsageError, match="OSError"):
        as_tokenizer(str(tmp_path))
