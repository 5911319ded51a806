"""Nothing is left: no process, descriptor, mount, scratch folder or control group, however things ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from aster_env.errors import KernelError
from aster_env.kernels import open_pool
from tests.kernels.refusals import refusal

MODES = ("privileged", "userns", "confined")
modes = pytest.mark.parametrize("mode", MODES)
LIMITS = {"preload": ("IPython.lib.pretty",), "memory": 256, "disk": 16, "grace": 0.3, "spares": 2}
REPOSITORY = Path(__file__).parents[2]
DEEP = "import os\nfor _ in range(1500): os.mkdir('d'); os.chdir('d')"
MANY = "for n in range(1000): open(f'file{n}', 'w').close()"


@dataclass(frozen=True)
class Trace:
    """What a fork server has on the machine: its folder, its control groups, its processes with their starts."""

    folder: str
    groups: list[str]
    processes: list[list[int]]

    def left(self) -> list[str]:
        """Return what of it is there."""
        name = os.path.basename(self.folder)
        found = [f"process {pid}: {read(pid, 'stat')}" for pid, start in self.processes if started(pid) == start]
        found += [path for path in (self.folder, *self.groups) if os.path.exists(path)]
        found += [f"{path} {name}" for path in ("cmdline", "mountinfo") for pid in pids() if name in read(pid, path)]
        # os.walk passes over a group that ends while it is listed; Path.glob raises.
        found += [f"{top}/{name}" for top, groups, _ in os.walk("/sys/fs/cgroup") if name in groups]
        return found


def vanishes(one, seconds=20):
    """Wait until nothing of a trace is left, and fail with what is."""
    end = time.monotonic() + seconds
    while one.left() and time.monotonic() < end:
        time.sleep(0.02)  # polling with a deadline, not waiting for luck
    assert one.left() == []


def read(pid, what):
    try:
        return Path(f"/proc/{pid}/{what}").read_text(errors="replace")
    except OSError:  # it ended, or a zombie has none
        return ""


def status(pid):
    """Return the state of a process, its parent and so on (proc_pid_stat(5), third field on); empty: it is gone."""
    return read(pid, "stat").rpartition(")")[2].split()


def pids():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def started(pid):
    """Return when a process started; None if it is gone, or only waits for init to take note."""
    row = status(pid)
    orphan = row[:2] == ["Z", "1"]
    return None if not row or orphan else int(row[19])


def below(root):
    parents = {pid: int(row[1]) for pid in pids() if (row := status(pid))}
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def trace(pool):
    handles = [server.handle for server in pool._servers if server is not None]
    assert len(handles) == 1
    handle = handles[0]
    processes = [[pid, start] for pid in below(handle.process.pid) if (start := started(pid)) is not None]
    assert len(processes) >= 2
    return Trace(handle.folder, list(handle.groups), processes)


def keeper_and_zygote(pool):
    keeper = pool._servers[0].handle.process.pid
    (zygote,) = (pid for pid in below(keeper) if status(pid)[1:2] == [str(keeper)])
    return keeper, zygote


def descriptors():
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
    return found


def leaves_nothing(mode, test, **options):
    """Run a test on a pool, which the test may close or break; then nothing of the pool may be there."""
    trouble, traces = [], []
    if reason := refusal(mode):
        pytest.skip(reason)

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: trouble.append(context))
        before = descriptors()
        pool = open_pool("zygote", isolation=mode, **LIMITS, **options)
        try:
            await (await pool.start()).close()
            async with pool:
                traces.append(trace(pool))
                await test(pool, traces)
        finally:
            await pool.close()
            assert descriptors() == before
        assert not pool._spares

    asyncio.run(main())
    for one in traces:
        vanishes(one)
    assert trouble == []


@modes
def test_nothing_is_left_after_close(mode):
    async def test(pool, traces):
        kernels = await asyncio.gather(*(pool.start() for _ in range(4)))
        await asyncio.gather(
            *(kernel.execute(code) for kernel, code in zip(kernels, (DEEP, MANY, "1", "1"), strict=True))
        )
        traces.append(trace(pool))
        assert len(traces[-1].processes) >= 6
        await kernels[0].close()
        await pool.close()
        assert [one.left() for one in traces] == [[], []]

    leaves_nothing(mode, test)


@modes
def test_a_pool_closes_fast_and_takes_running_cells_with_it(mode):
    async def test(pool, traces):
        kernels = await asyncio.gather(*(pool.start() for _ in range(4)))
        codes = (
            "while True: pass",
            "import time; time.sleep(1000)",
            DEEP + "\nwhile True: pass",
            "while True: print()",
        )
        running = [
            asyncio.create_task(kernel.execute(code, timeout=1000)) for kernel, code in zip(kernels, codes, strict=True)
        ]
        await asyncio.wait(running, timeout=0.2)
        traces.append(trace(pool))
        loop = asyncio.get_running_loop()
        start = loop.time()
        await pool.close()
        assert loop.time() - start < 4
        for outcome in await asyncio.wait_for(asyncio.gather(*running, return_exceptions=True), 5):
            assert isinstance(outcome, KernelError) or outcome.state == "lost" or outcome.error, outcome

    leaves_nothing(mode, test)


@modes
def test_a_session_that_is_closed_while_its_cell_runs_ends_both(mode):
    async def test(pool, traces):
        kernel, other = await asyncio.gather(pool.start(), pool.start())
        running = asyncio.create_task(kernel.execute("while True: pass", timeout=1000))
        await asyncio.wait({running}, timeout=0.2)
        traces.append(trace(pool))
        await kernel.close()
        outcome = (await asyncio.wait_for(asyncio.gather(running, return_exceptions=True), 5))[0]
        assert isinstance(outcome, KernelError) or outcome.state == "lost", outcome
        assert (await other.execute("1 + 1")).value == "2"

    leaves_nothing(mode, test)


@modes
def test_nothing_is_left_after_an_exception_inside(mode):
    seen = []

    async def test(pool, traces):
        await (await pool.start()).execute(DEEP)
        seen.append(trace(pool))
        raise KeyError("planned")

    with pytest.raises(KeyError):
        leaves_nothing(mode, test)
    for one in seen:
        vanishes(one)


@modes
@pytest.mark.parametrize("victim", ["keeper", "zygote"])
def test_a_killed_fork_server_is_told_and_the_next_start_works(mode, victim):
    async def test(pool, traces):
        kernels = await asyncio.gather(*(pool.start() for _ in range(3)))
        await kernels[0].execute(MANY)
        running = asyncio.create_task(kernels[1].execute("while True: pass", timeout=1000))
        await asyncio.wait({running}, timeout=0.1)
        traces.append(trace(pool))
        keeper, zygote = keeper_and_zygote(pool)
        os.kill(keeper if victim == "keeper" else zygote, signal.SIGKILL)
        with pytest.raises(KernelError):
            await asyncio.wait_for(running, 10)
        with pytest.raises(KernelError):
            await asyncio.wait_for(kernels[2].execute("1"), 10)
        fresh = await asyncio.wait_for(pool.start(), 30)
        assert (await fresh.execute("1 + 1")).value == "2"
        traces.append(trace(pool))
        assert traces[-1].folder != traces[0].folder
        vanishes(traces[0])

    leaves_nothing(mode, test)


@modes
def test_cancelled_starts_leave_nothing(mode):
    async def test(pool, traces):
        loop = asyncio.get_running_loop()
        for turn in range(60):
            start = asyncio.create_task(pool.start())
            end = loop.time() + turn * 0.0002
            while loop.time() < end and not start.done():
                await asyncio.sleep(0)
            start.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await (await start).close()
        kernel = await pool.start()
        assert (await kernel.execute("1 + 1")).value == "2"
        traces.append(trace(pool))
        keeper, _ = keeper_and_zygote(pool)
        # The keeper, the fork server, the session and the spares; what was cancelled ends soon.
        deadline = loop.time() + 20
        while len(below(keeper)) > 5:
            assert loop.time() < deadline, below(keeper)
            await asyncio.sleep(0.01)

    leaves_nothing(mode, test)


@modes
def test_a_first_start_that_is_cancelled_leaves_nothing(mode, monkeypatch):
    folders, make = [], tempfile.mkdtemp
    if reason := refusal(mode):
        pytest.skip(reason)

    def recorded(*args, **named):
        folders.append(make(*args, **named))
        return folders[-1]

    async def main():
        before = descriptors()
        pool = open_pool("zygote", isolation=mode, **LIMITS)
        for seconds in (0, 0.01, 0.05, 0.1, 0.2):
            with contextlib.suppress(TimeoutError):
                await (await asyncio.wait_for(pool.start(), seconds)).close()
        await pool.close()
        assert descriptors() == before

    monkeypatch.setattr(tempfile, "mkdtemp", recorded)
    asyncio.run(main())
    assert folders
    for folder in folders:
        vanishes(Trace(folder, [], []))


MANAGER = textwrap.dedent("""
    import asyncio, json, sys
    from dataclasses import asdict
    from aster_env.kernels import open_pool
    from tests.kernels.test_zygote_leaks import LIMITS, DEEP, trace

    async def main(mode, end):
        pool = open_pool("zygote", isolation=mode, **LIMITS)
        kernels = await asyncio.gather(*(pool.start() for _ in range(3)))
        await kernels[0].execute(DEEP)
        print(json.dumps(asdict(trace(pool))), flush=True)
        if end == "exit":
            sys.exit(0)
        if end == "raise":
            raise KeyError("planned")
        await kernels[1].execute("while True: pass", timeout=1000)

    asyncio.run(main(*sys.argv[1:]))
