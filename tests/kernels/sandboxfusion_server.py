"""A local server with the two stateful ways of SandboxFusion's HTTP interface; it really runs what it is sent.

It follows sandbox/server/sandbox_api.py, sandbox/runners and runtime/jupyter/main.py of bytedance/SandboxFusion for
``/run_jupyter``, and the fork that adds ``/run_stateful_code``: the same fields, the same statuses, the same bounds
(1 MiB of a program's output; none for a kernel's), the same blind spots (the Jupyter driver waits for a dead kernel
until its limit). What differs: no isolation, and the fork's `import sympy` before each program is left out, which
costs a second a cell. ``--slack`` is the 10 seconds that the service adds to ``total_timeout``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
import uuid
from pathlib import Path

import dill
from jupyter_client.manager import AsyncKernelManager
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

KEPT = 1 << 20
PROGRAM = """\
import dill, os
import math
import itertools
{restore}
{code}
import dill
import os
snapshot = {{k: v for k, v in globals().items() if not k.startswith('__') or k == '__builtins__'}}
try:
    with open({path!r} + '.tmp', 'wb') as file:
        dill.dump(snapshot, file)
    os.rename({path!r} + '.tmp', {path!r})
except Exception as e:
    print(f"Failed to persist state: {{e}}")
"""


class Handler(RequestHandler):
    required: tuple[str, ...] = ()

    def body(self):
        body = json.loads(self.request.body)
        missing = [name for name in self.required if name not in body]
        if missing:
            self.set_status(422)
            self.finish({"detail": [{"type": "missing", "loc": ["body", name]} for name in missing]})
            return None
        return body


class RunJupyter(Handler):
    required = ("cells",)

    async def post(self):
        body = self.body()
        if body is None:
            return
        answer = {"status": "Success", "message": "", "driver": None, "cells": [], "executor_pod_name": None}
        driver = {"status": "Finished", "execution_time": 0.0, "return_code": 0, "stdout": "", "stderr": ""}
        limit = body.get("total_timeout", 45) + self.settings["slack"]
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            manager = AsyncKernelManager(kernel_name="python3")
            try:
                answer["cells"] = await asyncio.wait_for(drive(manager, body["cells"], folder), limit)
            except TimeoutError:
                driver.update(status="TimeLimitExceeded", return_code=None)
                answer["status"] = "Failed"
            finally:
                await manager.shutdown_kernel(now=True)
        driver["execution_time"] = time.monotonic() - started
        self.finish({**answer, "driver": driver, "files": {}})


async def drive(manager, cells, folder):
    await manager.start_kernel(cwd=folder)
    client = manager.client()
    client.start_channels()
    await client.wait_for_ready(timeout=60)
    try:
        return [await drive_cell(client, cell) for cell in cells]
    finally:
        client.stop_channels()


async def drive_cell(client, cell):
    result = {"stdout": "", "stderr": "", "display": [], "error": []}

    def hook(message):
        kind, content = message["header"]["msg_type"], message["content"]
        if kind == "stream":
            result[content["name"]] += content["text"]
        elif kind in ("display_data", "execute_result"):
            result["display"].append(content["data"])
        elif kind == "error":
            result["error"].append(content)

    await client.execute_interactive(cell, output_hook=hook)
    return result


class RunStateful(Handler):
    required = ("code", "language")

    async def post(self):
        body = self.body()
        if body is None:
            return
        session = body.get("session_id") or str(uuid.uuid4())
        path = Path(self.settings["state"]) / f"{session}.pkl"
        try:
            kept = dill.loads(path.read_bytes()) if path.exists() else {}
        except Exception:  # noqa: BLE001 - as the fork does: a state that cannot be read is none
            kept = {}
        hidden = {"__builtins__", "__loader__", "__spec__"}
        lines = [f"{name} = dill.loads({dill.dumps(value)!r})" for name, value in kept.items() if name not in hidden]
        program = PROGRAM.format(restore="\n".join(lines) or "# nothing", code=body["code"], path=str(path))
        result = await run_program(program, body.get("run_timeout", 30))
        good = result["status"] == "Finished" and result["return_code"] == 0
        answer = {"status": "Success" if good else "Failed", "message": "", "compile_result": None, "files": {}}
        self.finish({**answer, "run_result": result, "executor_pod_name": None, "session_id": session})


async def run_program(program, timeout):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "main.py"
        file.write_text(program, encoding="utf-8")
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(file), cwd=folder, start_new_session=True,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        kept = (bytearray(), bytearray())
        work = asyncio.gather(drain(process.stdout, kept[0]), drain(process.stderr, kept[1]), process.wait())
        started, status = time.monotonic(), "Finished"
        try:
            await asyncio.wait_for(work, timeout)
        except TimeoutError:
            status = "TimeLimitExceeded"
        finally:
            end_group(process.pid)
        code = await process.wait()
    texts = [bytes(part).decode("utf-8", "replace") for part in kept]
    result = {"status": status, "execution_time": time.monotonic() - started, "return_code": code}
    result["return_code"] = code if status == "Finished" else None
    return {**result, "stdout": texts[0], "stderr": texts[1]}


async def drain(stream, kept):
    while chunk := await stream.read(1 << 16):
        kept.extend(chunk[: max(0, KEPT - len(kept))])


def end_group(pid):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--slack", type=float, default=10.0)
    parser.add_argument("--without-stateful", action="store_true", help="only what bytedance/SandboxFusion itself has")
    parser.add_argument("--state", help="the folder of sessions (STATEFUL_SESSIONS_DIR)")
    options = parser.parse_args()
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    with tempfile.TemporaryDirectory() as made:
        state = options.state or made
        routes = [("/run_jupyter", RunJupyter)] + [("/run_stateful_code", RunStateful)] * (not options.without_stateful)
        sockets = bind_sockets(0, "127.0.0.1")
        server = HTTPServer(Application(routes, slack=options.slack, state=state))
        server.add_sockets(sockets)
        print(sockets[0].getsockname()[1], flush=True)  # noqa: T201 - the caller reads the port
        await stopping.wait()
        server.stop()


if __name__ == "__main__":
    asyncio.run(main())
