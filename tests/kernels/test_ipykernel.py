"""Real kernels: state, time limits, deaths, floods, secrets, repeatability, and no process left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from aster_env.errors import KernelError, UnknownNameError, UsageError
from aster_env.kernels import check_pool, open_pool


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
    ("code", "how"),
    [
        ("import os; os._exit(3)", "exit code 3"),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL"),
        ("import ctypes; ctypes.string_at(0)", "killed by SIGSEGV"),
        ("import os, time; os.kill(os.getppid(), 9); time.sleep(100)", "killed by SIGKILL"),
    ],
)
def test_how_a_kernel_ended_is_told_and_its_children_end_with_it(code, how):
    async def test(pool):
        kernel = await pool.start()
        child = int((await kernel.execute("import subprocess\nsubprocess.Popen(['sleep', '1000']).pid")).value)
        pid = await pid_of(kernel)
        cell = await kernel.execute(code)
        assert how in cell.error
        wait_until_gone([child, pid])

    with_pool(test)


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


@pytest.mark.parametrize(
    ("code", "printed"),
    [
        ("import os; _ = os.system('seq 1 400000')", 2_688_895),
        ("import subprocess; _ = subprocess.run(['seq', '400000'])", 2_688_895),
        ("import threading\nt = threading.Thread(target=print, args=('x' * 49_999,)); t.start(); t.join()", 50_000),
        ("print('x' * 49_999)", 50_000),
    ],
)
def test_what_is_printed_past_the_limit_is_dropped_and_counted(code, printed):
    async def test(pool):
        kernel = await pool.start()
        cell = await kernel.execute(code, timeout=30)
        assert not cell.timed_out
        assert len(cell.stdout) == 10_000
        # A print in the cell's own thread ends it, before its newline.
        assert cell.truncated == printed - 10_000 - (cell.error is not None)
        assert (await kernel.execute("1 + 1")).truncated == 0

    with_pool(test, max_output=10_000)


def test_what_child_processes_write_is_complete_when_the_cell_ends():
    async def test(pool):
        kernel = await pool.start()
        for number in range(20):
            cell = await kernel.execute(f"import os; _ = os.system('echo {number} 東京; echo {number} >&2')")
            assert (cell.stdout, cell.stderr) == (f"{number} 東京\n", f"{number}\n")

    with_pool(test)


def test_nothing_that_a_session_writes_reaches_the_terminal():
    program = textwrap.dedent("""
        import asyncio
        from aster_env.kernels import open_pool
        async def main():
            async with open_pool("ipykernel", allow_unsandboxed=True) as pool:
                kernel = await pool.start()
                await kernel.execute("import os, sys; os.system('echo out; echo err >&2'); print('a', file=sys.stderr)")
                await kernel.execute("import ctypes; ctypes.string_at(0)")
        asyncio.run(main())
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_the_same_cells_give_the_same_bytes_in_every_session():
    async def test(pool):
        seen = []
        for _ in range(2):
            kernel = await pool.start()
            await kernel.execute("import os")
            codes = [
                "print({'ab', 'cd', 'ef', 'gh'}, hash('ab'))",
                "import warnings; warnings.warn('w')",
                "'\\d'",
                "1 / 0",
            ]
            seen.append([replace(await kernel.execute(code), seconds=0) for code in codes])
            await kernel.close()
        assert seen[0] == seen[1]
        assert seen[0][1].stderr.startswith("Cell In[3]:1: UserWarning: w\n")

    with_pool(test)


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


def test_a_process_serves_one_session():
    async def test(pool):
        pids = []
        for _ in range(2):
            kernel = await pool.start()
            pids.append(await pid_of(kernel))
            await kernel.close()
            wait_until_gone(pids)
        assert pids[0] != pids[1]

    with_pool(test)


def test_a_traceback_is_plain_and_numbered_by_the_cells_own_lines():
    async def test(pool):
        kernel = await pool.start()
        await kernel.execute("def half(x):\n    return 1 / x")
        cell = await kernel.execute("y = 0\nhalf(y)")
        assert cell.error.splitlines() == [
            "Traceback (most recent call last):",
            "  Cell In[2], line 2",
            "    half(y)",
            "  Cell In[1], line 2 in half",
            "    return 1 / x",
            "ZeroDivisionError: division by zero",
        ]

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


