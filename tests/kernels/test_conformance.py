"""One and the same claims for every pool; a new pool gets its line in ``TABLE``."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from aster_env.errors import KernelError
from aster_env.kernels import POOLS, open_pool
from tests.kernels.servers import SLACK, TOKEN, below, kernels_of, wait_until

MAX_OUTPUT = 20_000
GRACE = 0.5
MARGIN = 10.0
"""Seconds beyond all limits that a loaded machine may need."""


@dataclass(frozen=True)
class Way:
    """How to open a pool here, and where it keeps its processes.

    Args:
        pool: its name in ``POOLS``.
        options: its options, from the server that it needs.
        server: the fixture with that server, or None.
        late: seconds beyond timeout and grace after which a cell that cannot be stopped is given up.
        tells_death: whether it knows the end of a cell's process from a cell that ran out of time.
        stops_await: whether an interrupt stops a cell that awaits.
        left: what it left, from the server and the processes that were there before.
    """

    pool: str
    options: Callable[[Any], dict[str, Any]]
    server: str | None = None
    late: float = 0.0
    tells_death: bool = True
    stops_await: bool = True
    left: Callable[[Any, set[int]], Any] = field(default=lambda _, before: below(os.getpid()) - before)


def fusion(mode):
    return lambda server: {
        "url": server.url, "mode": mode, "startup": 1.5, "max_output": MAX_OUTPUT, "grace": GRACE,
    }  # fmt: skip


def inner(_):
    return {"inner": "zygote", "inner_options": {"max_output": MAX_OUTPUT, "grace": GRACE}}


def local(_):
    return {"allow_unsandboxed": True, "max_output": MAX_OUTPUT, "grace": GRACE}


TABLE = {
    # ipykernel reacts to an interrupt of a cell that awaits at the next message only, and this pool sends none.
    "ipykernel": Way("ipykernel", local, stops_await=False),
    "zygote": Way("zygote", lambda _: {"max_output": MAX_OUTPUT, "grace": GRACE}),
    "gateway": Way(
        "gateway",
        lambda server: {"url": server.url, "token": TOKEN, "max_output": MAX_OUTPUT, "grace": GRACE},
        server="gateway",
        left=lambda server, _: kernels_of(server) or below(server.pid),
    ),
    "sandboxfusion-stateful": Way(
        "sandboxfusion", fusion("stateful"), server="sandboxfusion", late=1.5, left=lambda server, _: below(server.pid)
    ),
    "sandboxfusion-replay": Way(
        "sandboxfusion",
        fusion("replay"),
        server="sandboxfusion",
        late=1.5 + SLACK,
        tells_death=False,
        left=lambda server, _: below(server.pid),
    ),
    "ray": Way("ray", inner, server="ray_node", left=lambda _, __: ()),
}


@pytest.fixture(scope="module")
def ray_node():
    """This process as a node of a cluster of its own; what stays of Ray is the fixture's, not the pool's."""
    ray = pytest.importorskip("ray", reason="ray is not installed")
    small = {"include_dashboard": False, "object_store_memory": 80 * 1024 * 1024, "log_to_driver": False}
    ray.init(address="local", num_cpus=2, **small)
    yield
    ray.shutdown()


@dataclass(frozen=True)
class Place:
    """A way to open a pool, and the server that it needs."""

    way: Way
    server: Any

    def open(self):
        return open_pool(self.way.pool, **self.way.options(self.server))

    def left(self, before):
        return self.way.left(self.server, before)


@dataclass(frozen=True)
class Opened:
    """A pool, and what runs coroutines on the event loop that it belongs to."""

    way: Way
    pool: Any
    run: Callable[[Any], Any]


SLOW = {"sandboxfusion-replay"}
"""Half a minute: each of its cells starts a kernel. What is its own is in test_sandboxfusion.py."""
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in TABLE]


@pytest.fixture(scope="module", params=NAMES)
def place(request):
    way = TABLE[request.param]
    if way.pool not in POOLS:
        pytest.skip(f"there is no pool {way.pool!r}")
    return Place(way, request.getfixturevalue(way.server) if way.server else None)


@pytest.fixture(scope="module")
def opened(place):
    """One pool for all claims that do not close it."""
    with asyncio.Runner() as runner:
        pool = place.open()
        runner.run(pool.__aenter__())
        try:
            yield Opened(place.way, pool, runner.run)
        finally:
            runner.run(pool.close())


@pytest.fixture
def session(opened):
    """Run a coroutine function on a fresh session of the pool."""

    def run(test):
        async def main():
            kernel = await opened.pool.start()
            try:
                await asyncio.wait_for(test(kernel), 120)
            finally:
                await kernel.close()

        opened.run(main())

    return run


async def check_state(kernel, cell):
    """The variable ``x``, 7 before the cell, is there exactly if the Cell says so."""
    again = await kernel.execute("x", timeout=30)
    if cell.state == "kept":
        assert again.value == "7", again
    else:
        assert again.error is not None
        assert "NameError" in again.error, again


def test_every_pool_is_in_the_table():
    assert set(POOLS) == {way.pool for way in TABLE.values()} & set(POOLS)


# These come first: the processes of the pool that the other claims share would be counted as left.
def test_nothing_is_left_after_an_exception_in_the_middle_of_a_cell(place):
    before = below(os.getpid())

    async def test():
        async with place.open() as pool:
            kernels = await asyncio.gather(pool.start(), pool.start())
            await asyncio.gather(*(kernel.execute("x = 1") for kernel in kernels))
            running = asyncio.create_task(kernels[0].execute("while True: pass", timeout=1))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(running), 0.3)
            running.add_done_callback(lambda task: task.cancelled() or task.exception())
            raise KeyError("planned")

    with pytest.raises(KeyError):
        asyncio.run(test())
    wait_until(lambda: not place.left(before))


def test_a_closed_pool_says_so(place):
    async def test():
        pool = place.open()
        async with pool:
            pass
        await pool.close()
        with pytest.raises(KernelError, match="closed"):
            await pool.start()

    asyncio.run(test())


def test_a_session_whose_pool_was_closed_raises_a_typed_error(place):
    async def test():
        async with place.open() as pool:
            kernel = await pool.start()
        with pytest.raises(KernelError):
            await kernel.execute("1")
        await kernel.close()

    asyncio.run(test())


def test_variables_persist_and_survive_exceptions(session):
    async def test(kernel):
        assert (await kernel.execute("x = 20\nx + 1")).value == "21"
        failed = await kernel.execute("x = 30\ndef f(): return x\n1 / 0\nx = 40")
        assert (failed.state, failed.value) == ("kept", None)
        assert (await kernel.execute("print(f())")).stdout == "30\n"

    session(test)


def test_a_cell_gives_its_value_and_its_streams_apart(session):
    async def test(kernel):
        cell = await kernel.execute("import sys\nprint('out 🙂')\nprint('err', file=sys.stderr)\n[1, 2]")
        assert (cell.stdout, cell.stderr, cell.value, cell.error) == ("out 🙂\n", "err\n", "[1, 2]", None)
        assert (cell.state, cell.timed_out, cell.died, cell.truncated) == ("kept", False, False, 0)
        assert (await kernel.execute("y = 1")).value is None

    session(test)


def test_an_error_is_a_plain_traceback_that_names_the_exception(session):
    async def test(kernel):
        for code, name, line in (("a = [3]\na[5]", "IndexError", "a[5]"), ("def f(:", "SyntaxError", "def f(:")):
            cell = await kernel.execute(code)
            assert name in cell.error
            assert line in cell.error
            assert "\x1b" not in cell.error
            assert (cell.value, cell.state) == (None, "kept")

    session(test)


def test_a_cell_out_of_time_is_interrupted_and_keeps_the_state(session):
    async def test(kernel):
        await kernel.execute("x = 7")
        started = time.monotonic()
        cell = await kernel.execute("print('before', flush=True)\nwhile True: pass", timeout=0.5)
        assert time.monotonic() - started < 0.5 + GRACE + MARGIN
        assert (cell.timed_out, cell.state, cell.stdout) == (True, "kept", "before\n")
        await check_state(kernel, cell)

    session(test)


def test_a_cell_that_awaits_for_ever_ends_in_time_and_its_state_is_told_truly(opened, session):
    async def test(kernel):
        await kernel.execute("x = 7\nimport asyncio")
        started = time.monotonic()
        cell = await kernel.execute("await asyncio.sleep(60)", timeout=0.5)
        assert time.monotonic() - started < 0.5 + GRACE + MARGIN
        assert cell.timed_out
        assert cell.state == "kept" or not opened.way.stops_await
        await check_state(kernel, cell)

    session(test)


def test_a_cell_that_ignores_interrupts_ends_in_time_and_its_state_is_told_truly(opened, session):
    async def test(kernel):
        await kernel.execute("x = 7")
        deaf = "import signal\nfor s in (signal.SIGINT, signal.SIGALRM): signal.signal(s, signal.SIG_IGN)\n"
        started = time.monotonic()
        cell = await kernel.execute(deaf + "while True: pass", timeout=0.5)
        assert time.monotonic() - started < 0.5 + GRACE + opened.way.late + MARGIN
        assert cell.timed_out
        await check_state(kernel, cell)

    session(test)


def test_a_kernel_that_ends_itself_is_told_and_the_next_cell_works(opened, session):
    async def test(kernel):
        await kernel.execute("x = 7")
        started = time.monotonic()
        cell = await kernel.execute("import os\nos._exit(3)", timeout=60 if opened.way.tells_death else 0.5)
        assert time.monotonic() - started < 30
        assert cell.state == "lost"
        if opened.way.tells_death:
            assert (cell.died, cell.timed_out) == (True, False)
            assert cell.error
        else:
            assert cell.timed_out
        await check_state(kernel, cell)
        assert (await kernel.execute("1 + 1")).value == "2"

    session(test)


def test_sessions_do_not_see_each_others_variables_and_run_side_by_side(opened):
    async def one(number):
        kernel = await opened.pool.start()
        try:
            await kernel.execute(f"seen = 'x' in globals()\nx = {number}", timeout=60)
            return (await kernel.execute("(seen, x)", timeout=60)).value
        finally:
            await kernel.close()

    async def test():
        numbers = range(5)
        assert await asyncio.gather(*map(one, numbers)) == [f"(False, {number})" for number in numbers]

    opened.run(asyncio.wait_for(test(), 120))


def test_closing_is_idempotent_and_a_closed_session_says_so(session):
    async def test(kernel):
        await kernel.close()
        await kernel.close()
        with pytest.raises(KernelError, match="closed"):
            await kernel.execute("1")

    session(test)


def test_a_flood_of_output_is_bounded_in_memory_and_told(session):
    async def test(kernel):
        for code in ("for _ in range(50): print('x' * 10**6)", "print('y' * 10**8)"):
            await kernel.execute("x = 7")
            tracemalloc.start()
            try:
                cell = await kernel.execute(code, timeout=60)
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            assert len(cell.stdout) + len(cell.stderr) <= 5 * MAX_OUTPUT
            assert cell.truncated or cell.error
            assert peak < 10e6
            await check_state(kernel, cell)

    session(test)


def test_a_cancelled_cell_leaves_the_session_usable(session):
    async def test(kernel):
        await kernel.execute("x = 7")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(kernel.execute("import time\ntime.sleep(1000)", timeout=3.0), 0.5)
        after = await asyncio.wait_for(kernel.execute("x", timeout=20), 40)
        assert after.value == "7" or "NameError" in after.error
        assert (await kernel.execute("1 + 1")).value == "2"

    session(test)
