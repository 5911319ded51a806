from __future__ import annotations

import asyncio
import http.server
import json
import os
import signal
import subprocess
import sys
import threading

import pytest
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.shared.exceptions import MCPError

from aster_env.errors import RetrieverError, UsageError
from aster_env.kernels import open_pool
from aster_env.retrieval import CorpusInfo, Passage, write_corpus
from aster_env.retrieval.lexical import build_lexical
from aster_env.serve.mcp_server import TOOLS, WAITING, Session, Sources, ToolServer
from aster_env.types import ToolResult
from aster_env.web import Extractor, Fetcher
from tests.kernels.servers import below, process, wait_until
from tests.serve.mcp_support import command, run_code

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the pool of the sessions needs Linux")

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "0"},
    },
}


def client(*flags, mode="auto"):
    program, *arguments = command(*flags)
    return Client(stdio_client(StdioServerParameters(command=program, args=arguments)), mode=mode)


def call(number, code):
    params = {"name": "python", "arguments": {"code": code}}
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}


def send(server, *messages):
    for message in messages:
        line = message if isinstance(message, bytes) else json.dumps(message).encode()
        server.stdin.write(line + b"\n")
    server.stdin.flush()


def piped(*flags):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return process(command(*flags), **pipes)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_host_lists_the_tool_and_its_calls_share_one_state(mode):
    async def play():
        async with client("--timeout", "0.5", "--max-output", "100", mode=mode) as host:
            (tool,) = (await host.list_tools()).tools
            assert tool.name == "python"
            assert tool.input_schema["required"] == ["code"]
            await run_code(host, "x = 41")
            assert await run_code(host, "x + 1") == "42"

            late = await host.call_tool("python", {"code": "while True: pass"})
            assert late.is_error
            assert "state: kept" in late.content[0].text
            assert late.meta["aster/state"] == "kept"
            assert late.meta["aster/timed_out"]
            assert await run_code(host, "x") == "41"

            long = await host.call_tool("python", {"code": "print('a' * 500_000)"})
            assert not long.is_error
            assert len(long.content[0].text) < 200
            assert long.meta["aster/dropped"] > 499_000

            raised = await host.call_tool("python", {"code": "1 / 0"})
            assert raised.is_error
            assert "ZeroDivisionError" in raised.content[0].text
            wrong = await host.call_tool("python", {"cod": "1"})
            assert wrong.is_error
            assert "lacks the argument 'code'" in wrong.content[0].text
            with pytest.raises(MCPError, match="Did you mean 'python'"):
                await host.call_tool("pythn", {"code": "1"})
            assert (await host.call_tool("code_interpreter", {"code": "x"})).content[0].text == "41"

    asyncio.run(play())


def test_hostile_code_harms_neither_the_server_nor_the_machine():
    code = """
import os, signal
found = []
for harm in (lambda: open('/etc/shadow').read(), lambda: os.kill(os.getppid(), signal.SIGKILL), lambda: os.fork()):
    try:
        found.append(str(harm()))
    except Exception as error:
        found.append(type(error).__name__)
print(found)
"""

    async def play():
        async with client() as host:
            shadow, *_ = (await run_code(host, code)).split(",")
            assert "Error" in shadow
            await run_code(host, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
            lost = await host.call_tool("python", {"code": "import os; os._exit(3)"})
            assert "state: lost" in lost.content[0].text
            assert lost.meta["aster/state"] == "lost"
            assert await run_code(host, "1 + 1") == "2"

    asyncio.run(play())


def test_standard_output_is_the_protocols_alone_and_the_end_of_input_ends_all():
    with piped() as server:
        deep = b"[" * 100_000
        send(
            server, b"", b"garbage", b"\xff\x00\xfe", b"[]", b"null", deep, {"jsonrpc": "2.0", "id": 0, "method": "no"}
        )
        send(server, INITIALIZE, {"jsonrpc": "2.0", "method": "notifications/initialized"})
        send(server, call(2, "import os\nos.write(1, b'raw'); print('said'); 7"))
        answers = {}
        while 2 not in answers:
            answer = json.loads(server.stdout.readline())
            assert answer["jsonrpc"] == "2.0"
            answers[answer["id"]] = answer
        assert answers[2]["result"]["content"][0]["text"].endswith("7")
        processes = below(server.pid)
        assert processes
        server.stdin.close()
        assert server.wait(20) == 0
        assert server.stdout.read() == b""
        wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in processes))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_in_the_middle_of_a_call_leaves_no_process(number):
    with piped() as server:
        send(server, INITIALIZE, {"jsonrpc": "2.0", "method": "notifications/initialized"})
        send(server, call(2, "1"), call(3, "while True: pass"))
        while json.loads(server.stdout.readline())["id"] != 2:
            pass
        processes = below(server.pid)
        server.send_signal(number)
        assert server.wait(10) == (-9 if number == signal.SIGKILL else 0)
        wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in processes))
        assert b"Traceback" not in server.stderr.read()


