"""An infrastructure failure is an error to the client, by name, and never an observation."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

import httpx
import pytest
from openenv.core.generic_client import GenericEnvClient

from aster_env.envs.python_math.client import PythonMathClient
from aster_env.envs.python_math.models import PythonMathAction
from aster_env.errors import JudgeError, KernelError, UsageError
from aster_env.serve.openenv_client import read_error


def call(code):
    return PythonMathAction(tool="python", arguments={"code": code})


def kill(pids):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_a_killed_pool_is_a_kernel_error_and_the_next_reset_works(server):
    async def play():
        async with PythonMathClient(base_url=server.url) as client:
            for code in ("1", "import time\ntime.sleep(20)"):
                await client.reset(seed=1)
                await client.step(call("x = 1"))
                running = asyncio.create_task(client.step(call(code)))
                await asyncio.sleep(0 if code == "1" else 0.3)
                if code == "1":
                    await running
                await asyncio.to_thread(lambda: kill(server.below()))
                with pytest.raises(KernelError):
                    await (client.step(call("x")) if code == "1" else running)
                state = await client.state()
                assert state.stop == "infrastructure"
                assert state.reward is None
                with pytest.raises(RuntimeError, match="reset"):
                    await client.step(call("x"))
            await client.reset(seed=1)
            assert (await client.step(call("6 * 7"))).observation.messages[-1]["content"] == "42"

    asyncio.run(asyncio.wait_for(play(), 60))


def test_over_mcp_and_http_a_failure_is_an_error_too(server):
    body = {"jsonrpc": "2.0", "id": 1}
    with httpx.Client(base_url=server.url, trust_env=False, timeout=30) as client:

        def ask(method, **params):
            return client.post("/mcp", json={**body, "method": method, "params": params}).json()

        session = ask("openenv/session/create")["result"]["session_id"]
        code = {"name": "python", "arguments": {"code": "1"}, "session_id": session}
        assert "result" in ask("tools/call", **code)
        kill(server.below())
        assert ask("tools/call", **code)["error"]["message"].startswith("KernelError: ")
        assert "result" in ask("openenv/session/close", session_id=session)


def test_the_generic_client_is_told_the_errors_name(server):
    async def play():
        async with GenericEnvClient(base_url=server.url) as client:
            await client.reset(seed=1)
            await client.step({"tool": "python", "arguments": {"code": "1"}})
            kill(server.below())
            with pytest.raises(RuntimeError, match="Server error: KernelError: "):
                await client.step({"tool": "python", "arguments": {"code": "1"}})

    asyncio.run(asyncio.wait_for(play(), 60))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Server error: JudgeError: no\nverdict (code: EXECUTION_ERROR)", JudgeError),
        ("Server error: UsageError: wrong (code: EXECUTION_ERROR)", None),
        ("Server error: os: no (code: EXECUTION_ERROR)", None),
        ("Server error: annotations: no (code: EXECUTION_ERROR)", None),
        ("JudgeError: no", None),
        ("", None),
    ],
)
def test_only_an_infrastructure_failure_is_read_as_one(text, kind):
    error = read_error(text)
    assert (error is None) if kind is None else type(error) is kind
    assert not isinstance(error, UsageError)
