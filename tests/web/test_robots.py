"""A site's robots.txt decides, and is asked for like any page."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from aster_env.web import PageError
from tests.web.test_hostile_site import CHUNKED, forever, silence
from tests.web.world import GOOD, redirect, response, world

RULES = b"User-agent: *\nDisallow: /\n\nUser-agent: aster-gym\nDisallow: /no\nAllow: /no/but\n"
PAGES = {"/no": response(GOOD), "/no/but": response(GOOD), "/": response(GOOD)}


def outcome(answer, *paths, **options):
    """Return for each path whether it was had, and what the site was asked for."""

    async def run():
        async with world({**PAGES, **({"/robots.txt": answer} if answer is not None else {})}) as made:
            fetcher = made.fetcher(robots=True, **options)
            had = []
            for path in paths:
                had.append(False)
                with contextlib.suppress(PageError):
                    had[-1] = (await fetcher.get(f"http://site.test{path}")).body == GOOD
            assert made.canary.connections == 0
            await fetcher.close()
            return had, made.site.paths()

    return asyncio.run(run())


def test_the_rules_for_this_agent_hold_and_are_asked_for_once():
    had, asked = outcome(response(RULES, Content_Type="text/plain"), "/no", "/no/but", "/", "/good", "/no?x=1")
    assert had == [False, True, True, True, False]
    assert asked == ["/robots.txt", "/no/but", "/", "/good"]


@pytest.mark.parametrize("status", ["404 Not Found", "403 Forbidden", "401 Unauthorized", "429 Too Many Requests"])
def test_a_site_without_rules_allows_everything(status):
    assert outcome(response(RULES, status), "/no", "/good")[0] == [True, True]


@pytest.mark.parametrize("answer", [response(RULES, "503 Unavailable"), b"", b"\xff" * 99, redirect("/robots.txt")])
def test_a_site_that_does_not_say_allows_nothing(answer):
    had, asked = outcome(answer, "/no", "/good")
    assert had == [False, False]
    assert asked == ["/robots.txt"]


def test_rules_are_followed_to_where_they_moved():
    had, asked = outcome(redirect("http://other.test/rules"), "/no")
    assert (had, asked) == ([True], ["/robots.txt", "/rules", "/no"])


@pytest.mark.parametrize("target", ["http://169.254.169.254/", "http://inner.test/", "file:///etc/passwd"])
def test_rules_do_not_lead_to_an_inner_address(target):
    assert outcome(redirect(target), "/good") == ([False], ["/robots.txt"])


def test_rules_that_do_not_come_cost_the_time_of_a_page_at_most():
    started = time.monotonic()
    assert outcome(silence, "/good", seconds=0.5)[0] == [False]
    assert time.monotonic() - started < 3


def test_endless_rules_are_read_to_a_bound():
    lines = b"Disallow: /no" + b"*a" * 100 + b"\n"
    part = b"%x\r\n%b\r\n" % (len(lines), lines)
    head = b"d\r\nUser-agent: *\r\n"
    endless = forever(CHUNKED.replace(b"html", b"plain") + head, part * 200)
    assert outcome(endless, "/good")[0] == [True]


def test_rules_of_the_next_site_count_after_a_redirect():
    async def run():
        answers = {
            "/robots.txt": response(b"User-agent: *\nDisallow: /good"),
            "/away": redirect("http://other.test/good"),
        }
        async with world(answers) as made:
            fetcher = made.fetcher(robots=True)
            with pytest.raises(PageError, match=r"robots\.txt"):
                await fetcher.get("http://site.test/away")
            assert made.site.paths() == ["/robots.txt", "/away", "/robots.txt"]
            await fetcher.close()

    asyncio.run(run())


def test_many_pages_of_a_site_ask_once():
    async def run():
        async with world({"/robots.txt": response(RULES)}) as made:
            fetcher = made.fetcher(robots=True)
            await asyncio.gather(*(fetcher.get(f"http://site.test/good?{n}") for n in range(20)))
            assert made.site.paths().count("/robots.txt") == 1
            await fetcher.close()

    asyncio.run(run())
