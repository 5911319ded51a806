"""A Python script as a child process, asked over its standard input and output."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import IO

PASSED_ON = ("PATH", "LANG", "HOME", "PYTHONPATH")
"""Environment variables that a worker gets; no key is among them."""


class Worker:
    """A running script; it belongs to the event loop that it was started on.

    These are not asyncio's own subprocesses: the start of one of those, cancelled before its pipes are connected, waits
    for ever (CPython 3.11 to 3.13), and two tasks cannot end one.

    The script gets this process's id as its argument: it has to end when its parent is another.

    Attributes:
        pid: its process id.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process, self.pid = process, process.pid
        self._reading: asyncio.ReadTransport | None = None
        self._writing: asyncio.WriteTransport | None = None

    @classmethod
    async def start(cls, script: str, limit: int = 2**16) -> Worker:
        """Start a script.

        Args:
            script: path of a Python file.
            limit: bytes of a line that it answers.

        Raises:
            OSError: no process could be started.
        """
        environment = {name: value for name, value in os.environ.items() if name in PASSED_ON}
        worker = cls(
            subprocess.Popen(
                [sys.executable, "-P", script, str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
        )
        try:
            await worker._connect(limit)
        except BaseException:
            await worker.end()
            raise
        return worker

    async def ask(self, request: bytes) -> bytes:
        """Write a request and return the line that answers it, its newline included.

        Raises:
            EOFError: the process ended, or wrote no whole line.
            ConnectionError: it no longer reads.
        """
        self._writer.write(request)
        await self._writer.drain()
        return await self.line()

    async def line(self) -> bytes:
        """Return the next line that the process writes; raise ``EOFError`` if it ends instead."""
        try:
            return await self._reader.readuntil(b"\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise EOFError("the process ended, or wrote no whole line") from error

    @property
    def exit_code(self) -> int | None:
        """How the process ended; None while it runs."""
        return self._process.poll()

    async def end(self) -> None:
        """Kill the process and wait for its end; calling it twice, or in two tasks at once, is harmless."""
        self._process.kill()
        if self._reading is not None and not self._reading.is_closing():
            self._reading.close()
        # One that saw the process end is closing; asked again, it fails.
        if self._writing is not None and not self._writing.is_closing():
            self._writing.abort()
        for pipe in self._pipes():
            pipe.close()
        await asyncio.shield(asyncio.to_thread(self._process.wait))

    async def _connect(self, limit: int) -> None:
        loop = asyncio.get_running_loop()
        stdin, stdout = self._pipes()
        self._reader = asyncio.StreamReader(limit)
        self._reading, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(self._reader), stdout)
        self._writing, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, stdin)
        self._writer = asyncio.StreamWriter(self._writing, protocol, self._reader, loop)

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdin, self._process.stdout