@pytest.mark.parametrize("code", ["while True: pass", "3**400000000 % 7", "import time; time.sleep(1000)"])
def test_no_process_is_left_after_sigkill_of_the_parent(code):
    """Also while native code holds the interpreter's lock, so that no thread of the kernel runs."""
    program = textwrap.dedent("""
        import asyncio
        from aster_env.kernels import open_pool
        async def main():
            async with open_pool("ipykernel", allow_unsandboxed=True) as pool:
                kernel = await pool.start()
                code = "import os, subprocess\\n(os.getpid(), subprocess.Popen(['sleep', '1000']).pid)"
                cell = await kernel.execute(code)
                print(cell.value, flush=True)
                await kernel.execute("CODE", timeout=1000)
        asyncio.run(main())
    """).replace("CODE", code)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        pids = [int(part) for part in parent.stdout.readline().strip("()\n").split(",")]
        assert all(map(alive, pids))
        wait_until_running(pids[0], code)
        os.kill(parent.pid, signal.SIGKILL)
    wait_until_gone(pids, seconds=5)


def wait_until_running(pid, code, seconds=1.0):
    """Wait until a process has computed for so long, if its code computes."""

    def used():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) / os.sysconf("SC_CLK_TCK")

    start, end = used(), time.monotonic() + 60
    while "sleep" not in code and used() < start + seconds:
        assert time.monotonic() < end
        time.sleep(0.02)  # polling with a deadline, not waiting for luck


def test_a_kernel_outlives_the_thread_that_started_it():
    seen = {}
    loop = asyncio.new_event_loop()

    async def begin():
        seen["pool"] = open_pool("ipykernel", allow_unsandboxed=True)
        seen["kernel"] = await seen["pool"].start()
        await seen["kernel"].execute("x = 1")

    thread = threading.Thread(target=loop.run_until_complete, args=(begin(),))
    thread.start()
    thread.join()
    assert loop.run_until_complete(seen["kernel"].execute("x")).value == "1"
    loop.run_until_complete(seen["pool"].close())
    loop.close()


def test_a_cancelled_close_leaves_no_process():
    async def test(pool):
        kernel = await pool.start()
        pid = await pid_of(kernel)
        closing = asyncio.create_task(kernel.close())
        await asyncio.sleep(0)
        closing.cancel()
        # The process may be gone so soon that nothing was left to cancel.
        with contextlib.suppress(asyncio.CancelledError):
            await closing
        wait_until_gone([pid])

    with_pool(test)


def test_a_cancellation_while_a_process_is_replaced_goes_on():
    async def test(pool):
        kernel = await pool.start()
        pid = await pid_of(kernel)
        ending, release = asyncio.Event(), asyncio.Event()

        async def stubborn(code):
            try:
                await asyncio.Event().wait()
            finally:
                ending.set()
                await release.wait()

        kernel._process.run = stubborn
        task = asyncio.create_task(kernel.execute("1", timeout=0.01))
        await ending.wait()
        task.cancel()
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        wait_until_gone([pid])
        assert (await kernel.execute("1 + 1")).value == "2"

    with_pool(test, grace=0.01)


def test_a_session_closed_while_its_code_runs_says_so():
    async def test(pool):
        kernels = await asyncio.gather(pool.start(), pool.start())
        running = [asyncio.create_task(kernel.execute("import time; time.sleep(1000)", 1000)) for kernel in kernels]
        await asyncio.wait(running, timeout=0.2)
        await kernels[0].close()
        with pytest.raises(KernelError, match="closed"):
            await running[0]
        await pool.close()
        with pytest.raises(KernelError, match="closed"):
            await running[1]

    with_pool(test)


def test_a_folder_that_cannot_be_made_is_an_infrastructure_failure(monkeypatch):
    async def test(pool):
        monkeypatch.setattr(tempfile, "tempdir", "/no/such/folder")
        with pytest.raises(KernelError, match="no/such/folder"):
            await pool.start()
        monkeypatch.undo()
        await asyncio.wait_for(pool.start(), 60)

    with_pool(test, max_kernels=1)


def test_on_another_system_the_pool_says_what_it_needs(monkeypatch):
    monkeypatch.delattr(os, "pidfd_open")
    with pytest.raises(UsageError, match="needs Linux"):
        open_pool("ipykernel", allow_unsandboxed=True)


def test_a_closed_session_and_a_closed_pool_say_so():
    async def test(pool):
        kernel = await pool.start()
        await kernel.close()
        await kernel.close()
        with pytest.raises(KernelError, match="closed"):
            await kernel.execute("1")
        open_still = await pool.start()
        await pool.close()
        with pytest.raises(KernelError, match="closed"):
            await pool.start()
        with pytest.raises(KernelError, match="closed"):
            await open_still.execute("1")

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


@pytest.mark.parametrize(
    "options", [{"max_kernels": 0}, {"max_output": 0}, {"max_output": 1.5}, {"grace": -1}, {"start_timeout": "1"}]
)
def test_options_that_are_not_allowed_are_named(options):
    (name,) = options
    with pytest.raises(UsageError, match=name):
        check_pool("ipykernel", {"allow_unsandboxed": True, **options})
