"""What aster's sessions are measured against: a bare pipe, stock ipykernel, and the Python tools of two peers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from jupyter_client import AsyncKernelManager

from .measure import Times, private_mb

Row = dict[str, Any]
PEERS = {"gem-llm": "gem-llm==0.1.0", "skyrl-gym": "skyrl-gym==0.4.0"}
"""Peers by name: what to install, in a folder of its own and without its dependencies."""
_TOOL = str(Path(__file__).with_name("peer_tool.py"))


def pipe(calls: int) -> Row:
    """Time `1+1` over a multiprocessing pipe to a forked worker that evaluates it: the floor, no session at all."""
    context = multiprocessing.get_context("fork")
    starts = Times()
    for _ in range(5):
        with starts.one(), _worker(context) as connection:
            _ask(connection)
    times = Times()
    with _worker(context) as connection:
        for _ in range(200):
            _ask(connection)
        for _ in range(calls):
            with times.one():
                _ask(connection)
    return {"first": starts.ms(), "call": times.ms(), "persistent": True}


def _ask(connection: Connection) -> None:
    connection.send("1+1")
    if connection.recv() != "2":
        raise AssertionError("the pipe worker answered something else than 2")


@contextlib.contextmanager
def _worker(context: Any) -> Iterator[Connection]:
    ours, theirs = context.Pipe()
    process = context.Process(target=_evaluate, args=(theirs, ours), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        process.join(10)
        process.kill()


def _evaluate(connection: Connection, other: Connection) -> None:
    other.close()
    with contextlib.suppress(EOFError):
        while True:
            connection.send(repr(eval(connection.recv(), {})))


async def ipykernel(starts: int, calls: int) -> Row:
    """Time stock kernels with the manager and the client of jupyter_client as they come."""
    first, times, private = Times(), Times(), []
    for index in range(starts):
        with first.one():
            manager, client = await _start_stock()
        try:
            private.append(private_mb(manager.provisioner.pid))
            for _ in range(calls if index == 0 else 0):
                with times.one():
                    await _ask_stock(client)
        finally:
            await _stop_stock(manager, client)
    began = time.perf_counter()
    for manager, client in await asyncio.gather(*(_start_stock() for _ in range(starts))):
        await _stop_stock(manager, client)
    rate = round(starts / (time.perf_counter() - began), 2)
    return {
        "first": first.ms(),
        "call": times.ms(),
        "private_mb": sorted(filter(None, private))[len(private) // 2] if all(private) else None,
        "starts_per_second": rate,
        "persistent": True,
    }


async def _start_stock() -> tuple[AsyncKernelManager, Any]:
    manager = AsyncKernelManager(kernel_name="python3")
    await manager.start_kernel(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    client = manager.client()
    client.start_channels()
    await client.wait_for_ready(timeout=120)
    await _ask_stock(client)
    return manager, client


async def _ask_stock(client: Any) -> None:
    values: list[str] = []

    def hear(message: dict[str, Any]) -> None:
        if message["msg_type"] == "execute_result":
            values.append(message["content"]["data"]["text/plain"])

    await client.execute_interactive("1+1", output_hook=hear, timeout=120)
    if values != ["2"]:
        raise AssertionError(f"ipykernel answered {values!r}")


async def _stop_stock(manager: AsyncKernelManager, client: Any) -> None:
    client.stop_channels()
    await manager.shutdown_kernel(now=True)


def peer(name: str, calls: int) -> Row:
    """Time a peer's tool, installed for this in a temporary folder; ``{"unavailable": why}`` if it cannot be had."""
    with tempfile.TemporaryDirectory(prefix="aster-bench-") as folder:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, PEERS[name]]
        # The tools start `python`: they get the interpreter that everybody else gets.
        path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
        environment = {**os.environ, "PATH": path, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        try:
            _run([*command, "--retries", "1", "--timeout", "15"], environment)
            answer = _run([sys.executable, "-P", _TOOL, name, folder, str(calls)], environment)
        except (OSError, subprocess.SubprocessError) as error:
            lines = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
            return {"unavailable": lines[-1] if lines else str(error)}
    times = Times(json.loads(answer))
    # There is no session to start: each call is a process of its own.
    return {"first": Times(times.seconds[:1]).ms(), "call": times.ms(), "persistent": False}


def _run(command: list[str], environment: dict[str, str]) -> str:
    return subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
    ).stdout
