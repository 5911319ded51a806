"""Worker processes: asked, bounded, and ended whatever is cancelled when."""

from __future__ import annotations

import asyncio
import random

import pytest

from aster_env.workers import Worker
from tests.kernels.test_ipykernel import wait_until_gone

ECHO = "import sys\nprint('ready', flush=True)\nfor line in sys.stdin: print(line, end='', flush=True)\n"


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "worker.py"
    path.write_text(ECHO)
    return str(path)


def test_a_worker_answers_line_by_line_and_ends(script):
    async def main():
        worker = await Worker.start(script)
        assert await worker.line() == b"ready\n"
        assert [await worker.ask(b"%d\n" % n) for n in range(3)] == [b"0\n", b"1\n", b"2\n"]
        assert worker.exit_code is None
        await asyncio.gather(worker.end(), worker.end())
        assert worker.exit_code == -9
        with pytest.raises((EOFError, ConnectionError)):
            await worker.ask(b"more\n")
        await worker.end()

    asyncio.run(main())


def test_whoever_waits_for_an_answer_learns_that_the_worker_was_ended(tmp_path):
    (tmp_path / "worker.py").write_text("import time\ntime.sleep(60)\n")

    async def main():
        worker = await Worker.start(str(tmp_path / "worker.py"))
        waiting = asyncio.create_task(worker.line())
        await asyncio.sleep(0)
        await worker.end()
        with pytest.raises(EOFError):
            await asyncio.wait_for(waiting, 10)

    asyncio.run(main())


def test_a_line_over_the_limit_is_an_error_not_memory(tmp_path):
    (tmp_path / "worker.py").write_text("import sys\nwhile True: sys.stdout.write('x' * 100_000)\n")

    async def main():
        worker = await Worker.start(str(tmp_path / "worker.py"), limit=1000)
        with pytest.raises(EOFError):
            await asyncio.wait_for(worker.line(), 10)
        await worker.end()

    asyncio.run(main())


def test_a_worker_gets_no_key(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    (tmp_path / "worker.py").write_text("import os\nprint(sorted(os.environ), flush=True)\n")

    async def main():
        worker = await Worker.start(str(tmp_path / "worker.py"))
        line = await worker.line()
        await worker.end()
        return line

    assert b"KEY" not in asyncio.run(main())


def test_starts_that_are_cancelled_anywhere_leave_no_process_and_wait_for_nothing(script, monkeypatch):
    pids = []
    made = Worker.__init__

    def noting(self, process):
        made(self, process)
        pids.append(process.pid)

    monkeypatch.setattr(Worker, "__init__", noting)
    chance = random.Random(0)

    async def one():
        worker = await Worker.start(script)
        try:
            await worker.line()
        finally:
            await worker.end()

    async def main():
        for _ in range(40):
            task = asyncio.create_task(one())
            for _ in range(chance.randrange(8)):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(task, 10)
        asyncio.create_task(one())  # noqa: RUF006 (left to the end of the loop, which cancels it)
        await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(main(), 60))
    assert len(pids) > 20
    wait_until_gone(pids)
