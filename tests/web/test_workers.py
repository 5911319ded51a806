"""The processes that read pages: bounded, replaced, and gone when closed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time

import pytest

from aster_env.errors import UsageError, WebError
from aster_env.web import Extractor, PageError
from tests.web.test_extract import ARTICLE, SENTENCES, html

BREAKING = {
    "nesting": "<div>" * 100_000,
    "nesting of inline elements": "<b>" * 200_000 + "x",
    "nesting of tables": "<table><tr><td>" * 20_000 + "x",
    "unclosed tags": "<" * 500_000,
    "a million attributes": "<p " + " ".join(f"a{n}=1" for n in range(200_000)) + ">x",
    "one endless word": "a" * 3_000_000,
    "half a million links": "<a href=x>" * 300_000,
    "an open comment": "<!--" * 300_000,
    "entities": "&amp;" * 500_000,
}


@pytest.mark.parametrize("body", BREAKING.values(), ids=BREAKING)
def test_a_page_made_to_break_parsers_costs_bounded_time(body):
    async def run():
        extractor = Extractor(workers=1, seconds=1.5)
        started = time.monotonic()
        with contextlib.suppress(PageError):
            assert len((await extractor.page(html(f"<html><body>{body}"))).text) <= 200_000
        assert time.monotonic() - started < 12
        assert "All is well" in (await extractor.page(html("<p>All is well"))).text
        await extractor.close()
        assert extractor.pids == []

    asyncio.run(run())


def test_a_worker_that_dies_is_replaced_and_the_page_read(monkeypatch):
    async def run():
        extractor = Extractor(workers=1)
        await extractor.page(html(ARTICLE))
        (pid,) = extractor.pids
        os.kill(pid, signal.SIGKILL)
        while extractor._idle[0].exit_code is None:
            await asyncio.sleep(0.01)
        assert SENTENCES[0] in (await extractor.page(html(ARTICLE))).text
        (pid,) = extractor.pids
        task = asyncio.create_task(extractor.page(html(ARTICLE * 10)))
        while extractor._idle:
            await asyncio.sleep(0)
        os.kill(pid, signal.SIGKILL)
        assert SENTENCES[0] in (await task).text
        await extractor.close()

    asyncio.run(run())


def test_a_worker_that_gets_no_time_changes_nothing_of_what_is_read():
    async def run(stops):
        extractor = Extractor(workers=1, seconds=0.5)
        await extractor.page(html("<p>x"))
        stopped = []
        task = asyncio.create_task(extractor.page(html(ARTICLE)))
        while not task.done():
            for pid in set(extractor.pids) - set(stopped):
                if len(stopped) < stops:
                    stopped.append(pid)
                    os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(0.001)
        text = task.result().text
        await extractor.close()
        return text

    assert asyncio.run(run(1)) == asyncio.run(run(0))


def test_workers_killed_again_and_again_are_a_failure_of_the_machine_and_not_of_the_page():
    async def run():
        extractor = Extractor(workers=1)
        await extractor.page(html("<p>x"))
        task = asyncio.create_task(extractor.page(html(BREAKING["nesting"])))
        while not task.done():
            for worker, asked in extractor._read.items():
                if asked and worker not in extractor._idle and worker.exit_code is None:
                    os.kill(worker.pid, signal.SIGKILL)
            await asyncio.sleep(0.001)
        with pytest.raises(WebError, match=r"was ended from outside \(exit code -9\), twice"):
            await task
        await extractor.close()

    asyncio.run(run())


def test_a_page_that_cannot_be_read_costs_its_time_once(monkeypatch):
    async def run():
        extractor = Extractor(workers=1, seconds=0.3)
        page = html("<html><body>" + BREAKING["a million attributes"] * 3)
        asked = []
        original = Extractor._try

        async def count(self, request, body):
            asked.append(request["plain"])
            return await original(self, request, body)

        monkeypatch.setattr(Extractor, "_try", count)
        for _ in range(2):
            with pytest.raises(PageError, match="cannot be read"):
                await extractor.page(page)
        assert asked == [False, True]
        await extractor.close()

    asyncio.run(run())


def test_workers_are_replaced_after_their_pages():
    async def run():
        extractor = Extractor(workers=1, recycle=2)
        pids = set()
        for _ in range(3):
            await extractor.page(html("<p>x"))
            pids |= set(extractor.pids)
        assert len(pids) == 2
        await extractor.close()
        await extractor.close()
        with pytest.raises(WebError, match="closed"):
            await extractor.page(html("<p>x"))
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)

    asyncio.run(run())


def test_a_page_given_up_ends_its_worker():
    async def run():
        extractor = Extractor(workers=1, seconds=60)
        await extractor.page(html("<p>x"))
        (pid,) = extractor.pids
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(extractor.page(html("<html>" + "<div>" * 30_000)), 0.5)
        assert extractor.pids == []
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert "well" in (await extractor.page(html("<p>All is well"))).text
        await extractor.close()

    asyncio.run(run())


def test_a_worker_that_cannot_start_is_an_infrastructure_error(monkeypatch, tmp_path):
    (tmp_path / "worker.py").write_text("raise SystemExit(3)")

    async def run(path):
        monkeypatch.setattr("aster_env.web.extract._WORKER", str(path))
        extractor = Extractor(workers=1)
        with pytest.raises(WebError, match="exit code"):
            await extractor.page(html("<p>x"))
        await extractor.close()

    asyncio.run(run(tmp_path / "worker.py"))
    asyncio.run(run(tmp_path / "none.py"))


@pytest.mark.parametrize(
    "options", [{"workers": -1}, {"seconds": 0}, {"recycle": 0}, {"max_chars": 0}, {"max_links": -1}]
)
def test_bounds_that_cannot_be_are_errors_of_usage(options):
    with pytest.raises(UsageError, match="Fix:"):
        Extractor(**options)
