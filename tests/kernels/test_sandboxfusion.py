"""The SandboxFusion pool: its two modes, the limits that its documentation names, and a service that fails."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest
from tornado.web import RequestHandler

from aster_env.errors import KernelError, UnknownNameError, UsageError
from aster_env.kernels import open_pool, sandboxfusion
from tests.kernels.servers import below, fake_service, sandboxfusion_server, wait_until

LIMITS = {"startup": 5.0, "grace": 0.5}


def with_session(server, mode, test, **options):
    async def main():
        async with open_pool("sandboxfusion", url=server.url, mode=mode, **{**LIMITS, **options}) as pool:
            kernel = await pool.start()
            await test(kernel)
            await kernel.close()

    asyncio.run(main())
    wait_until(lambda: not below(server.pid))


@pytest.mark.parametrize("url", ["", "host:8080", "file:///etc/passwd", "http://h/#x"])
def test_a_url_that_cannot_be_called_is_named(url):
    with pytest.raises(UsageError, match=r"url=.*is not the address of a SandboxFusion service"):
        open_pool("sandboxfusion", url=url)


def test_an_unknown_mode_offers_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'stateful'"):
        open_pool("sandboxfusion", url="http://127.0.0.1:1", mode="statefull")


@pytest.mark.parametrize("option", ["max_kernels", "max_output", "grace", "startup", "start_timeout"])
def test_a_limit_that_is_not_above_zero_is_named(option):
    with pytest.raises(UsageError, match=f"{option}=-1 is not allowed"):
        open_pool("sandboxfusion", url="http://127.0.0.1:1", **{option: -1})


def test_auto_takes_the_stateful_interface_where_the_service_has_it(sandboxfusion):
    async def test(kernel):
        assert kernel._mode.path == "/run_stateful_code"

    with_session(sandboxfusion, "auto", test)


def test_auto_replays_where_it_has_not_and_asking_for_state_says_why_not():
    async def replayed(kernel):
        assert kernel._mode.path == "/run_jupyter"
        assert (await kernel.execute("1 + 1")).value == "2"

    async def never(kernel):
        raise AssertionError(kernel)

    with sandboxfusion_server("--without-stateful") as server:
        with_session(server, "auto", replayed)
        with pytest.raises(KernelError, match=r"did not offer /run_stateful_code .*'replay'.*status 404"):
            with_session(server, "stateful", never)


def test_replay_repeats_side_effects_and_chance_and_discards_earlier_output(sandboxfusion, tmp_path):
    log = tmp_path / "log"

    async def test(kernel):
        first = await kernel.execute(
            f"print('loud')\nopen({str(log)!r}, 'a').write('x')\nimport uuid\nu = uuid.uuid4()"
        )
        assert first.stdout == "loud\n"
        one, two = await kernel.execute("u"), await kernel.execute("u")
        assert one.stdout == two.stdout == ""
        assert one.value.startswith("UUID(")
        assert one.value != two.value
        assert log.read_text() == "xxx"

    with_session(sandboxfusion, "replay", test)


def test_replay_repeats_a_cell_that_raised_and_leaves_out_one_that_ran_out_of_time(sandboxfusion):
    async def test(kernel):
        assert "ZeroDivisionError" in (await kernel.execute("x = 1\n1 / 0\nx = 2")).error
        cell = await kernel.execute("y = 1\nwhile True: pass", timeout=0.5)
        assert (cell.timed_out, cell.state) == (True, "kept")
        assert (await kernel.execute("(x, 'y' in globals())")).value == "(1, False)"

    with_session(sandboxfusion, "replay", test)


def test_replay_bounds_an_endless_print_each_time(sandboxfusion):
    async def test(kernel):
        cell = await kernel.execute("n = 0\nwhile True:\n    n += 1\n    print('x' * 99)")
        assert cell.error == "OutputLimitExceeded: The cell printed more than 1000 characters. Print less."
        assert len(cell.stdout) == 1000
        assert (await kernel.execute("n")).value == "11"

    with_session(sandboxfusion, "replay", test, max_output=1000)


def test_replay_has_magics_awaits_and_displays(sandboxfusion):
    async def test(kernel):
        assert (await kernel.execute("import asyncio\nx = await asyncio.sleep(0.01, 5)")).error is None
        cell = await kernel.execute("%who_ls int\nfrom IPython.display import display\ndisplay('shown')\nx")
        assert (cell.stdout, cell.value) == ("'shown'\n", "5")

    with_session(sandboxfusion, "replay", test)


def test_replay_leaves_out_what_is_too_long_for_an_answer(sandboxfusion):
    async def test(kernel):
        await kernel.execute("x = 7")
        cell = await kernel.execute("x = 8\n'y' * 9_000_000")
        assert "longer than an answer may be" in cell.error
        assert cell.state == "kept"
        assert (await kernel.execute("x")).value == "7"

    with_session(sandboxfusion, "replay", test, max_output=1000)


def test_a_stateful_session_keeps_functions_classes_and_modules(sandboxfusion):
    async def test(kernel):
        await kernel.execute("import json\nimport asyncio\nn = 1\ndef f(): return n\nclass C:\n    v = 3\nc = C()")
        await kernel.execute("n = 2")
        assert (await kernel.execute("(f(), c.v, json.dumps([c.v]))")).value == "(2, 3, '[3]')"
        assert (await kernel.execute("await asyncio.sleep(0.01, 5)")).value == "5"
        assert (await kernel.execute("5;")).value is None

    with_session(sandboxfusion, "stateful", test)


def test_a_stateful_session_names_what_it_cannot_keep_and_keeps_the_rest(sandboxfusion):
    async def test(kernel):
        cell = await kernel.execute("g = (i for i in [1])\na = b = []\na.append(next(g))")
        assert cell.stderr == "These names cannot be kept in this session and are gone: g.\n"
        assert (await kernel.execute("(a, b, a is b, 'g' in globals())")).value == "([1], [1], False, False)"

    with_session(sandboxfusion, "stateful", test)


def test_a_stateful_session_keeps_what_a_cell_did_before_it_raised_or_ran_out_of_time(sandboxfusion):
    async def test(kernel):
        assert (await kernel.execute("x = 1\nraise SystemExit(3)")).state == "kept"
        cell = await kernel.execute("y = 1\nwhile True: pass", timeout=0.5)
        assert (cell.timed_out, cell.state) == (True, "kept")
        assert (await kernel.execute("(x, y)")).value == "(1, 1)"

    with_session(sandboxfusion, "stateful", test)


def test_a_stateful_session_whose_file_is_gone_says_that_it_was_lost(tmp_path):
    async def test(kernel):
        await kernel.execute("x = 1")
        for file in tmp_path.iterdir():
            file.unlink()
        assert (await kernel.execute("y = 2")).state == "lost"
        again = await kernel.execute("'x' in globals()")
        assert (again.value, again.state) == ("False", "kept")

    with sandboxfusion_server("--state", str(tmp_path)) as server:
        with_session(server, "stateful", test)


def test_output_beyond_what_the_service_keeps_is_told(sandboxfusion):
    async def test(kernel):
        cell = await kernel.execute("import os\n_ = os.system('head -c 2000000 /dev/zero | tr \"\\\\0\" x')")
        assert "more than the service keeps" in cell.error
        assert (cell.state, cell.died) == ("lost", False)
        assert (await kernel.execute("1 + 1")).value == "2"

    with_session(sandboxfusion, "stateful", test)


def test_a_cancelled_stateful_cell_is_not_mixed_with_what_follows(sandboxfusion):
    async def test(kernel):
        await kernel.execute("x = 1")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(kernel.execute("import time\ntime.sleep(1)\nx = 2", timeout=1.5), 0.3)
        assert "NameError" in (await kernel.execute("x")).error

    with_session(sandboxfusion, "stateful", test)


class Service(RequestHandler):
    """An endpoint that answers as the test says, and 422 to the probe."""

    def initialize(self, status, body):
        self.answer = status, body

    def post(self):
        probe = json.loads(self.request.body) == {}
        self.set_status(422 if probe else self.answer[0])
        self.finish("{}" if probe else self.answer[1])


FAILURES = {
    "500": (500, "broken", "did not run a cell: status 500, 'broken'"),
    "sandbox error": (200, '{"status": "SandboxError", "message": "no conda"}', "'SandboxError': no conda"),
    "no status": (200, "{}", "answered status None"),
    "no json": (200, "<html>", "answered no JSON"),
    "deep": (200, "[" * 100_000, "answered no JSON"),
    "list": (200, "[]", "answered a list"),
    "nothing else": (200, '{"status": "Success"}', "not of the documented form"),
    "cells": (200, '{"status": "Success", "cells": [1, 2, 3], "run_result": 5}', "not of the documented form"),
    "failed": (200, '{"status": "Failed", "driver": null, "run_result": []}', "not of the documented form"),
}


@pytest.mark.parametrize("mode", ["stateful", "replay"])
@pytest.mark.parametrize("failure", FAILURES)
def test_a_service_that_fails_is_a_typed_error(mode, failure):
    status, body, text = FAILURES[failure]

    async def main():
        route = ("/run_.*", Service, {"status": status, "body": body})
        async with fake_service(route) as url, open_pool("sandboxfusion", url=url, mode=mode) as pool:
            kernel = await pool.start()
            with pytest.raises(KernelError, match=text):
                await kernel.execute("1")

    asyncio.run(main())


@pytest.mark.parametrize(("status", "text"), [(500, "status 500"), (404, "is the url that of the service's root")])
def test_a_service_that_refuses_the_probe_is_a_typed_error(status, text):
    class Refusing(RequestHandler):
        def post(self):
            self.set_status(status)

    async def main():
        async with fake_service(("/.*", Refusing)) as url, open_pool("sandboxfusion", url=url) as pool:
            with pytest.raises(KernelError, match=text):
                await pool.start()

    asyncio.run(main())


def test_a_service_that_cannot_be_reached_is_a_typed_error():
    async def main():
        async with open_pool("sandboxfusion", url="http://127.0.0.1:1") as pool:
            with pytest.raises(KernelError, match=r"127\.0\.0\.1:1 cannot be reached"):
                await pool.start()

    asyncio.run(main())


def test_a_service_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(sandboxfusion, "_SLACK", 0.1)

    class Hanging(RequestHandler):
        async def post(self):
            if json.loads(self.request.body):
                await asyncio.sleep(20)

    async def main():
        options = {"startup": 0.1, "grace": 0.1, "start_timeout": 0.5}
        async with fake_service(("/.*", Hanging)) as url, open_pool("sandboxfusion", url=url, **options) as pool:
            kernel = await pool.start()
            with pytest.raises(KernelError, match=r"cannot be reached .*Timeout"):
                await kernel.execute("1", timeout=0.2)

    asyncio.run(main())
