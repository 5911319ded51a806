"""Many sessions at once, beside clients that vanish, stall, send garbage, come and go."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from . import clients
from .server import Server

WARM = 8
"""Sessions that are played before what the service holds is written down."""
LEAKS = ("processes", "descriptors", "sockets", "files")
"""Of what a service holds, what must not be more after the load; memory and threads are judged by themselves."""


def bad_of(sessions: int) -> int:
    """Return how many clients misbehave beside so many sessions."""
    return max(1, sessions // 4)


def measure(server: Server, sessions: int, seconds: float, think: float) -> dict[str, Any]:
    """Return what the clients saw, and what the service held before, during and after.

    Args:
        server: has room for ``sessions`` and twice ``bad_of`` them.
        sessions: of clients that behave.
        seconds: how long.
        think: mean of the seconds between an episode's turns.
    """
    bad, answers = bad_of(sessions), clients.golds()
    asyncio.run(_play(server.url, WARM, 0, 2.0, 0.0, clients.Seen(), answers))
    before = _steady(server)
    used, began = server.cpu(), time.monotonic()
    seen, held = asyncio.run(_load(server, sessions, bad, seconds, think, answers))
    wall = time.monotonic() - began
    used = {name: round((value - used[name]) / wall, 2) for name, value in server.cpu().items()}
    after = server.settled({name: before[name] for name in LEAKS}, 45)
    again = clients.Seen()
    asyncio.run(_play(server.url, WARM, 0, 1.0, 0.0, again, answers))
    half = held[len(held) // 2]
    return {
        "sessions": sessions,
        "misbehaving": bad,
        "seconds": seconds,
        "think_s": think,
        "step_ms": seen.step.ms(),
        "answer_ms": seen.answer.ms(),
        "reset_ms": seen.reset.ms(),
        "episodes": seen.episodes,
        "misbehaved": dict(seen.bad),
        "errors": dict(seen.errors + again.errors),
        "infrastructure": seen.typed,
        "before": before,
        "half": half,
        "most": {name: max(each[name] for each in held) for name in before},
        "after": after,
        "leaked": {name: max(0, after[name] - before[name]) for name in LEAKS},
        "memory_growth": round(max(each["memory_mb"] for each in held[len(held) // 2 :]) / half["memory_mb"] - 1, 3),
        "processors": used,
        "load_average": os.getloadavg()[1],
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
) -> tuple[clients.Seen, list[dict[str, int]]]:
    """Return what the clients saw, and what the service held meanwhile, every two seconds or so."""
    seen, held = clients.Seen(), [await asyncio.to_thread(server.holds)]
    playing = asyncio.create_task(_play(server.url, sessions, bad, seconds, think, seen, answers))
    ends = time.monotonic() + seconds
    while not playing.done():
        await asyncio.wait({playing}, timeout=min(2.0, seconds / 10))
        if time.monotonic() < ends:  # then sessions only end
            held.append(await asyncio.to_thread(server.holds))
    await playing
    return seen, held
