"""Clients that behave, and clients that do not."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
from openenv.core.generic_client import GenericEnvClient
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from benchmarks.kernels.measure import Times

from .server import ENV_ID

FAULTS = ("KernelError", "JudgeError", "RetrieverError", "InfrastructureError")
LONG = "import time\ntime.sleep(25)"


@dataclass(slots=True)
class Seen:
    """What the clients of a run saw."""

    step: Times = field(default_factory=Times)
    answer: Times = field(default_factory=Times)
    reset: Times = field(default_factory=Times)
    episodes: int = 0
    inside: int = 0
    """Sessions whose episode has begun, and will go on."""
    typed: int = 0
    """Infrastructure failures that were told as such."""
    twice: int = 0
    """Such failures where the reset after one failed too."""
    reconnects: int = 0
    errors: collections.Counter[str] = field(default_factory=collections.Counter)
    """Everything else that went wrong for one that behaved."""
    bad: collections.Counter[str] = field(default_factory=collections.Counter)
    """What the others did."""


def golds() -> Mapping[str, str]:
    """Return the right answer of each task, which the service tells nobody."""
    env: Any = gym.make(f"aster_env:{ENV_ID}").unwrapped
    return {task.id: task.answers[0] for task in env.tasks}


async def behave(
    url: str,
    name: int,
    going: Callable[[], bool],
    think: float,
    seen: Seen,
    answers: Mapping[str, str],
    faults: bool = False,
) -> None:
    """Play whole episodes over one connection; check every result.

    Args:
        url: of the service.
        name: makes the numbers of this session unlike those of any other.
        going: whether another episode is to be played.
        think: mean of the seconds between turns.
        seen: takes what happened.
        answers: by task.
        faults: whether the service is being hurt: then a typed failure is followed by a reset, and a lost connection
            by a new one.
    """
    random_ = random.Random(name)
    client = GenericEnvClient(base_url=url, message_timeout_s=60, connect_timeout_s=30)
    await asyncio.sleep(random_.uniform(0, max(think, 0.01)))
    failed = False
    try:
        while going() or failed:
            try:
                result = await _reset(client, random_, seen)
                failed = False
                await _turns(client, result, name, random_, think, seen, answers)
                seen.episodes += 1
            except RuntimeError as error:
                if not any(f"Server error: {kind}: " in str(error) for kind in FAULTS):
                    raise
                seen.typed += 1
                seen.twice += failed
                failed = True
            except (OSError, WebSocketException):
                if not faults:
                    raise
                seen.reconnects += 1
                await asyncio.sleep(0.2)
    except Exception as error:  # noqa: BLE001 (every failure of a client that behaves is counted)
        seen.errors[f"{type(error).__name__}: {str(error)[:160]}"] += 1
    finally:
        with contextlib.suppress(Exception):
            await client.close()


async def _reset(client: Any, random_: random.Random, seen: Seen) -> Any:
    with seen.reset.one():
        return await client.reset(seed=random_.randrange(1 << 30))


async def _turns(
    client: Any, result: Any, name: int, random_: random.Random, think: float, seen: Seen, answers: Mapping[str, str]
) -> None:
    task, total = result.observation["task_id"], name
    seen.inside += 1
    try:
        for turn in range(3):
            await asyncio.sleep(random_.expovariate(1 / think) if think else 0)
            code = f"total = {name}\ntotal" if turn == 0 else f"total += {turn}\ntotal"
            total += turn
            with seen.step.one():
                result = await client.step({"tool": "python", "arguments": {"code": code}})
            said = result.observation["messages"][-1]["content"]
            if said != str(total) or result.done:
                raise AssertionError(f"the session said {said!r:.80} where {total} was right")
    finally:
        seen.inside -= 1
    right = random_.random() < 0.5
    with seen.answer.one():
        result = await client.step({"answer": answers[task] if right else "no number at all"})
    if not result.done or result.reward != float(right):
        raise AssertionError(f"reward {result.reward} where {float(right)} was right")


async def misbehave(url: str, name: int, until: float, seen: Seen) -> None:
    """Vanish, stall, send garbage or come and go, over and over, until the time is over."""
    random_ = random.Random(-1 - name)
    ways = (_vanish, _stall, _garbage, _come_and_go, _half)
    while time.monotonic() < until:
        way = random_.choice(ways)
        try:
            async with asyncio.timeout(max(0.1, until - time.monotonic()) + 5):
                await way(url, random_)
        # A refused or a closed connection is what it asked for.
        except (OSError, WebSocketException, TimeoutError):
            pass
        seen.bad[way.__name__.strip("_")] += 1
        await asyncio.sleep(random_.uniform(0.05, 0.5))


def _open(url: str) -> Any:
    address = url.replace("http://", "ws://") + "/ws"
    return connect(address, proxy=None, open_timeout=30, close_timeout=1, ping_interval=None)


async def _send(socket: ClientConnection, kind: str, data: Any) -> None:
    await socket.send(json.dumps({"type": kind, "data": data}))


async def _vanish(url: str, random_: random.Random) -> None:
    """Leave without a word while a cell runs."""
    async with _open(url) as socket:
        await _send(socket, "reset", {"seed": random_.randrange(1000)})
        await socket.recv()
        await _send(socket, "step", {"tool": "python", "arguments": {"code": LONG}})
        await asyncio.sleep(random_.uniform(0, 0.5))
        socket.transport.abort()


async def _stall(url: str, random_: random.Random) -> None:
    """Ask for much and read nothing."""
    async with _open(url) as socket:
        socket.transport.pause_reading()
        await _send(socket, "reset", {})
        for _ in range(random_.randrange(1, 40)):
            await _send(socket, "step", {"tool": "python", "arguments": {"code": "print('x' * 8000)"}})
        await asyncio.sleep(random_.uniform(1, 5))
        socket.transport.abort()


async def _garbage(url: str, random_: random.Random) -> None:
    """Send what is no message."""
    frames: list[str | bytes] = [
        "",
        "null",
        "[1, 2]",
        "{",
        "\x00" * 10,
        b"\xff\xfe",
        '{"type": "step", "data": {"text": "\\ud800"}}',
        '{"type": "step", "data": {"ids": [-1, 99999999999999999999]}}',
        '{"type": "reset", "data": {"seed": "x", "task_id": {"a": []}}}',
        '{"type": "mcp", "data": {"jsonrpc": "2.0", "method": "tools/call", "params": {"name": "eval"}}}',
        "[" * 50_000,
        "9" * 100_000,
        "x" * (3 << 20),
    ]
    async with _open(url) as socket:
        for _ in range(5):
            await socket.send(random_.choice(frames))
            await asyncio.wait_for(socket.recv(), 10)


async def _come_and_go(url: str, random_: random.Random) -> None:
    """Connect again and again, and play a little."""
    for _ in range(random_.randrange(1, 5)):
        async with _open(url) as socket:
            await _send(socket, "reset", {})
            await socket.recv()
            if random_.random() < 0.5:
                await _send(socket, "step", {"tool": "python", "arguments": {"code": "1"}})
                await socket.recv()


async def _half(url: str, random_: random.Random) -> None:
    """Begin a request and never end it."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    try:
        beginnings = (
            b"POST /reset HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{",
            b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: webso",
            b"\x16\x03\x01\x02\x00",
            b"GET / HTTP/9.9\r\n\r\n",
        )
        writer.write(random_.choice(beginnings))
        await writer.drain()
        await asyncio.sleep(random_.uniform(0, 2))
    finally:
        writer.transport.abort()
