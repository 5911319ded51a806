"""A pool of sessions over SandboxFusion's HTTP interface (github.com/bytedance/SandboxFusion)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any, Literal

from aster_env.errors import KernelError, UnknownNameError
from aster_env.kernels.base import Cell, ClosingPool
from aster_env.kernels.http import Answer, Service, check_numbers
from aster_env.kernels.sandboxfusion_modes import MODES, Mode

_ENDPOINTS = {"stateful": "/run_stateful_code", "replay": "/run_jupyter"}
_SLACK = 10.0
"""Seconds that the service itself adds to ``total_timeout`` of /run_jupyter."""


class SandboxFusionPool(ClosingPool):
    """Sessions made of SandboxFusion's requests, each of which starts a process of its own.

    Isolation is the service's: with its ``isolation: none`` code runs as the service's user, with ``lite`` in an
    overlay file system, a cgroup, and network and pid namespaces. This side cannot see which.

    ``mode="stateful"`` uses ``/run_stateful_code``, which forks of the service have. The service pickles the
    program's names after each cell and restores them before the next. Hence:

    - What dill cannot pickle (generators, open files, locks, connections) is gone after its cell; the Cell's
      ``stderr`` names it. Threads, open files and the current directory do not carry over, nor do two names for one
      object: each name gets a copy.
    - A cell is a plain program: no magics, no rich display. The last expression is shown by ``repr``.
    - A state that the service fails to restore is told by ``state="lost"`` after the fact.
    - The service unpickles a session's state in its own process, outside its isolation: code of a cell can run there.
    - It has no call that ends a session: its file stays in ``STATEFUL_SESSIONS_DIR`` until someone removes it.

    ``mode="replay"`` uses ``/run_jupyter``, which every SandboxFusion has: each cell is sent with all earlier ones,
    and the output of those is discarded. Hence:

    - Earlier cells cost their time again at each cell, and their side effects outside the session happen again.
    - Whatever differs from run to run (random numbers without a seed, the time, the network) differs in the
      variables too.
    - A cell that raised is replayed, so what it did before stays. A cell that ran out of time, or whose output was
      too long for an answer, is not: the session is as it was before it, and its ``state`` is ``"kept"``.
    - The service does not tell the end of a cell's process from a cell that never stops: both are ``timed_out``, and
      only after ``timeout + grace + startup`` and the 10 s that the service adds.
    - The last display of a cell is taken for its value.

    In both modes a cell out of time is interrupted inside (SIGALRM, which the cell must not use itself); one that
    does not stop is killed by the service, and the session starts again empty (``state="lost"``). A cancelled
    ``execute`` goes on at the service until its limit; a stateful session is then lost, a replayed one as before.

    Args:
        url: the service's root, such as ``http://sandbox:8080``.
        mode: ``"stateful"``, ``"replay"``, or ``"auto"``: stateful where the service has it.
        max_kernels: sessions of this pool that live at once; ``start`` waits for a free place. None sets no bound.
        max_output: characters that a cell may print before it is stopped; the service keeps 1 MiB at most.
        grace: seconds between the interrupt of a cell that ran out of time and its end by the service.
        startup: seconds that the service may need until a cell's process is ready; part of every hard limit.
        start_timeout: seconds to wait for the service beyond a cell's own limits.

    Raises:
        UsageError: an argument is not allowed.
    """

    def __init__(
        self,
        *,
        url: str = "",
        mode: Literal["auto", "stateful", "replay"] = "auto",
        max_kernels: int | None = None,
        max_output: int = 1 << 18,
        grace: float = 1.0,
        startup: float = 10.0,
        start_timeout: float = 60.0,
    ) -> None:
        if mode not in ("auto", *_ENDPOINTS):
            raise UnknownNameError("mode of the kernel pool 'sandboxfusion'", mode, ("auto", *_ENDPOINTS))
        check_numbers(max_kernels=max_kernels, max_output=max_output, grace=grace, startup=startup)
        check_numbers(start_timeout=start_timeout)
        # A character can take six bytes of JSON, and a value or a traceback may be as long as what is printed.
        self._service = Service("SandboxFusion service", url, limit=18 * max_output + (1 << 16))
        self.max_output, self.grace, self.startup, self.start_timeout = max_output, grace, startup, start_timeout
        self._mode = mode
        self._probed: Literal["stateful", "replay"] | None = None
        self._probing = asyncio.Lock()
        self._places = asyncio.Semaphore(max_kernels) if max_kernels else None
        self._closed = False

    async def start(self) -> SandboxFusionKernel:
        """Return a fresh session; waits for a place if ``max_kernels`` are in use.

        Raises:
            KernelError: the service could not be reached or lacks the mode, or the pool is closed.
        """
        if self._places is not None:
            await self._places.acquire()
        try:
            if self._closed:
                raise KernelError("The kernel pool is closed.")
            return SandboxFusionKernel(self, MODES[await self._find_mode()]())
        except BaseException:
            self.free()
            raise

    async def close(self) -> None:
        """End every session; calling it twice is harmless."""
        self._closed = True
        self._service.close()

    async def post(self, mode: Mode, body: Mapping[str, Any], seconds: float) -> Answer:
        """Send a cell that ends after ``seconds`` at the latest, and return the answer.

        Raises:
            KernelError: the service failed.
        """
        timeout = seconds + _SLACK + self.start_timeout
        answer = await self._service.call("POST", mode.path, body, timeout=timeout)
        if answer.status != 200:
            raise self._service.refused(answer, "run a cell")
        return answer

    def parse(self, answer: Answer) -> dict[str, Any]:
        """Return what the service says of a cell.

        Raises:
            KernelError: it failed, or the answer is not of its form.
        """
        told = self._service.parse(answer)
        if told.get("status") not in ("Success", "Failed"):
            text = str(told.get("message"))[:300]
            raise KernelError(f"The SandboxFusion service answered status {told.get('status')!r:.50}: {text}")
        return told

    def free(self) -> None:
        """Give a session's place back."""
        if self._places is not None:
            self._places.release()

    async def _find_mode(self) -> Literal["stateful", "replay"]:
        async with self._probing:
            if self._probed is None:
                wanted: tuple[Literal["stateful", "replay"], ...]
                wanted = ("stateful", "replay") if self._mode == "auto" else (self._mode,)
                for mode in wanted:
                    if await self._has(_ENDPOINTS[mode], last=mode == wanted[-1]):
                        self._probed = mode
                        break
        assert self._probed is not None
        return self._probed

    async def _has(self, path: str, *, last: bool) -> bool:
        """Whether the service has an endpoint; a request without its fields runs nothing (status 422)."""
        answer = await self._service.call("POST", path, {}, timeout=self.start_timeout)
        if answer.status in (200, 400, 422):
            return True
        if answer.status in (404, 405) and not last:
            return False
        raise self._service.refused(answer, f"offer {path} (modes: 'auto', 'stateful', 'replay')")