def test_a_host_that_hangs_up_in_the_middle_of_a_call_leaves_no_process():
    with piped() as server:
        send(server, INITIALIZE, {"jsonrpc": "2.0", "method": "notifications/initialized"})
        send(server, call(2, "1"), call(3, "while True: pass"))
        while json.loads(server.stdout.readline())["id"] != 2:
            pass
        processes = below(server.pid)
        server.stdout.close()
        server.stdin.close()
        assert server.wait(10) == 0
        wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in processes))


def test_search_finds_passages_of_the_corpus(tmp_path):
    rows = [Passage("0", "Lake Mirin", "Lake Mirin freezes in winter."), Passage("1", "Ostrava", "A town.")]
    corpus = write_corpus(tmp_path / "corpus", rows, CorpusInfo("small", "a test", "CC0"))
    build_lexical(corpus, threads=1)

    async def play():
        async with client("--corpus", str(corpus.folder)) as host:
            assert [tool.name for tool in (await host.list_tools()).tools] == ["python", "search"]
            found = await host.call_tool("search", {"query": "Mirin"})
            assert "freezes in winter" in found.content[0].text
            assert await run_code(host, "1 + 1") == "2"

    asyncio.run(play())


def test_visit_shows_pages_and_the_numbers_of_their_links_are_a_sessions_own():
    body = b"<html><title>Lakes</title><p>Mirin freezes.</p><a href='/next'>The next one</a></html>"

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(404 if self.path == "/none" else 200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(body if self.path == "/" else b"<p>Ostrava is a town.</p>")

        def log_message(self, *_):
            pass

    async def play(port):
        pages = Fetcher(allow=[("127.0.0.1", port)], robots=False)
        tools = ToolServer(
            ["visit"], Sources(open_pool("zygote"), pages=pages, reader=Extractor(workers=1)), whole=True
        )
        other = tools._open()
        async with Client(tools.server()) as host:
            (tool,) = (await host.list_tools()).tools
            assert (tool.name, tool.input_schema["required"]) == ("visit", ["target"])
            first = await host.call_tool("visit", {"target": f"http://127.0.0.1:{port}/"})
            assert "Mirin freezes." in first.content[0].text
            assert "[1] The next one" in first.content[0].text
            assert "Ostrava" in (await host.call_tool("visit", {"target": 1})).content[0].text
            assert not (await other.call("visit", {"target": 1})).ok
            gone = await host.call_tool("visit", {"target": f"http://127.0.0.1:{port}/none"})
            assert gone.is_error
            assert "404" in gone.content[0].text
            await pages.close()
            with pytest.raises(MCPError, match="WebError: The fetcher is closed"):
                await host.call_tool("visit", {"target": f"http://127.0.0.1:{port}/"})

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        try:
            asyncio.run(play(server.server_port))
        finally:
            server.shutdown()


def test_the_command_visits_public_pages_alone():
    async def play():
        async with client("--tools", "python, visit") as host:
            assert [tool.name for tool in (await host.list_tools()).tools] == ["python", "visit"]
            for target in ("http://127.0.0.1/", "http://localhost/", "file:///etc/passwd", "http://169.254.169.254/"):
                refused = await host.call_tool("visit", {"target": target})
                assert refused.is_error
                assert refused.content[0].text.startswith("Error: ")

    asyncio.run(play())


def test_a_failure_of_the_machinery_is_an_error_of_the_protocol_and_no_text():
    class Broken:
        name, aliases = "search", ()
        schema = {"name": "search", "description": "", "parameters": {"properties": {}}}  # noqa: RUF012

        async def __call__(self, **_):
            raise RetrieverError("the index is gone")

    async def play():
        with pytest.raises(MCPError, match="RetrieverError: the index is gone"):
            await Session({"search": Broken()}).call("search", {})
        pool = open_pool("zygote")
        await pool.close()
        with pytest.raises(MCPError, match="KernelError: The kernel pool is closed"):
            await Session({"python": TOOLS["python"](Sources(pool))}).call("python", {"code": "1"})

    asyncio.run(play())


def test_calls_at_once_start_one_kernel_and_too_many_are_refused():
    class Counting:
        name, aliases = "count", ()
        schema = {"name": "count", "description": "", "parameters": {"properties": {}}}  # noqa: RUF012
        running = most = 0

        async def __call__(self, **_):
            self.running += 1
            self.most = max(self.most, self.running)
            await asyncio.sleep(0)
            self.running -= 1
            return ToolResult("done")

    async def play():
        tool = Counting()
        session = Session({"count": tool})
        calls = [session.call("count", {}) for _ in range(WAITING + 5)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert tool.most == 1
        assert [isinstance(result, MCPError) for result in results] == [False] * WAITING + [True] * 5
        assert (await session.call("count", {})).text == "done"

    asyncio.run(play())


def test_a_tool_that_is_unknown_or_has_nothing_to_work_on_is_refused_before_anything_starts():
    sources = Sources(open_pool("zygote"))
    with pytest.raises(UsageError, match="Did you mean 'python'"):
        ToolServer(["pyton"], sources)
    with pytest.raises(UsageError, match="--corpus FOLDER"):
        ToolServer(["search"], sources)
    with pytest.raises(UsageError, match="give Sources pages"):
        ToolServer(["visit"], sources)
    with pytest.raises(UsageError, match="each once"):
        ToolServer(["python", "python"], sources)
