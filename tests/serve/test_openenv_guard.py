"""The guard before a service, over a real server and bare sockets; and the sessions behind it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time

import httpx
import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from aster_env.errors import InfrastructureError, UsageError
from aster_env.listening import BEGINNING, Waiting, is_loopback
from aster_env.serve import guard
from aster_env.serve.guard import Guard
from aster_env.serve.sessions import CONNECTION, ClientGoneError, ClientLimitError, Connection, Sessions, while_present

ENV_ID = "ASTER/PythonMath-v0"


class App:
    """Repeats bodies and frames; the frame "work" is work that a client's leaving ends."""

    def __init__(self):
        self.working = threading.Event()
        self.left = threading.Event()
        self.done = threading.Event()
        routes = [Route("/{path}", self.repeat, methods=["POST", "GET"]), WebSocketRoute("/ws", self.talk)]
        self.app = Starlette(routes=routes)

    async def repeat(self, request):
        return JSONResponse({"length": len(await request.body()), "client": CONNECTION.get().client})

    async def talk(self, websocket):
        await websocket.accept()
        try:
            async for text in websocket.iter_text():
                if text == "work":
                    with contextlib.suppress(ClientGoneError):
                        self.working.set()
                        try:
                            await while_present(asyncio.sleep(60))
                        finally:
                            self.left.set()
                await websocket.send_text(text * (100_000 if text == "much" else 1))
        except OSError:
            pass
        finally:
            self.done.set()


@contextlib.contextmanager
def served(app, **options):
    config = uvicorn.Config(Guard(app.app, **options), log_level="critical", lifespan="off", proxy_headers=False)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(20)


def ws(port, **options):
    return connect(f"ws://127.0.0.1:{port}/ws", proxy=None, ping_interval=None, **options)


def test_who_answers_learns_at_once_that_the_client_left():
    app = App()
    with served(app) as port:
        with ws(port) as client:
            client.send("work")
            assert app.working.wait(10)
            client.socket.shutdown(socket.SHUT_RDWR)
        assert app.left.wait(10)
        assert app.done.wait(10)


def test_a_silent_connection_is_closed_and_one_that_speaks_is_not():
    app = App()
    with served(app, idle=1.0) as port, ws(port) as client:
        began = time.monotonic()
        while time.monotonic() < began + 1.5:  # longer than a silent one may live
            client.send("here")
            assert client.recv() == "here"
            time.sleep(0.1)
        with pytest.raises(ConnectionClosed) as closed:
            client.recv()
        assert closed.value.rcvd.code == 1001
        assert app.done.wait(10)


def test_frames_ahead_of_the_answers_are_bounded():
    app = App()
    with served(app) as port, ws(port) as client:
        client.send("work")
        assert app.working.wait(10)
        for _ in range(guard.AHEAD + 3):
            client.send("more")
        with pytest.raises(ConnectionClosed) as closed:
            client.recv()
        assert closed.value.rcvd.code == 1008
        assert app.left.wait(10)


