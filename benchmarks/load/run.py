"""Many sessions at once, beside clients that vanish, stall, send garbage, come and go."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from . import clients
from .server import Server, serving

WARM = 8
"""Sessions that are played before what the service holds is written down."""


def measure(sessions: int, seconds: float, think: float) -> dict[str, Any]:
    """Return what the clients saw, and what the service held before, during and after.

    Args:
        sessions: of clients that behave; a quarter as many others misbehave beside them.
        seconds: how long.
        think: mean of the seconds between an episode's turns.
    """
    bad = max(1, sessions // 4)
    answers = clients.golds()
    with serving("--max-sessions", str(sessions + 2 * bad)) as server:
        asyncio.run(_play(server.url, WARM, 0, 2.0, 0.0, clients.Seen(), answers))
        before = _steady(server)
        seen, most = asyncio.run(_load(server, sessions, bad, seconds, think, answers))
        after = server.settled({name: before[name] for name in ("processes", "descriptors", "sockets", "files")}, 45)
        again = clients.Seen()
        asyncio.run(_play(server.url, WARM, 0, 1.0, 0.0, again, answers))
        status = server.stop()
    # Memory is judged by itself; threads are those of asyncio's own pool, which keeps up to six.
    leaked = {name: max(0, after[name] - before[name]) for name in before if name not in ("memory_mb", "threads")}
    return {
        "sessions": sessions,
        "misbehaving": bad,
        "seconds": seconds,
        "think_s": think,
        "step_ms": seen.step.ms(),
        "reset_ms": seen.reset.ms(),
        "episodes": seen.episodes,
        "misbehaved": dict(seen.bad),
        "errors": dict(seen.errors + again.errors),
        "infrastructure": seen.typed,
        "before": before,
        "most": most,
        "after": after,
        "leaked": leaked,
        "exit_status": status,
    }


def _steady(server: Server) -> dict[str, int]:
    """Return what the service holds once it has stopped changing, or after 20 s."""
    held = [server.holds()]
    while len(held) < 100 and (len(held) < 5 or any(each != held[-1] for each in held[-5:])):
        time.sleep(0.2)
        held.append(server.holds())
    return held[-1]


async def _play(url: str, many: int, bad: int, seconds: float, think: float, seen: clients.Seen, answers: Any) -> None:
    until = time.monotonic() + seconds
    good = [clients.behave(url, n, lambda: time.monotonic() < until, think, seen, answers) for n in range(many)]
    await asyncio.gather(*good, *(clients.misbehave(url, n, until, seen) for n in range(bad)))


async def _load(
    server: Server, sessions: int, bad: int, seconds: float, think: float, answers: Any
) -> tuple[clients.Seen, dict[str, int]]:
    seen = clients.Seen()
    playing = asyncio.create_task(_play(server.url, sessions, bad, seconds, think, seen, answers))
    most: dict[str, int] = {}
    while not playing.done():
        now = await asyncio.to_thread(server.holds)
        most = {name: max(value, most.get(name, 0)) for name, value in now.items()}
        await asyncio.wait({playing}, timeout=2)
    await playing
    return seen, most
