"""The generated site: the same for a seed, odd as real sites are, and served to many at once."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
import time
from collections import Counter

import pypdf
import pytest

from aster_env.envs.web_walker.site import SiteSearch, SiteServer, build_site, site_guard
from aster_env.envs.web_walker.site.build import _built
from aster_env.envs.web_walker.site.questions import FAMILIES
from aster_env.envs.web_walker.tasks import generated
from aster_env.errors import UsageError
from aster_env.web import Fetcher, PageError


def ask(port, data):
    async def send():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer

    return send()


def test_a_site_is_the_same_for_a_seed_in_every_process_and_quickly_made():
    code = "from aster_env.envs.web_walker.site import build_site; print(build_site(3).digest)"
    there = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"}
    )
    _built.cache_clear()
    started = time.perf_counter()
    site = build_site(3)
    assert time.perf_counter() - started < 5
    assert there.stdout.strip() == site.digest
    assert len({build_site(seed, 120, split).digest for seed in (0, 1) for split in ("train", "test")}) == 4


@pytest.mark.parametrize("size", [120, 300, 1200])
def test_a_site_has_about_as_many_pages_as_asked_for_and_questions_of_every_family(size):
    site = build_site(1, size)
    pages = [path for path, page in site.pages.items() if page.status == 200 and "html" in page.content_type]
    assert 0.8 * size < len(pages) < 1.4 * size
    counted = {family: len(found) for family, found in site.questions.items() if family != "count" or size < 1000}
    assert min(counted.values()) > 12
    assert set(site.questions) == set(FAMILIES)
    prompts = [question.prompt for found in site.questions.values() for question in found]
    assert len(prompts) == len(set(prompts))


def test_a_site_is_as_odd_as_real_ones():
    site = build_site()
    kinds = Counter(page.content_type for page in site.pages.values())
    assert kinds["application/pdf"] == 7
    assert kinds["text/html; charset=iso-8859-1"] > 5
    assert kinds["text/html"] > 10
    bodies = [page.body for path, page in site.pages.items() if path.startswith("/towns/")]
    assert any(body.startswith(b"\xff\xfe") for body in bodies)
    assert any(b'<meta charset="iso-8859-1">' in body and not body.isascii() for body in bodies)
    assert Counter(page.status for page in site.pages.values()).keys() == {200, 301, 302, 308, 410}
    assert len(site.pages["/law/by-laws"].body) > 20_000
    text = "".join(
        page.extract_text() for page in pypdf.PdfReader(io.BytesIO(site.pages["/files/report-2019.pdf"].body)).pages
    )
    assert "Department of Water: spent " in text


def test_larger_sets_of_questions_begin_with_smaller_ones_and_seeds_differ():
    small, large = generated(size=20), generated(size=60)
    assert [*small] == [*large][:20]
    assert Counter(task.metadata["type"] for task in [*large][:18]) == Counter([*FAMILIES] * 2)
    assert [*generated(size=20, seed=1)] != [*small]
    assert {task.metadata["hops"] for task in large} <= set(range(1, 6))


@pytest.mark.parametrize(
    "wrong", [{"seed": -1}, {"seed": "x"}, {"size": 10}, {"size": 10**6}, {"size": True}, {"split": "dev"}]
)
def test_what_is_no_site_is_named(wrong):
    with pytest.raises(UsageError):
        build_site(**wrong)


def test_two_hundred_walkers_are_served_at_once_and_nothing_is_left():
    site = build_site()

    async def main():
        async with SiteServer(site) as server:
            fetcher = Fetcher(guard=site_guard(server), concurrency=200)
            paths = [
                path for path, page in site.pages.items() if page.status == 200 and not path.startswith("/internal")
            ]
            pages = await asyncio.gather(*(fetcher.get(site.address(path)) for path in paths[:200]))
            await fetcher.close()
        assert [page.body for page in pages] == [site.pages[path].body for path in paths[:200]]
        with pytest.raises(OSError, match=r"."):
            await asyncio.open_connection("127.0.0.1", server.port)

    asyncio.run(main())


def test_the_guard_reaches_the_site_and_no_other_host():
    site = build_site()

    async def main():
        async with SiteServer(site) as server:
            fetcher = Fetcher(guard=site_guard(server))
            assert (await fetcher.get(f"http://{site.host.upper()}/contact#top")).status == 200
            for url in (
                "http://example.com/", "http://127.0.0.1/", server.url, f"https://{site.host}/", f"http://{site.host}:8080/",
                f"http://x.{site.host}/", f"http://{site.host}@127.0.0.1/", "http://169.254.169.254/", "http://[::1]/",
            ):  # fmt: skip
                with pytest.raises(PageError):
                    await fetcher.get(url)
            seen = server.requests
            await fetcher.get(site.url)
            assert server.requests == seen + 1
            await fetcher.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    "sent",
    [b"garbage\r\n\r\n", b"POST / HTTP/1.1\r\n\r\n", b"GET /%00/../x HTTP/1.1\r\n\r\n", b"GET  HTTP/1.1\r\n\r\n"],
)
def test_the_server_answers_what_is_no_request_with_404_and_goes_on(sent):
    site = build_site(0, 120)

    async def main():
        async with SiteServer(site) as server:
            assert (await ask(server.port, sent)).startswith(b"HTTP/1.1 404")
            assert await ask(server.port, b"x" * 100_000) == b""
            good = await ask(server.port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert good.endswith(site.pages["/"].body)

    asyncio.run(main())


def test_closing_does_not_wait_for_a_client_that_says_nothing():
    async def main():
        async with SiteServer(build_site(0, 120)) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"GET / HT")
            await ask(server.port, b"GET / HTTP/1.1\r\n\r\n")
            started = time.perf_counter()
        assert time.perf_counter() - started < 2
        assert await reader.read() == b""
        writer.close()

    asyncio.run(main())


def test_the_search_finds_titles_first_and_never_what_asks_not_to_be_found():
    site = build_site()
    search = SiteSearch(site)
    for path, page in [*site.pages.items()][::7]:
        if page.title and "page" not in page.title:
            assert site.address(path) in [hit.url for hit in search.best(page.title, 5)], page.title
    found = {
        hit.url for word in ("topics", "canteen", "intranet", "programs", "water") for hit in search.best(word, 100)
    }
    assert not {url for url in found if "/tags/" in url or "/internal/" in url or url.endswith("/notice")}
    assert search.best("", 5) == search.best("of the", 5) == []


def test_the_site_has_a_search_page_of_its_own():
    site = build_site(0, 120)
    server = SiteServer(site)
    page = server.answer("/search?q=ferry+%3Cscript%3E&x=1").body.decode()
    assert "Ferry line 1" in page
    assert "<script>&" not in page
    assert "&lt;script&gt;" in page
