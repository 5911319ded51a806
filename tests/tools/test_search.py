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


@given(st.lists(st.lists(st.text(max_size=300), max_size=4), min_size=1, max_size=3), st.integers(1, 900))
def test_the_observation_is_bounded_and_counts_what_is_missing(texts, most):
    found = [[Passage(str(n), f"T{n}", text) for n, text in enumerate(passages)] for passages in texts]

    class Each(Scripted):
        async def search(self, queries, n=5):
            return found

    queries = [f"q{n}" for n in range(len(found))]
    whole = call(Each(), queries, max_output=100_000)
    result = call(Each(), queries, max_output=most)
    assert not whole.dropped
    # A whole that does not fit is marked once.
    assert len(result.text) <= most + 40
    assert (result.dropped > 0) == (result.text != whole.text) == (len(whole.text) > most)


def test_what_short_passages_leave_goes_to_long_ones():
    found = [Passage("1", "A", "short"), Passage("2", "B", "x" * 1000), Passage("3", "C", "y" * 1000)]
    result = call(Scripted(found), "q", max_output=1000)
    assert "[1] A\nshort" in result.text
    assert 800 < len(result.text) <= 1000
    assert abs(result.text.count("x") - result.text.count("y")) <= 2


@pytest.mark.parametrize("limits", [{"top_n": 0}, {"top_n": 2**40}, {"max_output": True}, {"max_queries": 1.5}])
def test_limits_are_checked(limits):
    (name,) = limits
    with pytest.raises(UsageError, match=name):
        SearchTool(Scripted(), **limits)
