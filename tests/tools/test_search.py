"""The tool `search`, over a scripted retriever."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aster_env.errors import InfrastructureError, RetrieverError, UsageError
from aster_env.retrieval import Passage
from aster_env.tools.base import check_call, run_call
from aster_env.tools.search import SearchTool
from aster_env.types import ToolCall

FOUND = [Passage("1", "Vexia", "A town on the Orm."), Passage("2", "", "A text without a title.")]


class Scripted:
    source = {"retriever": "scripted"}  # noqa: RUF012

    def __init__(self, found=FOUND, error=None):
        self.found, self.error, self.asked = found, error, []

    async def search(self, queries, n=5):
        self.asked.append((list(queries), n))
        if self.error:
            raise self.error
        return [self.found[:n] for _ in queries]

    async def close(self):
        pass


def call(retriever, query, **limits):
    tool = SearchTool(retriever, **limits)
    checked = check_call(ToolCall("search", {"query": query}), {"search": tool})
    return asyncio.run(run_call(checked, {"search": tool}, 5))


def test_passages_come_under_their_titles():
    result = call(Scripted(), "where is Vexia")
    assert result.ok
    assert result.text == "[1] Vexia\nA town on the Orm.\n\n[2] \nA text without a title."


@pytest.mark.parametrize("query", ["one\n\n two \none", ["one", "two", "one "]])
def test_several_queries_in_one_call_are_answered_one_by_one(query):
    retriever = Scripted(FOUND[:1])
    result = call(retriever, query, top_n=3)
    assert retriever.asked == [(["one", "two"], 3)]
    assert result.text == ("Query: one\n\n[1] Vexia\nA town on the Orm.\n\nQuery: two\n\n[1] Vexia\nA town on the Orm.")


def test_nothing_found_says_so():
    result = call(Scripted([]), "xyzzy")
    assert result.ok
    assert "nothing found" in result.text


@pytest.mark.parametrize(
    ("query", "said"),
    [("", "empty"), (" \n ", "empty"), ([], "empty"), ([1], "list of texts"), ("a\nb\nc", "At most 2"), (3, "string")],
)
def test_a_call_that_cannot_be_searched_for_is_the_models_mistake(query, said):
    retriever = Scripted()
    result = call(retriever, query, max_queries=2)
    assert not result.ok
    assert said in result.text
    assert not retriever.asked


def test_a_search_that_fails_is_never_text():
    with pytest.raises(InfrastructureError, match="down"):
        call(Scripted(error=RetrieverError("down")), "anything")


@given(st.lists(st.text(max_size=300), max_size=6), st.integers(1, 400))
def test_the_observation_is_bounded_and_counts_what_is_missing(texts, most):
    found = [Passage(str(n), f"T{n}", text) for n, text in enumerate(texts)]
    result = call(Scripted(found), "q", top_n=6, max_output=most)
    # Beside its share, a passage has at most the note of what is missing.
    assert len(result.text) <= most + 50 * max(1, len(texts))
    share = most // max(1, len(found))
    assert result.dropped == sum(
        max(0, len(f"[{n}] {p.title}\n{p.text}".rstrip()) - max(1, share)) for n, p in enumerate(found, 1)
    )


@pytest.mark.parametrize("limits", [{"top_n": 0}, {"max_output": True}, {"max_queries": 1.5}])
def test_limits_are_checked(limits):
    (name,) = limits
    with pytest.raises(UsageError, match=name):
        SearchTool(Scripted(), **limits)