class SandboxFusionKernel:
    """One session of a ``SandboxFusionPool``; see ``aster_env.kernels.base.Kernel``."""

    def __init__(self, pool: SandboxFusionPool, mode: Mode) -> None:
        self._pool, self._mode = pool, mode
        self._turn = asyncio.Lock()
        self._closed = False

    async def execute(self, code: str, timeout: float = 30.0) -> Cell:
        """Run ``code`` as a notebook cell; see ``Kernel.execute`` and the limits in ``SandboxFusionPool``.

        Raises:
            KernelError: the service cannot be reached, or failed.
        """
        if self._closed:
            raise KernelError("The session is closed.")
        pool = self._pool
        async with self._turn:
            self._mode.begin()
            seconds = timeout + pool.grace + pool.startup + self._mode.extra
            body = self._mode.request(code, timeout, seconds, pool.max_output)
            answer = await pool.post(self._mode, body, seconds)
            if answer.dropped:
                text = f"The cell's output is longer than an answer may be ({pool.max_output} characters). Print less."
                return self._mode.overflow(text, answer.dropped)
            told = pool.parse(answer)
            with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError):
                return self._mode.cell(code, told, pool.max_output)
        raise KernelError("The SandboxFusion service's answer is not of the documented form; is it another version?")

    async def close(self) -> None:
        """End the session; calling it twice is harmless."""
        if not self._closed:
            self._closed = True
            self._pool.free()
