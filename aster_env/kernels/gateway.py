"""A pool of kernels on another machine, through Jupyter Kernel Gateway or Enterprise Gateway."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from aster_env.errors import KernelError
from aster_env.kernels.gateway_channel import Channel
from aster_env.kernels.gateway_kernel import GatewayKernel, Link
from aster_env.kernels.http import Service, check_numbers

T = TypeVar("T")


class GatewayPool:
    """Sessions in the kernels of a Jupyter gateway (REST interface and websocket of jupyter-server).

    Whether anything is isolated is up to the gateway: the code runs on its machine, and this side cannot see under
    which user, in which container, or beside what. A plain Kernel Gateway runs every kernel as its own user, in its
    own folder: sessions then see each other's files and processes, and may reach the gateway itself.

    A gateway restarts a kernel whose process ends, empty, and looks for that every few seconds
    (``KernelRestarter.time_to_dead``, 3 by default): so long may a death go unnoticed. A session whose kernel was
    restarted says so in the next Cell and continues in a new kernel. A gateway passes on about 1 MB of output a
    second (``iopub_data_rate_limit``); a cell that passes this bound, or ``max_output``, is interrupted.

    Every kernel started is deleted when its session or the pool closes. One whose start the gateway did not answer in
    time, and those of a process that was killed, stay there: give the gateway a ``cull_idle_timeout``.

    Args:
        url: the gateway's root, such as ``http://gateway:8888``.
        token: the gateway's token (``KernelGatewayApp.auth_token``), or None.
        kernel_name: the kernelspec; None takes the gateway's default.
        max_kernels: sessions of this pool that live at once; ``start`` waits for a free place. None sets no bound.
        max_output: characters of a cell's output that are kept; a cell that sends more is interrupted.
        grace: seconds between the interrupt of a cell that ran out of time and the end of its kernel.
        start_timeout: seconds a kernel may take to start and answer.

    Raises:
        UsageError: an argument is not allowed.
    """

    def __init__(
        self,
        *,
        url: str = "",
        token: str | None = None,
        kernel_name: str | None = None,
        max_kernels: int | None = None,
        max_output: int = 1 << 20,
        grace: float = 1.0,
        start_timeout: float = 60.0,
    ) -> None:
        check_numbers(max_kernels=max_kernels, max_output=max_output, grace=grace, start_timeout=start_timeout)
        self._service = Service("Jupyter gateway", url, token=token)
        self._model = {"name": kernel_name} if kernel_name else {}
        self.max_output, self.grace, self.start_timeout = max_output, grace, start_timeout
        # A character can take six bytes of JSON; a message beyond twice what is kept is not worth its memory.
        self._longest = 12 * max_output + (1 << 16)
        self._places = asyncio.Semaphore(max_kernels) if max_kernels else None
        self._live: set[Link] = set()
        self._chores: set[asyncio.Task[Any]] = set()
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A gateway that is gone is told by the error under way.
        with contextlib.suppress(KernelError) if error is not None else contextlib.nullcontext():
            await self.close()

    async def start(self) -> GatewayKernel:
        """Return a fresh session; waits for a place if ``max_kernels`` are in use.

        Raises:
            KernelError: the gateway could not be reached or refused, or the pool is closed.
        """
        if self._places is not None:
            await self._places.acquire()
        try:
            return GatewayKernel(self, await self.take())
        except BaseException:
            self.free()
            raise

    async def close(self) -> None:
        """Delete every kernel of the pool; calling it twice is harmless.

        Raises:
            KernelError: the gateway could not be told.
        """
        self._closed = True
        endings = [ending for link in tuple(self._live) if (ending := self.abandon(link)) is not None]
        while self._chores:
            await asyncio.gather(*self._chores, return_exceptions=True)
        self._service.close()
        for ending in endings:
            ending.result()

    async def take(self) -> Link:
        """Start a kernel and connect to it."""
        if self._closed:
            raise KernelError("The kernel pool is closed.")
        opening = self._chore(self._open())
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            # The gateway may have started it already, and nobody else will ever know its id.
            self._chore(self._undo(opening))
            raise

    async def discard(self, link: Link) -> None:
        """Delete a kernel, even if the caller is cancelled meanwhile; nothing if that was done before."""
        ending = self.abandon(link)
        if ending is not None:
            await asyncio.shield(ending)

    def abandon(self, link: Link) -> asyncio.Task[None] | None:
        """Start to delete a kernel: a gateway takes seconds to end one that does not stop by itself."""
        if link not in self._live:
            return None
        self._live.discard(link)
        return self._chore(self._delete(link))

    async def rejoin(self, link: Link, timeout: float) -> bool:
        """Connect anew to a kernel whose channel ended; False if its process is not the one it was."""
        return await asyncio.shield(self._chore(self._rejoin(link, timeout)))

    async def exists(self, link: Link) -> bool:
        """Ask the gateway whether it still has a kernel."""
        answer = await self._service.call("GET", f"/api/kernels/{link.kernel_id}", timeout=self.start_timeout)
        if answer.status not in (200, 404):
            raise self._service.refused(answer, "tell of a kernel")
        return answer.status == 200

    async def interrupt(self, link: Link) -> None:
        """Interrupt a kernel's cell; a gateway that cannot is not told apart from a cell that does not stop."""
        with contextlib.suppress(KernelError):
            await self._service.call("POST", f"/api/kernels/{link.kernel_id}/interrupt", timeout=self.grace)

    def free(self) -> None:
        """Give a session's place back."""
        if self._places is not None:
            self._places.release()

    async def _open(self) -> Link:
        answer = await self._service.call("POST", "/api/kernels", self._model, timeout=self.start_timeout)
        if answer.status not in (200, 201):
            raise self._service.refused(answer, "start a kernel")
        kernel_id = self._service.parse(answer).get("id")
        if not isinstance(kernel_id, str) or not re.fullmatch(r"[\w-]{1,100}", kernel_id):
            raise KernelError(f"The {self._service.name} at {self._service.url} named a kernel {kernel_id!r:.100}.")
        try:
            link = Link(kernel_id, await self._connect(kernel_id, self.start_timeout))
        except BaseException:
            with contextlib.suppress(KernelError):
                await self._remove(kernel_id)
            raise
        self._live.add(link)
        if self._closed:
            await self.discard(link)
            raise KernelError("The kernel pool is closed.")
        return link

    async def _undo(self, opening: asyncio.Task[Link]) -> None:
        with contextlib.suppress(KernelError):
            await self.discard(await opening)

    async def _connect(self, kernel_id: str, timeout: float) -> Channel:
        return await Channel.open(self._service, kernel_id, limit=self._longest, timeout=timeout)

    async def _rejoin(self, link: Link, timeout: float) -> bool:
        identity = link.channel.identity
        await link.channel.close()
        channel = await self._connect(link.kernel_id, timeout)
        if link not in self._live:
            await channel.close()
            return False
        link.channel = channel
        return channel.identity == identity

    async def _delete(self, link: Link) -> None:
        await link.channel.close()
        await self._remove(link.kernel_id)

    async def _remove(self, kernel_id: str) -> None:
        end = time.perf_counter() + self.start_timeout
        while True:
            answer = await self._service.call("DELETE", f"/api/kernels/{kernel_id}", timeout=self.start_timeout)
            if answer.status in (200, 204, 404):
                return
            # jupyter-server fails with 500 while it restarts the kernel, and keeps it: asked again, it deletes it.
            if answer.status < 500 or time.perf_counter() > end:
                raise self._service.refused(answer, "delete a kernel")
            await asyncio.sleep(0.1)

    def _chore(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start work that ``close`` waits for, whatever becomes of the caller."""
        task = asyncio.create_task(work)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)
        return task
