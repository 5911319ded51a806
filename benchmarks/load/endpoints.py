"""What comes of an episode whose judge, or whose policy, is an endpoint that fails."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

from openenv.core.generic_client import GenericEnvClient

from aster_env.env import ToolEnv
from aster_env.evaluate.policies import PolicySpec, Sampling, open_policy
from aster_env.making import make_envs
from aster_env.rewards.llm import LLMJudge
from aster_env.rollout import play
from aster_env.types import StopReason

from .server import ENV_ID

SECONDS = 2.0
"""What a question may take, all attempts together."""
FINE = ("answers", "429 once")
WAYS = (*FINE, "429", "500", "half a body", "never", "refuses connections")


def broken_judge() -> list[dict[str, Any]]:
    """Return, for each way in which a judge's endpoint fails, what the client of the service sees, and when."""
    return asyncio.run(_judged())


def broken_policy() -> list[dict[str, Any]]:
    """Return, for each way in which a policy's endpoint fails, how its episode ends, and when."""
    return asyncio.run(_played())


async def _judged() -> list[dict[str, Any]]:
    return await asyncio.gather(*map(_judge, WAYS))


async def _judge(way: str) -> dict[str, Any]:
    async with _Endpoint(way, "Correct") as endpoint:
        if way == "refuses connections":
            endpoint.close()
        judge = LLMJudge(endpoint.url, "judge", "math", timeout=SECONDS, retries=2, key_variable="ASTER_NO_KEY")
        async with _served(judge) as url:
            seen, seconds = await _last_step(url)
    right = seen == "reward 1.0" if way in FINE else seen.startswith("JudgeError")
    right = right and seconds < SECONDS + 1
    return {"endpoint": way, "client_sees": seen[:120], "seconds": round(seconds, 2), "right": right}


async def _played() -> list[dict[str, Any]]:
    envs = await asyncio.to_thread(make_envs, f"aster_env:{ENV_ID}", len(WAYS), {})
    try:
        return await asyncio.gather(*map(_play, WAYS, envs))
    finally:
        await asyncio.gather(*(env.aclose() for env in envs))


async def _play(way: str, env: ToolEnv) -> dict[str, Any]:
    task = env.tasks[0]
    async with _Endpoint(way, f"\\boxed{{{task.answers[0]}}}") as endpoint:
        options = {"timeout": SECONDS, "retries": 2}
        endpoint.fails = False
        spec = PolicySpec("chat", "m", endpoint.url, key_variable="ASTER_NO_KEY", options=options)
        opened = await open_policy(spec, Sampling())
        endpoint.fails = True
        if way == "refuses connections":
            endpoint.close()
        try:
            opened.attach(env.dialect)
            began = time.perf_counter()
            trajectory = await play(env, opened.policy, task)
            seconds = time.perf_counter() - began
        finally:
            await opened.close()
    failed = trajectory.stop is StopReason.INFRASTRUCTURE and trajectory.reward is None
    right = trajectory.reward == 1 if way in FINE else failed and seconds < SECONDS + 1
    row = {"endpoint": way, "stop": str(trajectory.stop), "reward": trajectory.reward, "error": trajectory.error}
    return row | {"seconds": round(seconds, 2), "right": right}


async def _last_step(url: str) -> tuple[str, float]:
    """Play an episode up to its scoring, then another; return what the first one's last step gave, and its seconds."""
    async with GenericEnvClient(base_url=url, message_timeout_s=30) as client:
        await client.reset(seed=1)
        began = time.perf_counter()
        try:
            result = await client.step({"answer": "an answer that no rule judges"})
            seen = f"reward {result.reward}"
        except RuntimeError as error:
            seen = str(error).removeprefix("Server error: ")
        seconds = time.perf_counter() - began
        again = await client.reset(seed=2)
        assert again.observation["tools"], "the next reset works"
        return seen, seconds


@contextlib.asynccontextmanager
async def _served(judge: LLMJudge) -> AsyncIterator[str]:
    """Serve the environment with this judge, in this process."""
    import uvicorn

    from aster_env.serve.openenv_app import Service

    # Nothing is computed here: a pool that loads nothing is there at once.
    service = Service(ENV_ID, {"reward": judge, "pool_options": {"preload": [], "spares": 0}}, loopback=True)
    config = uvicorn.Config(service, log_level="warning", access_log=False, lifespan="on", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(server._serve(sockets=[listener]))
        try:
            while not server.started and not serving.done():
                await asyncio.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


class _Endpoint:
    """Chat completions that fail in one way; an async context manager.

    Args:
        way: one of ``WAYS``.
        content: what it says where it does not fail.
    """

    def __init__(self, way: str, content: str) -> None:
        self._way, self._asked, self.fails = way, 0, True
        self._reply = json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]})

    async def __aenter__(self) -> _Endpoint:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Refuse connections from now on."""
        self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        way = self._way if self.fails else "answers"
        self._asked += self.fails
        status, body = "200 OK", self._reply if self.fails else json.dumps({"data": [{"id": "m"}]})
        length = len(body)
        if way == "429" or (way == "429 once" and self._asked == 1):
            status, body, length = "429 Too Many Requests\r\nRetry-After: 1", "", 0
        elif way == "500":
            status, body, length = "500 Internal Server Error", "", 0
        elif way == "half a body":
            body = body[: length // 2]
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            if way == "never":
                await reader.read()
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}".encode())
            await writer.drain()
        writer.close()
