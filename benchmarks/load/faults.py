"""What clients see when the service, its kernel pool or its judge fails under them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from openenv.core.generic_client import GenericEnvClient

from aster_env.rewards.llm import LLMJudge

from . import clients
from .server import ENV_ID, Server, serving

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds that clients may take for what they are waited for."""
JUDGE_SECONDS = 2.0
"""What the judge may take, all attempts together."""


def killed_server(sessions: int) -> dict[str, Any]:
    """SIGKILL the service under its sessions and start it again on its port.

    Returns:
        What was left of it; the seconds until clients played again; what clients saw besides lost connections.
    """
    first = Server()
    servers = [first]

    def restart() -> dict[str, int]:
        left = first.kill()
        servers.append(Server(port=first.port))
        return left

    try:
        seen, left, back, _ = asyncio.run(_hurt(first.url, sessions, restart, faults=True))
    finally:
        for server in servers:
            server.stop()
    told = {"sessions": sessions, "left": left, "back_s": round(back, 2), "reconnects": seen.reconnects}
    return told | {"episodes": seen.episodes, "errors": dict(seen.errors)}


def killed_pool(sessions: int) -> dict[str, Any]:
    """SIGKILL every process below the service, which are its kernel pool's.

    Returns:
        How many infrastructure failures the clients were told of, and what they saw besides.
    """
    with serving() as server:

        def kill() -> None:
            for pid in server.below():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

        seen, _, back, after = asyncio.run(_hurt(server.url, sessions, kill, faults=False))
        status = server.stop()
    told = {"sessions": sessions, "back_s": round(back, 2), "infrastructure": seen.typed, "episodes_after": after}
    return told | {"errors": dict(seen.errors), "exit_status": status}


async def _hurt(url: str, sessions: int, hurt: Callable[[], T], faults: bool) -> tuple[clients.Seen, T, float, int]:
    """Hurt a service once every session may have played; go on until they have played twice as much again.

    Returns:
        What clients saw; what ``hurt`` gave; seconds from it to the next whole episode; episodes after it.
    """
    answers, seen, over = clients.golds(), clients.Seen(), asyncio.Event()
    playing = [
        asyncio.create_task(clients.behave(url, n, lambda: not over.is_set(), 0.2, seen, answers, faults))
        for n in range(sessions)
    ]

    async def played(episodes: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while seen.episodes < episodes and time.monotonic() < deadline and not all(each.done() for each in playing):
            await asyncio.sleep(0.02)

    await played(sessions)
    result = await asyncio.to_thread(hurt)
    began, before = time.monotonic(), seen.episodes
    await played(before + 1)
    back = time.monotonic() - began
    await played(before + 2 * sessions)
    over.set()
    await asyncio.gather(*playing)
    return seen, result, back, seen.episodes - before


def broken_judge() -> list[dict[str, Any]]:
    """Return, for each way in which a judge's endpoint fails, what the client of the service sees, and when."""
    return asyncio.run(_judged())


def broken_policy() -> list[dict[str, Any]]:
    """The same for a policy's endpoint.

    To be filled in once ``aster_env.evaluate`` has an endpoint to play with; until then the report has no such rows.
    """
    return []


async def _judged() -> list[dict[str, Any]]:
    rows = []
    for way in ("answers", "429 once", "429", "500", "half a body", "never", "refuses connections"):
        async with _endpoint(way) as address:
            judge = LLMJudge(address, "judge", "math", timeout=JUDGE_SECONDS, retries=2, key_variable="ASTER_NO_KEY")
            async with _served(judge) as url:
                began = time.perf_counter()
                seen = await _last_step(url)
                seconds = time.perf_counter() - began
        right = seen == "reward 1.0" if way in ("answers", "429 once") else seen.startswith("JudgeError")
        rows.append({"endpoint": way, "client_sees": seen[:120], "seconds": round(seconds, 2), "right": right})
    return rows


async def _last_step(url: str) -> str:
    """Play an episode up to its scoring, then another; return what the first one's last step gave."""
    async with GenericEnvClient(base_url=url, message_timeout_s=30) as client:
        await client.reset(seed=1)
        try:
            result = await client.step({"answer": "an answer that no rule judges"})
            seen = f"reward {result.reward}"
        except RuntimeError as error:
            seen = str(error).removeprefix("Server error: ")
        again = await client.reset(seed=2)
        assert again.observation["tools"], "the next reset works"
        return seen


@contextlib.asynccontextmanager
async def _served(judge: LLMJudge) -> AsyncIterator[str]:
    """Serve the environment with this judge, in this process."""
    import uvicorn

    from aster_env.serve.openenv_app import Service

    service = Service(ENV_ID, {"reward": judge}, loopback=True)
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


@contextlib.asynccontextmanager
async def _endpoint(way: str) -> AsyncIterator[str]:
    """Serve chat completions that fail in this way."""
    asked = 0
    reply = json.dumps({"choices": [{"message": {"role": "assistant", "content": "Correct"}}]})

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        status, body, length = "200 OK", reply, len(reply)
        if way == "429" or (way == "429 once" and asked == 1):
            status, body, length = "429 Too Many Requests\r\nRetry-After: 1", "", 0
        elif way == "500":
            status, body, length = "500 Internal Server Error", "", 0
        elif way == "half a body":
            body = reply[: length // 2]
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            if way == "never":
                await reader.read()
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}".encode())
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    if way == "refuses connections":
        server.close()
    try:
        yield address
    finally:
        server.close()
