"""The tools ``visit`` and ``search`` over a web of a few pages: numbers, texts, parts, refusals, failures."""

from __future__ import annotations

import asyncio
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aster_env.errors import UsageError, WebError
from aster_env.tools.base import Tool, check_call
from aster_env.tools.browse import LEAST_OUTPUT, BrowseTool, WebSearchTool, check_web_limits, parts, split
from aster_env.tools.links import Links, listed
from aster_env.types import ToolCall
from aster_env.web import Fetched, Link, Page, PageError
from aster_env.web.providers import Hit

HOME = [("/one", "One"), ("/two", "Details"), ("/three", "details "), ("/four", "")]
LINES = "\n".join(f"Line {n} of many." for n in range(300))
PAGES = {
    "http://a.example/": ("Home", "Welcome.", HOME),
    "http://a.example/one": ("One", "The first.", [("/", "Home"), ("/two", "Two")]),
    "http://a.example/long": ("Long", LINES, [(f"/n{n}", f"No. {n}") for n in range(90)]),
}


class Web:
    """Pages from a dictionary, and a search over their titles."""

    def __init__(self):
        self.got, self.down = [], False

    async def get(self, url):
        self.got.append(url)
        if self.down:
            raise WebError("no network")
        if url not in PAGES:
            raise PageError(f"The server answered with status 404 for {url!r}.")
        return Fetched(url, 200, "text/html", b"")

    async def page(self, fetched):
        title, text, links = PAGES[fetched.url]
        found = tuple(Link(f"http://a.example{path}", words) for path, words in links)
        return Page(fetched.url, title, text, found, 200, "html", False, 0.0)

    async def search(self, query, n):
        if self.down:
            raise WebError("no network")
        return [Hit(title, url, text[:30]) for url, (title, text, _) in PAGES.items() if query.lower() in title.lower()]

    async def close(self):
        raise AssertionError("it is its owner's to close")


def tools(max_output=2000):
    web, links = Web(), Links()
    return web, BrowseTool(web, web, links, max_output), WebSearchTool(web, links, max_output=max_output)


def visit(tool, *targets):
    results = [asyncio.run(tool(target=target)) for target in targets]
    return results[-1]


def test_both_are_tools_and_their_arguments_are_checked():
    _, browse, search = tools()
    assert isinstance(browse, Tool)
    assert isinstance(search, Tool)
    known = {"visit": browse, "search": search}
    assert check_call(ToolCall("browse", {"target": 3}), known).problem is None
    assert "string or integer" in check_call(ToolCall("visit", {"target": [3]}), known).problem
    assert "lacks the argument" in check_call(ToolCall("visit", {}), known).problem


def test_a_page_is_its_title_address_text_and_numbered_links():
    _, browse, _ = tools()
    result = visit(browse, "http://a.example/")
    assert result.ok
    assert result.text == (
        "Home\nhttp://a.example/\n\nWelcome.\n\nLinks:\n[1] One\n[2] Details (/two)\n[3] details (/three)\n[4] (/four)"
    )


@pytest.mark.parametrize(
    "target", [1, "1", " [1] ", "#1", "link 1", "One", "ONE", "http://a.example/one", "a.example/one", "/one", "./one"]
)
def test_a_link_is_followed_by_number_text_or_address(target):
    web, browse, _ = tools()
    assert "The first." in visit(browse, "http://a.example/", target).text
    assert web.got[-1] == "http://a.example/one"


def test_a_link_keeps_every_text_that_it_was_seen_under():
    links = Links()
    links.see([Link("http://a/x", "Annual report")])
    links.see([Link("http://a/x", "Details"), Link("http://a/y", ""), Link("http://a/x", "")])
    assert links.find("annual  Report") == links.find("Details") == "http://a/x"
    links.see([Link("http://a/z", "Annual report")])
    assert links.find("Annual report") == "http://a/z"


def test_a_target_made_of_blanks_costs_no_time():
    started = time.perf_counter()
    with pytest.raises(PageError):
        Links().find("link" + " " * 4000 + "x")
    assert time.perf_counter() - started < 0.05


def test_more_after_the_last_part_says_so_unless_a_link_is_called_more():
    _, browse, _ = tools()
    assert "No link has the text 'more'" in visit(browse, "more").text
    assert visit(browse, "http://a.example/", "More").text == "Error: That was the last part of the page."
    browse._links.see([Link("http://a.example/one", "more")])
    assert "The first." in visit(browse, "more").text


def test_numbers_hold_for_the_whole_episode_and_belong_to_it():
    web, browse, _ = tools()
    visit(browse, "http://a.example/")
    assert "[5] Home\n[2] Two" in visit(browse, "1").text
    assert visit(browse, "4").text == "Error: The server answered with status 404 for 'http://a.example/four'."
    assert web.got[-1] == "http://a.example/four"
    asyncio.run(browse.reset())
    assert "No link was seen yet" in visit(browse, "1").text
    _, other, _ = tools()
    assert "No link was seen yet" in visit(other, "1").text


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("Details", "Several links have the text 'Details': 2, 3. Give the number of one."),
        ("7", "There is no link 7. Links have the numbers 1 to 4."),
        (0, "There is no link 0."),
        (-3, "There is no link -3."),
        ("99999999999999999999", "No link has the text"),
        ("", "The target is empty."),
        ("somewhere else", "No link has the text 'somewhere else'."),
        ("more", "That was the last part of the page."),
        ("link" + " " * 4000 + "x", "No link has the text"),
        ("link" + " " * 16_000 + "x", "The target is longer than 4096 characters."),
    ],
)
def test_what_means_no_link_is_told_and_asks_nobody(target, says):
    web, browse, _ = tools()
    result = visit(browse, "http://a.example/", target)
    assert not result.ok
    assert says in result.text
    assert web.got == ["http://a.example/"]


