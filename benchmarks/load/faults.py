"""What clients see when the service or its kernel pool is killed under them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from typing import Any, TypeVar

from . import clients
from .server import Server

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds that clients may take for what they are waited for."""


def killed_pool(server: Server, sessions: int) -> dict[str, Any]:
    """SIGKILL every process below the service, which are its kernel pool's and its judges'.

    Returns:
        How many infrastructure failures the clients were told of, and what they saw besides.
    """

    def kill() -> None:
        for pid in server.below():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    seen, _, back, after = asyncio.run(_hurt(server.url, sessions, kill, faults=False))
    told = {"sessions": sessions, "back_s": round(back, 2), "infrastructure": seen.typed, "failed_again": seen.twice}
    return told | {"episodes_after": after, "errors": dict(seen.errors)}


def killed_server(server: Server, sessions: int) -> dict[str, Any]:
    """SIGKILL the service under its sessions and start it again on its port; at last, end it with SIGTERM.

    Returns:
        What was left of it; the seconds until clients played again; what clients saw besides lost connections; the
        exit status of the second.
    """
    again: list[Server] = []

    def restart() -> dict[str, int]:
        left = server.kill()
        again.append(Server(*server.arguments, port=server.port))
        return left

    try:
        seen, left, back, _ = asyncio.run(_hurt(server.url, sessions, restart, faults=True))
    finally:
        status = [each.stop() for each in again]
    told = {"sessions": sessions, "left": left, "back_s": round(back, 2), "reconnects": seen.reconnects}
    return told | {"episodes": seen.episodes, "errors": dict(seen.errors), "exit_status": status[0]}


async def _hurt(url: str, sessions: int, hurt: Callable[[], T], faults: bool) -> tuple[clients.Seen, T, float, int]:
    """Hurt a service once as many episodes were played and half of the sessions play; go on for twice as many again.

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
    deadline = time.monotonic() + PATIENCE
    while seen.inside < sessions // 2 and time.monotonic() < deadline:
        await asyncio.sleep(0.005)
    result = await asyncio.to_thread(hurt)
    began, before = time.monotonic(), seen.episodes
    await played(before + 1)
    back = time.monotonic() - began
    await played(before + 2 * sessions)
    over.set()
    await asyncio.gather(*playing)
    return seen, result, back, seen.episodes - before
