"""Real kernels: state, time limits, deaths, floods, secrets, reuse, and no process left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from aster_env.errors import KernelError, UnknownNameError, UsageError
from aster_env.kernels import open_pool


def with_pool(test, **options):
    async def main():
        async with open_pool("ipykernel", allow_unsandboxed=True, **options) as pool:
            await test(pool)

    asyncio.run(main())


async def pid_of(kernel):
    return int((await kernel.execute("import os\nos.getpid()")).value)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pids, seconds=20.0):
    end = time.monotonic() + seconds
    while any(map(alive, pids)):
        if time.monotonic() > end:
            pytest.fail(f"still alive: {[pid for pid in pids if alive(pid)]}")
        time.sleep(0.02)  # polling with a deadline, not waiting for luck


def test_variables_persist_and_survive_exceptions():
    async def test(pool):
        kernel = await pool.start()
        assert (await kernel.execute("x = 20\nx + 1")).value == "21"
        failed = await kernel.execute("x = 30\n1 / 0")
        assert "ZeroDivisionError" in failed.error
        assert "\x1b" not in failed.error
        assert failed.state == "kept"
        assert (await kernel.execute("print(x)")).stdout == "30\n"
        await kernel.close()

    with_pool(test)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("1 + 1", {"value": "2", "stdout": "", "error": None}),
        ("print('a'); 5", {"stdout": "a\n", "value": "5"}),
        ("None", {"value": None}),
        ("", {"value": None, "error": None}),
        ("import sys; print('e', file=sys.stderr)", {"stderr": "e\n"}),
        ("'🙂 naïve'", {"value": "'🙂 naïve'"}),
        ("import os; os.write(1, b'raw\\n'); None", {"stdout": "raw\n"}),
        ("import subprocess; _ = subprocess.run(['echo', 'child'])", {"stdout": "child\n"}),
    ],
)
def test_a_cell_gives_what_a_notebook_shows(code, expected):
    async def test(pool):
        cell = await (await pool.start()).execute(code)
        assert {name: getattr(cell, name) for name in expected} == expected

    with_pool(test)


@pytest.mark.parametrize("code", ["(", "def f(:", "  x = 1\n y", "input()", "raise SystemExit(3)"])
def test_code_that_fails_leaves_the_session_usable(code):
    async def test(pool):
        kernel = await pool.start()
        await kernel.execute("kept = 1")
        failed = await kernel.execute(code, timeout=10)
        assert failed.error or failed.died
        again = await kernel.execute("2 + 2")
        assert again.value == "4"
        if failed.state == "kept":
            assert (await kernel.execute("kept")).value == "1"

    with_pool(test)


def test_a_timeout_interrupts_and_keeps_the_state():
    async def test(pool):
        kernel = await pool.start()
        await kernel.execute("x = 7")
        cell = await kernel.execute("print('before', flush=True)\nwhile True: pass", timeout=0.5)
        assert (cell.timed_out, cell.state, cell.stdout) == (True, "kept", "before\n")
        assert cell.seconds < 5
        assert (await kernel.execute("x")).value == "7"

    with_pool(test)


def test_a_timeout_that_cannot_be_interrupted_loses_the_state_and_says_so():
    async def test(pool):
        kernel = await pool.start()
        await kernel.execute("x = 7")
        stubborn = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"
        cell = await kernel.execute(stubborn, timeout=0.5)
        assert (cell.timed_out, cell.state) == (True, "lost")
        assert "NameError" in (await kernel.execute("x")).error

    with_pool(test, grace=0.5)


@pytest.mark.parametrize(
    "code", ["import os; os._exit(1)", "import os; os.kill(os.getpid(), 9)", "import ctypes; ctypes.string_at(0)"]
)
def test_a_dead_kernel_is_noticed_at_once_and_replaced(code):
    async def test(pool):
        kernel = await pool.start()
        await kernel.execute("x = 1")
        started = time.monotonic()
        cell = await kernel.execute(code, timeout=60)
        assert time.monotonic() - started < 30
        assert (cell.died, cell.state) == (True, "lost")
        assert (await kernel.execute("1 + 1")).value == "2"
        assert "NameError" in (await kernel.execute("x")).error

    with_pool(test)


def test_a_flood_of_output_is_stopped_at_its_source():
    async def test(pool):
        kernel = await pool.start()
        cell = await kernel.execute("while True: print('x' * 1000)", timeout=30)
        assert len(cell.stdout) <= 10_000
        assert "printed more than 10000 characters" in cell.error
        assert "launcher" not in cell.error
        assert cell.seconds < 25
        assert (await kernel.execute("1 + 1")).value == "2"

    with_pool(test, max_output=10_000)


def test_the_parents_secrets_are_not_in_the_sessions_environment(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret-value")
    monkeypatch.setenv("WANDB_API_KEY", "secret-value")

    async def test(pool):
        kernel = await pool.start()
        assert "secret-value" not in (await kernel.execute("import os\ndict(os.environ)")).value

    with_pool(test)


def test_sessions_do_not_share_names_or_folders():
    async def test(pool):
        first, second = await asyncio.gather(pool.start(), pool.start())
        await first.execute("x = 1\nopen('mark', 'w').close()")
        assert "NameError" in (await second.execute("x")).error
        assert (await second.execute("import os\nos.path.exists('mark')")).value == "False"

    with_pool(test)


def test_sessions_run_side_by_side():
    async def test(pool):
        kernels = await asyncio.gather(*(pool.start() for _ in range(3)))
        started = time.monotonic()
        await asyncio.gather(*(kernel.execute("import time; time.sleep(1.5)") for kernel in kernels))
        assert time.monotonic() - started < 3.5

    with_pool(test)


HOSTILE = [
    "import builtins; builtins.leak = 1",
    "__builtins__.leak = 1",
    "get_ipython().leak = 1",
    "import os; os.environ['leak'] = '1'",
    "import math; math.leak = 1",
    "open('leak', 'w').close()",
    "import threading, time; threading.Thread(target=time.sleep, args=(100,), daemon=True).start()",
    "().__class__.__base__.__subclasses__()",
    "def print(*a): pass",
    "eval('1')",
    "x = type('T', (), {'__del__': lambda s: None})()",
    "%config",
    "!true",
]


@pytest.mark.parametrize("code", HOSTILE)
def test_a_session_that_could_have_left_something_is_not_used_again(code):
    async def test(pool):
        kernel = await pool.start()
        await kernel.execute(code)
        hidden = await kernel.execute("1")
        assert hidden.error is None
        process = kernel._process
        await kernel.close()
        assert process not in pool._idle

    with_pool(test)


PROBE = "import sys\n(sorted(globals()), In, Out, _, __, [n for n in dir(sys) if n.startswith('last')])"


@pytest.mark.parametrize("code", ["x = 172 * 64\nx", "x", "1 / 0", "print(sum(range(10)))", "y = [1, 2]"])
def test_a_reused_process_is_as_new(code):
    async def test(pool):
        kernel = await pool.start()
        fresh = (await kernel.execute(PROBE)).value
        await kernel.close()
        kernel = await pool.start()
        await kernel.execute(code)
        process = kernel._process
        await kernel.close()
        assert process in pool._idle
        kernel = await pool.start()
        assert kernel._process is process
        assert (await kernel.execute(PROBE)).value == fresh

    with_pool(test)


def test_no_process_is_left_after_close():
    pids = []

    async def test(pool):
        kernels = [await pool.start() for _ in range(2)]
        pids.extend([await pid_of(kernel) for kernel in kernels])
        child = await kernels[0].execute("import subprocess\nsubprocess.Popen(['sleep', '1000']).pid")
        pids.append(int(child.value))
        assert all(map(alive, pids))

    with_pool(test)
    wait_until_gone(pids)


def test_no_process_is_left_after_an_exception():
    pids = []

    async def test(pool):
        pids.append(await pid_of(await pool.start()))
        raise KeyError("planned")

    with pytest.raises(KeyError):
        with_pool(test)
    wait_until_gone(pids)


def test_no_process_is_left_after_a_cancelled_cell():
    async def test(pool):
        kernel = await pool.start()
        pid = await pid_of(kernel)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(kernel.execute("import time; time.sleep(1000)", timeout=1000), 0.5)
        await kernel.close()
        wait_until_gone([pid])

    with_pool(test)


def test_no_process_is_left_after_sigkill_of_the_parent():
    program = textwrap.dedent("""
        import asyncio
        from aster_env.kernels import open_pool
        async def main():
            async with open_pool("ipykernel", allow_unsandboxed=True) as pool:
                kernel = await pool.start()
                code = "import os, subprocess\\n(os.getpid(), subprocess.Popen(['sleep', '1000']).pid)"
                cell = await kernel.execute(code)
                print(cell.value, flush=True)
                await kernel.execute("while True: pass", timeout=1000)
        asyncio.run(main())
    """)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        pids = [int(part) for part in parent.stdout.readline().strip("()\n").split(",")]
        assert all(map(alive, pids))
        os.kill(parent.pid, signal.SIGKILL)
    wait_until_gone(pids)


def test_a_closed_session_and_a_closed_pool_say_so():
    async def test(pool):
        kernel = await pool.start()
        await kernel.close()
        await kernel.close()
        with pytest.raises(KernelError, match="closed"):
            await kernel.execute("1")
        await pool.close()
        with pytest.raises(KernelError, match="closed"):
            await pool.start()

    with_pool(test)


def test_a_bound_on_sessions_makes_the_next_wait():
    async def test(pool):
        first = await pool.start()
        second = asyncio.create_task(pool.start())
        done, _ = await asyncio.wait({second}, timeout=0.3)
        assert not done
        await first.close()
        await asyncio.wait_for(second, 30)

    with_pool(test, max_kernels=1)


def test_a_pool_that_does_not_isolate_has_to_be_allowed():
    with pytest.raises(UsageError, match="allow_unsandboxed=True"):
        open_pool("ipykernel")
    with pytest.raises(UnknownNameError, match="Did you mean 'ipykernel'"):
        open_pool("ipykernels", allow_unsandboxed=True)
    with pytest.raises(UsageError, match="max_kernels"):
        open_pool("ipykernel", allow_unsandboxed=True, max_kernels=0)
