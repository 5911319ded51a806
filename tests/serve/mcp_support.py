"""The real command in a process of its own, and the official client."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

import httpx2
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

from tests.kernels.servers import process

RUN = """
import argparse, sys
from aster_env.errors import AsterError
from aster_env.serve.mcp_command import add_arguments
parser = argparse.ArgumentParser()
add_arguments(parser)
options = parser.parse_args()
try:
    sys.exit(options.run(options))
except AsterError as error:
    sys.stderr.write(f"aster: {error}\\n")
    sys.exit(2)
"""
SECRET = "s3cret-of-the-tests"


def command(*flags):
    return [sys.executable, "-c", RUN, *flags]


@contextlib.contextmanager
def http_server(folder, *flags):
    """Give the url, the process, and the file with all that it printed."""
    path = folder / "server.log"
    environment = {**os.environ, "ASTER_TEST_TOKEN": SECRET}
    with path.open("w") as log:
        options = {"stdout": subprocess.PIPE, "stderr": log, "text": True, "env": environment}
        with process(command("--transport", "http", "--port", "0", *flags), **options) as running:
            first = running.stdout.readline()
            assert first.startswith("Listening on http://"), path.read_text()
            yield first.split()[-1], running, path


@contextlib.asynccontextmanager
async def connected(url, mode="auto", polite=True, token=None):
    """A client of the server; one that is not polite leaves without a word."""
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(headers=headers, timeout=30) as http:
        transport = streamable_http_client(url, http_client=http, terminate_on_close=polite)
        async with Client(transport, mode=mode) as client:
            yield client


async def run_code(client, code):
    """Return the text of a call of ``python``."""
    result = await client.call_tool("python", {"code": code})
    return result.content[0].text
