"""The default pool: what its cells show, its limits, its ladder, and how the death of a session is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy
import pytest

from aster_env.errors import KernelError, UnknownNameError, UsageError
from aster_env.kernels import open_pool

ROOT = Path(__file__).parents[2]
PLAIN = """
import contextlib, io, json, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance(colors="NoColor", xmode="Plain")
shown = []
for code in json.load(sys.stdin):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        shell.run_cell(code, store_history=True)
    shown.append(out.getvalue())
print(json.dumps(shown))
"""
FAILING = [
    "1 / 0",
    "def f(x):\n    y = x\n    return 1 / y\n\nf(0)",
    "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise ValueError('b') from error",
    "try:\n    1 / 0\nexcept ZeroDivisionError:\n    int('a')",
    "class E(Exception): pass\nraise E()",
    "assert 1 == 2, 'no'",
    "print(undefined_name)",
    "x = [1, 2]\nx[\n    5\n]",
    "x = 1\n y",
    "(lambda: {}['k'])()",
    "def g():\n    raise KeyError('deep')\ndef f():\n    g()\n\n\nf()",
    "raise ValueError('two\\nlines')",
]


_shared = {}


@pytest.fixture(scope="module", autouse=True)
def _pool_of_this_file():
    """One fork server for all tests that need no options of their own."""
    with asyncio.Runner() as runner:
        _shared.update(runner=runner, pool=open_pool("zygote", spares=0))
        yield
        runner.run(_shared["pool"].close())
        _shared.clear()


def with_pool(test, **options):
    async def main():
        async with open_pool("zygote", spares=0, **options) as pool:
            await test(pool)

    if options:
        asyncio.run(main())
    else:
        _shared["runner"].run(test(_shared["pool"]))


def test_tracebacks_are_those_of_ipython_in_plain_mode():
    told = subprocess.run(
        [sys.executable, "-c", PLAIN], input=json.dumps(FAILING), capture_output=True, text=True, check=True
    )
    expected = [text.strip("\n") for text in json.loads(told.stdout.splitlines()[-1])]

    async def test(pool):
        kernel = await pool.start()
        shown = [(await kernel.execute(code)).error for code in FAILING]
        assert shown == expected

    with_pool(test)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("1 + 1", {"value": "2", "stdout": "", "error": None}),
        ("1 + 1;", {"value": None}),
        ("print('a'); 5", {"stdout": "a\n", "value": "5"}),
        ("None", {"value": None}),
        ("", {"value": None, "error": None}),
        ("# only a comment", {"value": None, "error": None}),
        ("x = 3", {"value": None}),
        ("'🙂 naïve'", {"value": "'🙂 naïve'"}),
        ("print('\\ud83d')", {"stdout": "?\n"}),
        ("import sys; print('e', file=sys.stderr)", {"stderr": "e\n", "stdout": ""}),
        ("import os; os.write(1, b'raw\\n'); None", {"stdout": "raw\n"}),
        ("import sys; sys.stdout.buffer.write(b'bytes\\n'); None", {"stdout": "bytes\n"}),
        ("print('no newline', end='')", {"stdout": "no newline"}),
        ("import asyncio\nawait asyncio.sleep(0.01, 7)", {"value": "7"}),
        ("_ = 3\n_", {"value": "3"}),
        ("import sympy\nsympy.factor(sympy.Symbol('x')**2 - 1)", {"value": "(x - 1)*(x + 1)"}),
        ("import numpy as np\nnp.arange(3)", {"value": "array([0, 1, 2])"}),
        ("display([1, 2])", {"stdout": "[1, 2]\n", "value": None}),
        ("import sys\nsys.exit(3)", {"error": "SystemExit: 3", "state": "kept"}),
        ("__name__", {"value": "'__main__'"}),
    ],
)
def test_a_cell_shows_what_a_notebook_shows(code, expected):
    async def test(pool):
        cell = await (await pool.start()).execute(code)
        assert {name: getattr(cell, name) for name in expected} == expected

    with_pool(test)


def test_long_values_are_laid_out_as_in_a_notebook():
    async def test(pool):
        kernel = await pool.start()
        from IPython.lib.pretty import pretty

        for value in ({"b": 1, "a": list(range(30))}, {3, 1, 2}, "x" * 200, [list(range(9))] * 12):
            assert (await kernel.execute(repr(value))).value == pretty(value)

    with_pool(test)


@pytest.mark.parametrize("code", ["!ls", "%timeit 1", "%%bash\nls", "x = %who", "y = !pwd", "print?", "?print"])
def test_magics_and_shell_commands_are_refused_in_clear_words(code):
    async def test(pool):
        kernel = await pool.start()
        cell = await kernel.execute("z = 1\n" + code)
        assert "plain Python" in cell.error
        assert cell.state == "kept"

    with_pool(test)


def test_a_question_mark_in_a_broken_string_is_no_magic():
    async def test(pool):
        cell = await (await pool.start()).execute("print('what?)")
        assert "SyntaxError" in cell.error

    with_pool(test)


def test_names_functions_and_classes_persist_and_can_be_pickled_and_read():
    async def test(pool):
        kernel = await pool.start()
        await kernel.execute("import pickle, inspect\nclass A:\n    def f(self):\n        return 1\n")
        assert (await kernel.execute("pickle.loads(pickle.dumps(A())).f()")).value == "1"
        assert (await kernel.execute("inspect.getsource(A.f).strip()")).value == repr("def f(self):\n        return 1")
        assert (await kernel.execute("41\n")).value == "41"
        assert (await kernel.execute("_ + 1")).value == "42"

    with_pool(test)


def test_matplotlib_draws_without_a_screen():
    pytest.importorskip("matplotlib")

    async def test(pool):
        code = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.savefig('a.png')\nplt.show()\nimport os\n"
        cell = await (await pool.start()).execute(code + "os.path.getsize('a.png') > 1000", timeout=60)
        assert (cell.value, cell.error) == ("True", None)

    with_pool(test)


def test_long_recursion_is_shown_short():
    async def test(pool):
        cell = await (await pool.start()).execute("def f():\n    f()\nf()")
        assert "RecursionError" in cell.error
        assert "more times]" in cell.error
        assert len(cell.error) < 800

    with_pool(test)


def test_an_interrupt_keeps_the_state_and_what_was_printed():
    async def test(pool):
        kernel = await pool.start()
        await kernel.execute("x = 7")
        cell = await kernel.execute("print('before')\nwhile True: pass", timeout=0.5)
        assert (cell.timed_out, cell.state, cell.stdout) == (True, "kept", "before\n")
        assert (await kernel.execute("x")).value == "7"

    with_pool(test)


@pytest.mark.parametrize(
    "code",
    [
        "import time\ntime.sleep(60)",
        "import asyncio\nawait asyncio.sleep(60)",
        "10 ** 10 ** 8 % 7",
        "import re\nre.match('(a+)+b', 'a' * 40)",
        "while True:\n    try:\n        1 / 0\n    except ZeroDivisionError:\n        pass",
    ],
)
def test_what_can_be_interrupted_keeps_its_state(code):
    async def test(pool):
        kernel = await pool.start()
        await kernel.execute("x = 7")
        cell = await kernel.execute(code, timeout=0.3)
        assert (cell.timed_out, cell.state) == (True, "kept")
        assert (await kernel.execute("x")).value == "7"

    with_pool(test, grace=20.0)


def test_what_cannot_be_interrupted_is_killed_and_says_so():
    async def test(pool):
        kernel = await pool.start()
        await kernel.execute("x = 7")
        started = time.perf_counter()
        cell = await kernel.execute(
            "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass", 0.3
        )
        assert (cell.timed_out, cell.state) == (True, "lost")
        assert time.perf_counter() - started < 10
        assert "NameError" in (await kernel.execute("x")).error

    with_pool(test, grace=0.3)


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("import os\nos._exit(3)", "exit code 3"),
        ("import ctypes\nctypes.string_at(0)", "SIGSEGV"),
        ("import os\nos.closerange(0, 1 << 10)", "closed its connection|process ended|exit code"),
    ],
)
def test_a_death_is_noticed_at_once_and_named(code, how):
    async def test(pool):
        kernel = await pool.start()
        started = time.perf_counter()
        cell = await kernel.execute(code, timeout=30)
        assert time.perf_counter() - started < 10
        assert (cell.died, cell.state) == (True, "lost")
        assert any(part in cell.error for part in how.split("|"))
        assert (await kernel.execute("2 + 2")).value == "4"

    with_pool(test)


def test_memory_has_a_bound_and_the_session_survives_it():
    async def test(pool):
        kernel = await pool.start()
        await kernel.execute("x = 7")
        assert "MemoryError" in (await kernel.execute("bytearray(300 << 20)")).error
        assert (await kernel.execute("len(bytearray(50 << 20)) + x")).value == str((50 << 20) + 7)

    with_pool(test, memory=200)


def test_a_session_out_of_cpu_time_is_told_as_such():
    async def test(pool):
        cell = await (await pool.start()).execute("while True: pass", timeout=60)
        assert cell.died
        assert "CPU time" in cell.error

    with_pool(test, cpu_seconds=1)


def test_the_cap_over_all_sessions_kills_and_says_out_of_memory():
    async def test(pool):
        if not (await pool.layers())["cgroup"][0]:
            pytest.skip((await pool.layers())["cgroup"][1])
        hungry = "held = []\nwhile True:\n    held.append(bytearray(b'x') * (8 << 20))"
        cell = await (await pool.start()).execute(hungry, timeout=60)
        assert (cell.died, cell.state) == (True, "lost")
        assert "memory ran out" in cell.error
        assert (await (await pool.start()).execute("1 + 1")).value == "2"

    with_pool(test, memory=4096, pool_memory=600)


def test_a_flood_stops_at_the_limit():
    async def test(pool):
        kernel = await pool.start()
        cell = await kernel.execute("print('a' * (1 << 22))")
        assert len(cell.stdout) == 1 << 16
        assert "OutputLimitExceeded" in cell.error
        cell = await kernel.execute("while True: print('flood')", timeout=20)
        assert not cell.timed_out
        assert "OutputLimitExceeded" in cell.error
        assert len((await kernel.execute("'v' * (1 << 22)")).value) < 1 << 17

    with_pool(test, max_output=1 << 16)


def test_sessions_are_separate_and_differ_in_their_random_numbers():
    async def test(pool):
        one, two = await asyncio.gather(pool.start(), pool.start())
        await one.execute("secret = 1")
        assert "NameError" in (await two.execute("secret")).error
        drawn = "import random, numpy\n(random.random(), float(numpy.random.rand()))"
        assert (await one.execute(drawn)).value != (await two.execute(drawn)).value

    with_pool(test)


def test_sets_print_in_the_same_order_in_every_session():
    async def test(pool):
        code = "print({'a', 'b', 'c', 'd', 'e', 'f'})"
        return [(await (await pool.start()).execute(code)).stdout for _ in range(2)]

    printed = []
    for options in ({}, {"max_kernels": 4}):
        with_pool(lambda pool: _collect(test(pool), printed), **options)
    assert len(set(printed)) == 1


async def _collect(coroutine, into):
    into.extend(await coroutine)


def test_a_cancelled_cell_leaves_the_session_usable():
    async def test(pool):
        kernel = await pool.start()
        running = asyncio.ensure_future(kernel.execute("while True: pass"))
        await asyncio.sleep(0)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        assert (await kernel.execute("1 + 1")).value == "2"

    with_pool(test)


def test_code_longer_than_any_buffer_arrives_whole():
    async def test(pool):
        code = f"x = {'a' * (4 << 20)!r}\nlen(x)"
        assert (await (await pool.start()).execute(code)).value == str(4 << 20)

    with_pool(test)


def test_a_lost_fork_server_is_an_infrastructure_failure_and_is_replaced():
    async def test(pool):
        kernel = await pool.start()
        running = asyncio.ensure_future(kernel.execute("while True: pass"))
        await asyncio.sleep(0)
        next(server for server in pool._servers if server is not None).handle.process.kill()
        with pytest.raises(KernelError, match="fork server"):
            await running
        assert (await (await pool.start()).execute("1 + 1")).value == "2"

    with_pool(test)


def test_spare_sessions_are_kept_ready():
    async def main():
        async with open_pool("zygote", spares=2) as pool:
            kernel = await pool.start()
            assert pool._refilling is not None
            await pool._refilling
            assert len(pool._spares) == 2
            again = await pool.start()
            assert (await again.execute("1 + 1")).value == "2"
            assert (await kernel.execute("1 + 1")).value == "2"

    asyncio.run(main())


def test_max_kernels_waits_for_a_place():
    async def test(pool):
        one = await pool.start()
        waiting = asyncio.ensure_future(pool.start())
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await one.close()
        assert (await (await waiting).execute("1")).value == "1"

    with_pool(test, max_kernels=1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"isolation": "priviledged"}, "Did you mean 'privileged'"),
        ({"memory": 0}, "memory=0"),
        ({"spare": 1}, "Did you mean 'spares'"),
        ({"shards": 0}, "shards=0"),
        ({"max_kernels": -1}, "max_kernels=-1"),
        ({"spares": -1}, "spares=-1"),
        ({"grace": -1.0}, "grace=-1.0"),
    ],
)
def test_bad_options_are_named_before_anything_starts(options, said):
    with pytest.raises(UsageError, match=said.replace("(", r"\(")):
        open_pool("zygote", **options)


def test_the_nearest_pool_is_offered():
    with pytest.raises(UnknownNameError, match="Did you mean 'zygote'"):
        open_pool("zygot")


def test_a_preload_that_is_missing_is_left_out():
    async def test(pool):
        assert (await (await pool.start()).execute("1")).value == "1"

    with_pool(test, preload=("no_such_module_at_all",))


def test_every_layer_says_why_it_is_on_or_off():
    async def test(pool):
        layers = await pool.layers()
        assert set(layers) == {
            "mounts", "network", "pids", "user", "capabilities", "limits", "landlock", "seccomp", "cgroup",
        }  # fmt: skip
        assert all(reason for _, reason in layers.values())

    with_pool(test)


def test_nothing_is_printed_by_the_pool_itself():
    program = (
        "import asyncio\nfrom aster_env.kernels import open_pool\nasync def main():\n"
        "    async with open_pool() as pool:\n"
        "        kernel = await pool.start()\n        await kernel.execute('import os; os.write(2, b\"raw\")')\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_a_python_that_lies_below_tmp_is_isolated_like_any_other():
    cell = "open('mine', 'w').write('x')\nimport os, sys\n(os.listdir('.'), os.path.isdir(sys.prefix))"
    program = (
        "import asyncio\nfrom aster_env.kernels import open_pool\nasync def main():\n"
        "    async with open_pool(spares=0, preload=()) as pool:\n"
        f"        cell = await (await pool.start()).execute({cell!r})\n"
        "        print(cell.value, (await pool.layers())['mounts'][0])\n"
        "asyncio.run(main())\n"
    )
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        (site,) = Path(folder).glob("lib/python*/site-packages")
        (site / "libraries.pth").write_text("\n".join([*map(str, Path(numpy.__file__).parents[1:2]), str(ROOT)]))
        done = subprocess.run([f"{folder}/bin/python", "-c", program], capture_output=True, text=True, check=False)
    expected = open_pool_mounts()
    assert done.stdout.strip() == f"(['mine'], True) {expected}", done.stderr


def open_pool_mounts():
    return _shared["runner"].run(_shared["pool"].layers())["mounts"][0]
