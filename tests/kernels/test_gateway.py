"""The gateway pool: refusals, deaths, culled kernels, lost connections, hostile messages, and nothing left."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time

import pytest
from tornado.web import RequestHandler
from tornado.websocket import WebSocketHandler

from aster_env.errors import KernelError, UsageError
from aster_env.kernels import gateway_kernel, open_pool
from tests.kernels.servers import TOKEN, alive, ask, below, end, fake_service, gateway_server, kernels_of


def with_pool(server, test, **options):
    async def main():
        async with open_pool("gateway", url=server.url, **{"token": TOKEN, "grace": 0.5, **options}) as pool:
            await test(pool)

    asyncio.run(main())
    assert kernels_of(server) == []


async def until(claim, seconds=30.0):
    finish = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < finish, "waited in vain"
        await asyncio.sleep(0.02)  # polling with a deadline, not waiting for luck


async def pid_of(kernel):
    return int((await kernel.execute("import os\nos.getpid()")).value)


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8888", "ftp://host", "http://", "http://host:99999", "http://h?x=1", None]
)
def test_a_url_that_cannot_be_called_is_named(url):
    with pytest.raises(UsageError, match=r"url=.*is not the address of a Jupyter gateway.*http://HOST:PORT"):
        open_pool("gateway", url=url)


@pytest.mark.parametrize("option", ["max_kernels", "max_output", "grace", "start_timeout"])
def test_a_limit_that_is_not_above_zero_is_named(option):
    with pytest.raises(UsageError, match=f"{option}=0 is not allowed. Allowed: a number above 0"):
        open_pool("gateway", url="http://127.0.0.1:1", **{option: 0})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"token": "wrong"}, "status 40[13] .*the token is missing or wrong"),
        ({"token": None}, "status 40[13] .*the token is missing or wrong"),
        ({"kernel_name": "no-such-kernel"}, "did not start a kernel"),
        ({"url": "http://127.0.0.1:1"}, "127.0.0.1:1 cannot be reached .*Fix: start it"),
        ({"url": "http://no-such-host.invalid"}, "no-such-host.invalid cannot be reached"),
    ],
    ids=["wrong token", "no token", "kernel name", "port", "host"],
)
def test_a_refusal_is_a_typed_error_that_says_why(gateway, options, text):
    async def main():
        async with open_pool("gateway", **{"url": gateway.url, "token": TOKEN, **options}) as pool:
            await pool.start()

    with pytest.raises(KernelError, match=text):
        asyncio.run(main())
    assert kernels_of(gateway) == []


def test_a_kernel_killed_while_its_cell_runs_is_noticed_and_the_session_goes_on(gateway):
    async def test(pool):
        kernel = await pool.start()
        pid = await pid_of(kernel)
        running = asyncio.create_task(kernel.execute("x = 1\nwhile True: pass", timeout=100))
        await until(lambda: kernel._link.channel._hear is not None)
        end(pid)
        cell = await asyncio.wait_for(running, 20)
        assert (cell.died, cell.state, cell.timed_out) == (True, "lost", False)
        assert "ended while the code ran" in cell.error
        assert "NameError" in (await kernel.execute("x")).error

    with_pool(gateway, test)


def test_a_kernel_killed_between_cells_is_told_before_anything_runs(gateway, tmp_path):
    async def test(pool):
        kernel = await pool.start()
        end(await pid_of(kernel))
        await until(lambda: kernel._link.channel.ended == "restarted")
        mark = tmp_path / "mark"
        cell = await kernel.execute(f"open({str(mark)!r}, 'w')")
        assert (cell.died, cell.state) == (True, "lost")
        assert "the code was not run" in cell.error
        assert not mark.exists()
        assert (await kernel.execute("1 + 1")).value == "2"

    with_pool(gateway, test)


def test_a_kernel_that_the_gateway_culled_is_told(gateway, monkeypatch):
    monkeypatch.setattr(gateway_kernel, "_PATIENCE", 0.3)

    async def test(pool):
        kernel = await pool.start()
        await kernel.execute("x = 1")
        assert ask(gateway, f"/api/kernels/{kernel._link.kernel_id}", "DELETE")[0] == 204
        cell = await asyncio.wait_for(kernel.execute("x", timeout=100), 20)
        assert (cell.died, cell.state) == (True, "lost")
        assert "NameError" in (await kernel.execute("x")).error

    with_pool(gateway, test)


def test_a_connection_lost_between_cells_is_made_again_and_the_state_is_kept(gateway):
    async def test(pool):
        kernel = await pool.start()
        await kernel.execute("x = 7")
        kernel._link.channel._connection.close()
        await until(lambda: kernel._link.channel.ended == "closed")
        cell = await kernel.execute("x")
        assert (cell.value, cell.state) == ("7", "kept")

    with_pool(gateway, test)


def test_a_kernel_restarted_while_the_connection_was_lost_is_not_taken_for_the_old_one(gateway):
    async def test(pool):
        kernel = await pool.start()
        pid = await pid_of(kernel)
        kernel._link.channel._connection.close()
        await until(lambda: kernel._link.channel.ended == "closed")
        before = below(gateway.pid)
        end(pid)
        await until(lambda: below(gateway.pid) - before)
        cell = await kernel.execute("pid_of_the_old_kernel = 1")
        assert (cell.died, cell.state) == (True, "lost")

    with_pool(gateway, test)


def test_a_connection_lost_while_a_cell_runs_is_an_infrastructure_failure(gateway):
    async def test(pool):
        kernel = await pool.start()
        running = asyncio.create_task(kernel.execute("while True: pass", timeout=100))
        await until(lambda: kernel._link.channel._hear is not None)
        kernel._link.channel._connection.close()
        with pytest.raises(KernelError, match="connection to a kernel of the gateway was lost"):
            await asyncio.wait_for(running, 20)
        assert (await kernel.execute("1 + 1")).value == "2"

    with_pool(gateway, test)


def test_a_gateway_that_ends_while_a_cell_runs_is_an_infrastructure_failure(tmp_path):
    kernels = []

    async def main(server):
        async with open_pool("gateway", url=server.url, token=TOKEN) as pool:
            kernel = await pool.start()
            kernels.append(await pid_of(kernel))
            running = asyncio.create_task(kernel.execute("import time; time.sleep(100)", timeout=100))
            await until(lambda: kernel._link.channel._hear is not None)
            os.kill(server.pid, signal.SIGKILL)
            await asyncio.wait_for(running, 20)

    try:
        with gateway_server(tmp_path) as server, pytest.raises(KernelError, match="cannot be reached"):
            asyncio.run(main(server))
        # The kernel outlives a gateway that was killed until it looks for its parent (ipykernel, each second).
        asyncio.run(until(lambda: not any(map(alive, kernels))))
    finally:
        for pid in kernels:
            end(pid)


def test_one_long_message_costs_no_memory_and_keeps_the_state(gateway):
    async def test(pool):
        kernel = await pool.start()
        await kernel.execute("x = 7")
        cell = await kernel.execute("print('x' * 2_000_000)")
        assert (cell.stdout, cell.state) == ("", "kept")
        assert "printed more than 20000 characters" in cell.error
        assert (await kernel.execute("x")).value == "7"

    with_pool(gateway, test, max_output=20_000)


def test_a_session_that_is_cancelled_while_it_starts_leaves_no_kernel(gateway):
    async def test(pool):
        starting = asyncio.create_task(pool.start())
        await until(lambda: pool._service._open or kernels_of(gateway))
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting
        assert starting.cancelled()

    with_pool(gateway, test)


def test_a_bound_on_sessions_makes_the_next_wait(gateway):
    async def test(pool):
        first = await pool.start()
        second = asyncio.create_task(pool.start())
        done, _ = await asyncio.wait({second}, timeout=0.3)
        assert not done
        await first.close()
        await asyncio.wait_for(second, 30)

    with_pool(gateway, test, max_kernels=1)


class Kernels(RequestHandler):
    """POST /api/kernels of a gateway that answers as the test says."""

    def initialize(self, status=201, body='{"id": "one"}'):
        self.answer = status, body

    def post(self):
        self.set_status(self.answer[0])
        self.finish(self.answer[1])


class OneKernel(RequestHandler):
    def delete(self, _):
        self.set_status(204)


class Channels(WebSocketHandler):
    """A kernel that sends what the test says before each proper answer."""

    def initialize(self, noise):
        self.noise = noise

    def on_message(self, text):
        request = json.loads(text)
        parent = request["header"]
        for item in self.noise:
            sent = item(parent) if callable(item) else item
            self.write_message(sent, binary=isinstance(sent, bytes))
        if parent["msg_type"] == "execute_request":
            self.send("iopub", "execute_result", parent, {"data": {"text/plain": "42"}})
            self.send("shell", "execute_reply", parent, {"status": "ok"})
        else:
            self.send("shell", "kernel_info_reply", parent, {"status": "ok"})
        self.send("iopub", "status", parent, {"execution_state": "idle"})

    def send(self, channel, kind, parent, content):
        self.write_message(message(channel, kind, parent, content))


def message(channel, kind, parent, content):
    header = {"msg_type": kind, "msg_id": "1", "session": "kernel"}
    return json.dumps({"header": header, "parent_header": parent, "channel": channel, "content": content})


def nested(text, depth=100_000):
    return text.replace("DEEP", "[" * depth + "]" * depth)


NOISE = [
    "",
    "no json",
    "null",
    "[1, 2]",
    b"\x00\x01binary",
    "{}",
    '{"header": 1, "parent_header": {}, "content": {}}',
    '{"header": {"msg_type": 1}, "parent_header": {}, "content": {}, "channel": "iopub"}',
    '{"header": {"msg_type": "stream"}, "parent_header": {"msg_id": []}, "content": {}, "channel": "iopub"}',
    "9" * 10_000,
    nested("DEEP"),
    lambda parent: message("iopub", "stream", parent, {"name": [], "text": {"a": 1}}),
    lambda parent: message("iopub", "execute_result", parent, {"data": [1]}),
    lambda parent: message("iopub", "status", parent, {"execution_state": ["idle"]}),
    lambda parent: message("shell", "execute_reply", {"msg_id": "another"}, {"status": "error"}),
]


def fake_gateway(*, kernels=None, noise=()):
    return fake_service(
        ("/api/kernels", Kernels, kernels or {}),
        ("/api/kernels/([^/]+)", OneKernel),
        ("/api/kernels/[^/]+/channels", Channels, {"noise": noise}),
    )


@pytest.mark.parametrize("noise", NOISE, ids=range(len(NOISE)))
def test_a_message_that_is_not_of_the_protocols_form_is_ignored(noise):
    async def main():
        async with fake_gateway(noise=[noise]) as url, open_pool("gateway", url=url) as pool:
            cell = await (await pool.start()).execute("6 * 7", timeout=5)
            assert (cell.value, cell.error, cell.state) == ("42", None, "kept")

    asyncio.run(main())


def test_a_traceback_nested_almost_too_deep_to_parse_does_not_break_the_session():
    def error(parent):
        return message("iopub", "error", parent, {"traceback": ["DEEP"]}).replace('"DEEP"', nested("DEEP", 900))

    async def main():
        async with fake_gateway(noise=[error]) as url, open_pool("gateway", url=url) as pool:
            cell = await (await pool.start()).execute("6 * 7", timeout=5)
            assert cell.value == "42"

    asyncio.run(main())


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"status": 500, "body": "broken"}, "did not start a kernel: status 500, 'broken'"),
        ({"status": 503, "body": ""}, "did not start a kernel: status 503"),
        ({"status": 403, "body": "{}"}, "the service's own bound on sessions is reached"),
        ({"status": 302, "body": ""}, "did not start a kernel: status 302"),
        ({"body": "no json"}, "answered no JSON"),
        ({"body": nested("DEEP")}, "answered no JSON"),
        ({"body": "[]"}, "answered a list"),
        ({"body": '{"id": "../../secret"}'}, "named a kernel '../../secret'"),
        ({"body": '{"id": 5}'}, "named a kernel 5"),
        ({"body": '{"id": "' + "x" * 4_000_000 + '"}'}, "answered no JSON"),
    ],
    ids=["500", "503", "403", "302", "no json", "deep", "list", "path", "number", "long"],
)
def test_an_answer_that_is_no_kernel_is_a_typed_error(answer, text):
    async def main():
        async with fake_gateway(kernels=answer) as url, open_pool("gateway", url=url) as pool:
            with pytest.raises(KernelError, match=text):
                await pool.start()

    asyncio.run(main())


def test_a_gateway_without_the_websocket_is_a_typed_error():
    async def main():
        routes = [("/api/kernels", Kernels, {}), ("/api/kernels/([^/]+)", OneKernel)]
        async with fake_service(*routes) as url, open_pool("gateway", url=url) as pool:
            with pytest.raises(KernelError, match="did not open a channel to a kernel: status 404"):
                await pool.start()

    asyncio.run(main())


def test_a_kernel_that_never_answers_is_given_up_in_time():
    class Silent(WebSocketHandler):
        def on_message(self, _):
            pass

    async def main():
        routes = [
            ("/api/kernels", Kernels, {}),
            ("/api/kernels/([^/]+)", OneKernel),
            ("/api/kernels/[^/]+/channels", Silent),
        ]
        async with fake_service(*routes) as url, open_pool("gateway", url=url, start_timeout=0.5) as pool:
            with pytest.raises(KernelError, match=r"did not answer within 0\.5 s"):
                await pool.start()

    asyncio.run(main())