def test_the_text_of_a_link_cannot_stand_for_another_address():
    links = Links()
    links.see([Link("http://evil.example/", "http://good.example/"), Link("http://evil.example/2", "1")])
    assert links.find("http://good.example/") == "http://good.example/"
    assert links.find("1") == "http://evil.example/"


def test_the_text_of_a_link_of_the_last_page_comes_before_those_seen_earlier():
    links = Links()
    links.see([Link("http://a.example/1", "Next page"), Link("http://a.example/0", "Start")])
    links.see([Link("http://a.example/2", "Next page")])
    assert links.find("next  page") == "http://a.example/2"
    assert links.find("Start") == "http://a.example/0"


@given(st.text(max_size=60) | st.integers())
def test_any_target_is_an_address_or_told_to_the_model(target):
    links = Links()
    links.see([Link("http://a.example/", "A")], "http://a.example/")
    try:
        found = links.find(target)
    except PageError as error:
        found = str(error)
    assert 0 < len(found) < 500


def test_a_long_page_comes_in_parts_and_an_error_between_them_loses_none():
    web, browse, _ = tools(max_output=1500)
    result = visit(browse, "http://a.example/long")
    count = int(re.search(r"Part 1 of (\d+)\. The target 'more' shows the next", result.text)[1])
    seen = [result.text]
    assert result.dropped > 0
    visit(browse, "http://a.example/nowhere")
    while "'more' shows the next" in seen[-1]:
        seen.append(visit(browse, "more").text)
    assert len(seen) == count
    assert max(map(len, seen)) <= 1500
    assert all(f"Line {n} of many." in "\n".join(seen) for n in range(300))
    assert [int(n) for n in re.findall(r"^\[(\d+)\] No\.", "\n".join(seen), re.MULTILINE)] == [*range(1, 91)]
    assert web.got == ["http://a.example/long", "http://a.example/nowhere"]
    assert "That was the last part of the page." in visit(browse, "more").text


@given(
    text=st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.just("\n"), max_size=3000),
    words=st.lists(st.text("abc ", max_size=200), max_size=60),
    most=st.integers(LEAST_OUTPUT, 3000),
    title=st.text(max_size=400),
)
def test_no_part_is_longer_than_allowed_and_none_is_lost(text, words, most, title):
    links = tuple(Link(f"http://a.example/{n}{'x' * 90}", word) for n, word in enumerate(words))
    page = Page("http://a.example/" + "y" * 2000, title, text, links, 200, "html", True, 0.0)
    lines = listed(links, range(1, len(links) + 1), page.url)
    made = parts(page, lines, most)
    assert max(map(len, made)) <= most
    squeezed = re.sub(r"\s", "", "".join(made))
    assert all(f"[{n}]" in squeezed for n in range(1, len(links) + 1))
    assert sum(map(len, made)) >= len("".join(text.split()))
    assert "can be read" in made[-1]


@given(st.text("ab \n", max_size=300), st.integers(2, 40))
def test_pieces_are_the_text_but_for_the_breaks_between_them(text, most):
    pieces = split(text, most)
    assert max(map(len, pieces), default=0) <= most
    assert re.sub(r"\s", "", "".join(pieces)) == re.sub(r"\s", "", text)


def test_the_search_shares_the_numbers_of_the_episode():
    _, browse, search = tools()
    visit(browse, "http://a.example/")
    result = asyncio.run(search(query=["one", "nothing like it", "one", "long"]))
    assert result.text == (
        "Query: one\n\n[1] One\nhttp://a.example/one\nThe first.\n\nQuery: nothing like it\n\n"
        "(nothing found: try other words)\n\nQuery: long\n\n[5] Long\nhttp://a.example/long\n"
        "Line 0 of many. Line 1 of many"
    )
    assert "Line 0" in visit(browse, "5").text
    assert "The first." in visit(browse, "http://a.example/", "one").text


def test_results_that_are_too_long_are_left_out_from_the_end():
    class Wordy:
        async def search(self, query, n):
            return [Hit("T" * 900, f"http://a.example/{k}", "s" * 900) for k in range(50)]

    search = WebSearchTool(Wordy(), Links(), top_n=30, max_output=3000)
    result = asyncio.run(search(query="x"))
    assert len(result.text) <= 3000
    assert result.text.endswith("(further results are left out: search for less at once)")
    assert result.dropped > 10_000


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("", "is empty"),
        (["", " "], "is empty"),
        ([1], "a list of texts"),
        ("\n".join("abcdef"), "At most 5 are allowed"),
    ],
)
def test_queries_that_cannot_be_searched_are_told(query, says):
    _, _, search = tools()
    result = asyncio.run(search(query=query))
    assert not result.ok
    assert says in result.text


def test_failures_of_the_machinery_are_raised_not_told():
    web, browse, search = tools()
    web.down = True
    with pytest.raises(WebError, match="no network"):
        asyncio.run(browse(target="http://a.example/"))
    with pytest.raises(WebError, match="no network"):
        asyncio.run(search(query="a\nb"))


@pytest.mark.parametrize(
    "wrong", [{"max_output": 999}, {"max_output": 2000.0}, {"top_n": 0}, {"top_n": True}, {"max_queries": 101}]
)
def test_limits_that_are_not_allowed_are_named(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        check_web_limits(**wrong)
