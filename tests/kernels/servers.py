"""Servers that tests start on free loopback ports and end by their process ids, and what they leave behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

TOKEN = "a token of the tests"
SLACK = 1.0
"""Seconds that the local SandboxFusion server adds to a time limit; the real one adds 10."""


@dataclass(frozen=True)
class Server:
    url: str
    pid: int


def wait_until(claim, seconds=30.0):
    end = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)  # polling with a deadline, not waiting for luck


@contextlib.contextmanager
def process(command, **options):
    with subprocess.Popen(command, **options) as running:
        try:
            yield running
        finally:
            running.terminate()
            try:
                running.wait(20)
            except subprocess.TimeoutExpired:
                running.kill()


@contextlib.contextmanager
def gateway_server(folder, *flags):
    """A real Jupyter Kernel Gateway, which looks for dead kernels more often than by default."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "KernelGatewayApp.ip": "127.0.0.1",
        "KernelGatewayApp.port": port,
        "KernelGatewayApp.port_retries": 0,
        "KernelGatewayApp.auth_token": TOKEN,
        "JupyterWebsocketPersonality.list_kernels": True,
        "KernelRestarter.time_to_dead": 0.3,
        "KernelManager.shutdown_wait_time": 0.4,
    }
    command = [sys.executable, "-m", "kernel_gateway", *(f"--{name}={value}" for name, value in settings.items())]
    folders = {f"JUPYTER_{kind}_DIR": str(folder) for kind in ("RUNTIME", "CONFIG", "DATA")}
    with (Path(folder) / "log").open("w") as log:
        options = {"stdout": log, "stderr": log, "cwd": folder, "env": {**os.environ, **folders}}
        with process([*command, *flags], **options) as running:
            server = Server(f"http://127.0.0.1:{port}", running.pid)
            wait_until(lambda: answers(server))
            yield server


@contextlib.contextmanager
def sandboxfusion_server(*flags):
    """The local server with SandboxFusion's interface."""
    script = Path(__file__).with_name("sandboxfusion_server.py")
    command = [sys.executable, str(script), f"--slack={SLACK}", *flags]
    with process(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as running:
        yield Server(f"http://127.0.0.1:{int(running.stdout.readline())}", running.pid)


@contextlib.asynccontextmanager
async def fake_service(*routes):
    """Serve tornado handlers on this event loop and give the url: for what a real service does not do on demand."""
    sockets = bind_sockets(0, "127.0.0.1")
    server = HTTPServer(Application(list(routes)))
    server.add_sockets(sockets)
    try:
        yield f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
    finally:
        server.stop()
        await server.close_all_connections()


def ask(server, path, method="GET"):
    """Return the status and the parsed body of the gateway's answer."""
    request = urllib.request.Request(server.url + path, method=method, headers={"Authorization": f"token {TOKEN}"})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            text = answer.read()
            return answer.status, json.loads(text) if text else None
    except urllib.error.HTTPError as error:
        with error:
            return error.code, None


def answers(server):
    try:
        return ask(server, "/api/kernels")[0] == 200
    except (OSError, urllib.error.URLError):
        return False


def kernels_of(server):
    """Return the ids of the kernels that a gateway has."""
    return [model["id"] for model in ask(server, "/api/kernels")[1]]


def alive(pid):
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def below(root):
    """Return the ids of the live processes that descend from ``root``."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and alive(entry.name):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])

    def descends(pid):
        while pid in parents and pid != root:
            pid = parents[pid]
        return pid == root

    return {pid for pid in parents if pid != root and descends(pid)}


def end(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
