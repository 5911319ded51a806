"""One background event loop, so that blocking callers share the asynchronous core; and what a loop's users share."""

from __future__ import annotations

import asyncio
import atexit
import selectors
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from aster_env.errors import UsageError

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None


class Closable(Protocol):
    """Something with an asynchronous ``close``."""

    async def close(self) -> None:
        """Release everything."""
        ...


C = TypeVar("C", bound=Closable)


@dataclass(slots=True)
class _Lease:
    thing: Any
    users: int = 0


class IdleSelector(selectors.DefaultSelector):
    """Of an event loop: counts the ``seconds`` in which the loop has nothing to run."""

    seconds = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for events; see ``selectors``."""
        started = time.perf_counter()
        ready = super().select(timeout)
        self.seconds += time.perf_counter() - started
        return ready


# By the loop itself, not its id: a later loop may get the id of one that is gone.
_leases: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, _Lease]] = weakref.WeakKeyDictionary()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the background loop and wait for it; safe from any thread.

    Raises:
        UsageError: called from a coroutine on that loop, where waiting would never end.
    """
    loop = _background()
    if threading.current_thread() is _thread:
        coroutine.close()
        raise UsageError("A blocking call was made from the background loop. Fix: await the asynchronous form.")
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    try:
        return future.result()
    except BaseException:
        # A KeyboardInterrupt reaches the waiting thread only: the coroutine must not go on alone.
        future.cancel()
        raise


def is_background(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether ``loop`` is the background loop."""
    return loop is _loop


def lease(key: Hashable, make: Callable[[], C]) -> C:
    """Return what the running loop shares under ``key``, made by the first user; give it back with ``release``."""
    shared = _leases.setdefault(asyncio.get_running_loop(), {})
    if key not in shared:
        shared[key] = _Lease(make())
    shared[key].users += 1
    thing: C = shared[key].thing
    return thing


async def release(thing: Closable) -> None:
    """Give a leased thing back; the last user's return closes it. What is not leased is ignored."""
    shared = _leases.get(asyncio.get_running_loop(), {})
    for key, held in list(shared.items()):
        if held.thing is thing:
            held.users -= 1
            if held.users == 0:
                del shared[key]
                await held.thing.close()


async def close_leases() -> None:
    """Close all that users of the running loop share, whoever still uses it; one failure does not spare the rest."""
    shared = _leases.pop(asyncio.get_running_loop(), {})
    closed = await asyncio.gather(*(held.thing.close() for held in shared.values()), return_exceptions=True)
    for error in closed:
        if error is not None:
            raise error


def _background() -> asyncio.AbstractEventLoop:
    global _loop, _thread
    with _lock:
        if _loop is None or _loop.is_closed() or _thread is None or not _thread.is_alive():
            _loop = asyncio.new_event_loop()
            _thread = threading.Thread(target=_loop.run_forever, name="aster-loop", daemon=True)
            _thread.start()
            atexit.register(_stop, _loop, _thread)
        return _loop


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    """End the loop at exit, after what is shared on it: an interpreter that ends leaves no session behind."""
    asyncio.run_coroutine_threadsafe(close_leases(), loop).result(timeout=10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(timeout=5)
    loop.close()