def test_a_client_that_takes_no_answers_is_given_up(monkeypatch):
    monkeypatch.setattr(guard, "SENDING", 0.5)
    app = App()
    with served(app) as port, socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", port))
        slow.sendall(
            b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        frame = b"\x81\x84\x00\x00\x00\x00much"
        deadline = time.monotonic() + 20
        with contextlib.suppress(OSError):
            while not app.done.wait(0.1):
                assert time.monotonic() < deadline
                slow.sendall(frame)
        assert app.done.wait(10)


def test_a_body_is_bounded_in_length_and_in_time(monkeypatch):
    monkeypatch.setattr(guard, "READING", 0.5)
    with served(App()) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        assert client.post("/x", content=b"a" * 1000).json() == {"length": 1000, "client": "127.0.0.1"}
        assert client.post("/x", content=b"a" * (guard.MAX_BODY + 1)).status_code == 413
        with socket.create_connection(("127.0.0.1", port), timeout=10) as slow:
            slow.sendall(b"POST /x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\n\r\n{")
            assert slow.recv(100).startswith(b"HTTP/1.1 408 ")


def test_token_origin_and_host_are_checked_before_anything_else():
    app = App()
    with served(app, token="right", loopback=True) as port:
        base = f"http://127.0.0.1:{port}"
        own = {"Authorization": "Bearer right"}
        for headers, status in (
            (own, 200),
            ({**own, "Origin": base}, 200),
            ({**own, "Host": f"localhost:{port}"}, 200),
            ({**own, "Host": f"[::1]:{port}"}, 200),
            ({}, 401),
            ({"Authorization": "Bearer righ"}, 401),
            ({"Authorization": "right"}, 401),
            ({**own, "Origin": "http://127.0.0.1:1"}, 403),
            ({**own, "Origin": "null"}, 403),
            ({**own, "Host": "evil.example"}, 403),
            ({**own, "Host": "127.0.0.1.evil.example"}, 403),
        ):
            assert httpx.get(f"{base}/x", headers=headers, trust_env=False).status_code == status, headers
        assert httpx.get(f"{base}/health", trust_env=False).status_code == 200


@pytest.mark.parametrize(("client", "status"), [("10.0.0.5", 403), ("127.0.0.1", 200), ("::1", 200)])
def test_a_service_for_this_machine_alone_answers_no_other_whatever_it_says_of_itself(client, status):
    async def ask():
        app = Guard(App().app, loopback=True)
        transport = httpx.ASGITransport(app, client=(client, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as asking:
            return (await asking.post("/x", content=b"1")).status_code

    assert asyncio.run(ask()) == status


@given(st.text(max_size=30))
def test_no_text_but_a_loopback_address_is_loopback(text):
    assert not is_loopback(text) or text == "localhost" or text.startswith(("127.", "::1", "0", "::ffff:127."))


def test_half_a_header_is_given_up_and_a_connection_in_use_is_not(monkeypatch):
    class Cycle:
        response_complete = False

    class Half:
        cycle = None

    class Busy:
        cycle = Cycle()

    class Upgraded:
        pass

    half, busy, upgraded, waiting = Half(), Busy(), Upgraded(), Waiting()
    everyone = [half, busy, upgraded]
    assert waiting.overdue(everyone, 0.0) == []
    assert waiting.overdue(everyone, BEGINNING) == []
    assert waiting.overdue(everyone, BEGINNING + 1) == [half]
    assert waiting.overdue([busy], 99.0) == []


def test_sessions_are_counted_by_client_and_given_back():
    async def play():
        sessions = Sessions(ENV_ID, per_client=1)
        here, there = Connection("10.0.0.1"), Connection("10.0.0.2")
        CONNECTION.set(here)
        with sessions.charge():
            with pytest.raises(ClientLimitError, match="Allowed: 1"), sessions.charge():
                pass
            CONNECTION.set(there)
            with sessions.charge():
                pass
        CONNECTION.set(here)
        with sessions.charge():
            pass
        assert not sessions._held

    asyncio.run(play())


def test_environments_share_tasks_and_none_outlives_the_sessions():
    async def play():
        sessions = Sessions(ENV_ID)
        await sessions.open()
        await sessions.open()
        envs = [await sessions.take() for _ in range(3)]
        assert all(env.tasks is sessions.tasks for env in envs)
        assert sessions.open_environments == 3
        await envs[0].areset(seed=1)
        sessions.give_back(envs[0])
        sessions.give_back(envs[0])
        await asyncio.to_thread(sessions.give_back, envs[1])
        await sessions.close()
        await sessions.close()
        assert sessions.open_environments == 0
        with pytest.raises(UsageError, match="open"):
            await sessions.take()

    asyncio.run(play())


@pytest.mark.parametrize(
    ("options", "says"), [({"view": "text"}, "leave it out"), ({"render_mode": "ansi"}, "leave it out")]
)
def test_arguments_that_are_not_for_a_service_are_refused(options, says):
    with pytest.raises(UsageError, match=says):
        Sessions(ENV_ID, options)


def test_an_error_of_the_work_reaches_who_waits_for_it():
    async def fail():
        await asyncio.sleep(0)
        raise InfrastructureError("the kernel")

    async def play():
        CONNECTION.set(Connection("here"))
        with pytest.raises(InfrastructureError, match="the kernel"):
            await while_present(fail())
        return await while_present(asyncio.sleep(0, json.dumps(1)))

    assert asyncio.run(play()) == "1"
