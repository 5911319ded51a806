from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import time

import httpx2
import pytest
from mcp.shared.exceptions import MCPError

from aster_env.errors import UsageError
from aster_env.serve.mcp_command import add_arguments
from tests.kernels.servers import below, wait_until
from tests.serve.mcp_support import SECRET, connected, http_server, run_code

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the pool of the sessions needs Linux")

ACCEPT = {"accept": "application/json, text/event-stream"}


def opening(number=1):
    client = {"name": "test", "version": "0"}
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client}
    return {"jsonrpc": "2.0", "id": number, "method": "initialize", "params": params}


async def call_and_leave(url, **options):
    async with connected(url, **options) as client:
        assert await run_code(client, "1 + 1") == "2"


def test_connections_have_a_state_each_which_ends_with_them(tmp_path):
    async def play(url, server):
        await call_and_leave(url)
        await asyncio.to_thread(wait_until, lambda: len(below(server.pid)) > 0)
        idle = below(server.pid)
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(connected(url, mode)) for mode in ("auto", "legacy", "auto")]
            for number, client in enumerate(clients):
                await run_code(client, f"x = {number}")
            assert await asyncio.gather(*(run_code(client, "x") for client in clients)) == ["0", "1", "2"]
            assert len(below(server.pid) - idle) >= 3
            # A long call of one does not hold up another's.
            slow = asyncio.create_task(run_code(clients[0], "import time; time.sleep(1); 'late'"))
            assert await run_code(clients[1], "x + 10") == "11"
            assert not slow.done()
            assert await slow == "'late'"
        await asyncio.to_thread(wait_until, lambda: not below(server.pid) - idle)

    with http_server(tmp_path) as (url, server, log):
        asyncio.run(play(url, server))
    assert log.read_text() == ""


def test_a_client_that_vanishes_leaves_no_kernel_and_an_idle_one_loses_its_session(tmp_path):
    async def play(url, server):
        await call_and_leave(url)
        idle = below(server.pid)
        for _ in range(3):
            await call_and_leave(url, polite=False)
        await asyncio.to_thread(wait_until, lambda: not below(server.pid) - idle)
        async with connected(url) as client:
            assert await run_code(client, "import time; time.sleep(1.5); 7") == "7"  # longer than idle: it is not idle
            await asyncio.to_thread(wait_until, lambda: not below(server.pid) - idle)
            with pytest.raises(MCPError):
                await run_code(client, "1")

    with http_server(tmp_path, "--idle-seconds", "0.7") as (url, server, log):
        asyncio.run(play(url, server))
    assert log.read_text() == ""


def test_one_session_too_many_is_refused_until_there_is_room(tmp_path):
    async def play(url):
        async with connected(url) as first:
            assert await run_code(first, "1 + 1") == "2"
            async with httpx2.AsyncClient() as http:
                assert (await http.post(url, json=opening(), headers=ACCEPT)).status_code == 503
            assert await run_code(first, "2 + 2") == "4"
        await call_and_leave(url)

    with http_server(tmp_path, "--max-sessions", "1") as (url, _, __):
        asyncio.run(play(url))


def test_only_a_client_with_the_token_is_served_and_nothing_shows_it(tmp_path):
    async def play(url):
        async with httpx2.AsyncClient() as http:
            for given in ({}, {"authorization": "Bearer wrong"}, {"authorization": SECRET}, {"authorization": "\xff"}):
                headers = httpx2.Headers({**ACCEPT, **given}, encoding="latin-1")
                for answer in (await http.post(url, json=opening(), headers=headers), await http.get(url)):
                    assert answer.status_code == 401
                    assert SECRET not in answer.text
        await call_and_leave(url, token=SECRET)

    with http_server(tmp_path, "--token-variable", "ASTER_TEST_TOKEN") as (url, server, log):
        asyncio.run(play(url))
        server.terminate()
        assert SECRET not in server.stdout.read()
    assert SECRET not in log.read_text()


def test_foreign_pages_garbage_and_other_versions_are_refused_and_harm_nobody(tmp_path):
    async def play(url):
        async with connected(url) as client, httpx2.AsyncClient() as http:
            await run_code(client, "x = 1")

            async def status(content, **headers):
                headers = {"content-type": "application/json", **ACCEPT, **headers}
                return (await http.post(url, content=content, headers=headers)).status_code

            rebound = httpx2.Request("POST", url, json=opening(), headers={**ACCEPT, "host": "evil.example"})
            assert (await http.send(rebound)).status_code == 403
            assert await status(b"{}", origin="http://evil.example") == 403
            for garbage in (b"", b"\xff\x00", b"[]", b"null", b"{}", b"[" * 50_000, b'{"jsonrpc":"2.0","id":1}'):
                assert 400 <= await status(garbage) < 500
            assert await status(b"x" * (5 << 20)) == 413
            assert await status(b"{}", **{"mcp-session-id": "0" * 32}) == 404
            assert (await http.get(url)).status_code == 405
            for version in ("2026-07-28", "1999-01-01", "é"):
                headers = httpx2.Headers({**ACCEPT, "mcp-protocol-version": version}, encoding="latin-1")
                answer = await http.post(url, json=opening(), headers=headers)
                assert answer.status_code == 400
                assert "2025-11-25" in answer.json()["error"]["data"]["supported"]
            assert await run_code(client, "x") == "1"

    with http_server(tmp_path) as (url, _, log):
        asyncio.run(play(url))
    assert log.read_text() == ""


def test_sigterm_in_the_middle_of_a_call_leaves_no_process(tmp_path):
    async def play(url, server):
        await call_and_leave(url)
        idle = below(server.pid)
        with contextlib.suppress(MCPError, httpx2.HTTPError, ExceptionGroup):
            async with connected(url) as client:
                calling = asyncio.create_task(run_code(client, "while True: pass"))
                await asyncio.to_thread(wait_until, lambda: below(server.pid) - idle)
                processes = below(server.pid)
                began = time.monotonic()
                server.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(server.wait, 20) == 0
                assert time.monotonic() - began < 10
                await asyncio.to_thread(
                    wait_until, lambda: not any(os.path.exists(f"/proc/{pid}") for pid in processes)
                )
                await calling

    with http_server(tmp_path) as (url, server, _):
        asyncio.run(play(url, server))
        assert server.poll() == 0


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--transport", "htp"], "Did you mean 'http'?"),
        (["--transport", "http", "--host", "0.0.0.0", "--port", "0"], "Fix: --token-variable NAME"),
        (["--token-variable", "ASTER_NO_SUCH_VARIABLE"], "'ASTER_NO_SUCH_VARIABLE'"),
        (["--tools", "pyton"], "Did you mean 'python'?"),
        (["--tools", "python,search"], "--corpus FOLDER"),
        (["--retriever", "http"], "--url"),
        (["--url", "http://127.0.0.1:1"], "--retriever http"),
        (["--timeout", "0"], "timeout=0.0"),
        (["--idle-seconds", "nan"], "--idle-seconds=nan"),
        (["--max-sessions", "0"], "--max-sessions=0"),
        (["--port", "70000", "--transport", "http"], "--port=70000"),
    ],
)
def test_what_is_not_allowed_is_refused_with_the_fix(flags, expected):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    options = parser.parse_args(flags)
    with pytest.raises(UsageError, match=r"Fix|Allowed|Did you mean") as refused:
        options.run(options)
    assert expected in str(refused.value)
