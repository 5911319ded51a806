"""One background event loop, so that blocking callers share the asynchronous core."""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from aster_env.errors import UsageError

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None


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
    """End the loop at exit, after its pools: an interpreter that ends leaves no session behind."""
    from aster_env.kernels.shared import close_all

    asyncio.run_coroutine_threadsafe(close_all(), loop).result(timeout=10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(timeout=5)
    loop.close()