""")


@pytest.mark.parametrize(
    ("mode", "end"),
    [(mode, end) for mode in MODES for end in ("SIGKILL", "exit")]
    + [("privileged", end) for end in ("SIGTERM", "SIGINT", "raise")],
)
def test_nothing_is_left_of_a_manager_that_ends_without_closing(mode, end):
    if reason := refusal(mode):
        pytest.skip(reason)
    command = [sys.executable, "-W", "ignore", "-c", MANAGER, mode, end]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=REPOSITORY, text=True, **pipes) as manager:
        line = manager.stdout.readline()
        assert line, "the pool did not open"
        left = Trace(**json.loads(line))
        assert asdict(left)["processes"]
        if end.startswith("SIG"):
            assert left.left()
            os.kill(manager.pid, getattr(signal, end))
        manager.wait(20)
    vanishes(left)


async def cycles(pool, count, at_once=4):
    async def some(number):
        for _ in range(count // at_once):
            kernel = await pool.start()
            assert (await kernel.execute(f"{number} + 1", timeout=60)).value == str(number + 1)
            await kernel.close()

    await asyncio.gather(*map(some, range(at_once)))


def resident(pid):
    rows = dict(line.split(":", 1) for line in read(pid, "status").splitlines() if ":" in line)
    return int(rows["VmRSS"].split()[0]) >> 10


async def many_cycles(pool, traces, count, growth):
    loop = asyncio.get_running_loop()
    await cycles(pool, 40)
    keeper, zygote = keeper_and_zygote(pool)
    fds, before = len(descriptors()), [resident(pid) for pid in (os.getpid(), keeper, zygote)]
    await cycles(pool, count)
    end = loop.time() + 20
    while len(below(keeper)) > 4 or pool._servers[0]._sessions.keys() - {session.number for _, session in pool._spares}:
        assert loop.time() < end, (below(keeper), pool._servers[0]._sessions)
        await asyncio.sleep(0.01)
    assert len(descriptors()) <= fds + 2 * LIMITS["spares"]
    after = [resident(pid) for pid in (os.getpid(), keeper, zygote)]
    assert all(new - old <= growth for old, new in zip(before, after, strict=True)), (before, after)
    scratch = [name for name in os.listdir(traces[0].folder) if name.startswith("s")]
    assert len(scratch) <= LIMITS["spares"]
    assert len(os.listdir(f"/proc/{zygote}/fd")) < 12


@modes
def test_300_sessions_one_after_another_leave_nothing(mode):
    leaves_nothing(mode, lambda pool, traces: many_cycles(pool, traces, 300, growth=8))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@modes
def test_10000_sessions_one_after_another_leave_nothing(mode):
    leaves_nothing(mode, lambda pool, traces: many_cycles(pool, traces, 10_000, growth=8))
