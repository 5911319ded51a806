"""Clients that vanish, stall, send garbage, or are not allowed in."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time

import httpx
import pytest
from openenv.core.generic_client import GenericEnvClient
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from benchmarks.kernels.measure import parents
from benchmarks.load.clients import LONG
from benchmarks.load.server import serving


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 60))


def wait(holds, seconds=20.0):
    """Wait until ``holds()``; a condition that never does fails the test."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)


def ws(running, **options):
    return connect(running.url.replace("http", "ws") + "/ws", proxy=None, ping_interval=None, **options)


async def say(client, kind, **data):
    await client.send(json.dumps({"type": kind, **({"data": data} if kind != "state" else {})}))


async def ask(client, kind, **data):
    await say(client, kind, **data)
    return json.loads(await client.recv())


def step(code):
    return {"tool": "python", "arguments": {"code": code}}


async def warm(running):
    """Play once, so that the kernel pool is there; return how many processes it has without sessions."""
    async with GenericEnvClient(base_url=running.url) as client:
        await client.reset(seed=1)
        await client.step(step("1"))


def pool(running):
    """Return how many processes the service has once they stop changing."""
    run(warm(running))
    counts = [-1]
    wait(lambda: counts.append(len(running.below())) or counts[-6:] == [counts[-1]] * 6)
    return counts[-1]


@pytest.fixture
def quiet(server):
    return server, pool(server)


@pytest.fixture(scope="module")
def narrow():
    limits = ("--max-sessions", "3", "--per-client", "2", "--idle-seconds", "2")
    with serving(*limits, env_kwargs={"pool_options": {"spares": 0}}) as running:
        yield running


def test_the_kernel_of_a_client_that_vanishes_is_gone_though_its_cell_runs(quiet):
    running, idle = quiet

    async def vanish():
        for _ in range(3):
            async with ws(running) as client:
                await ask(client, "reset")
                await ask(client, "step", **step("x = 1"))
                assert len(running.below()) > idle
                await say(client, "step", **step(LONG))
                await asyncio.sleep(0.2)
                client.transport.abort()

    began = time.monotonic()
    run(vanish())
    wait(lambda: len(running.below()) <= idle)
    assert time.monotonic() - began < 15, "the cells would have run for 25 s"
    run(warm(running))


def test_a_client_that_closes_gives_everything_back(quiet):
    running, idle = quiet
    before = running.holds()

    async def come_and_go():
        for _ in range(8):
            await warm(running)

    run(come_and_go())
    after = running.settled({name: before[name] for name in ("processes", "descriptors", "files")})
    assert after["processes"] <= idle
    assert after["descriptors"] <= before["descriptors"]
    assert after["files"] <= before["files"]


def test_a_silent_session_is_closed_and_its_kernel_ended(narrow):
    running, idle = narrow, pool(narrow)

    async def be_silent():
        async with ws(running) as client:
            await ask(client, "reset")
            await ask(client, "step", **step("1"))
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
            assert closed.value.rcvd.code == 1001
            assert "idle" in closed.value.rcvd.reason

    run(be_silent())
    wait(lambda: len(running.below()) <= idle)


def test_a_session_that_waits_for_a_long_cell_is_not_idle(narrow):
    async def play():
        async with ws(narrow) as client:
            await ask(client, "reset")
            reply = await ask(client, "step", **step("import time\ntime.sleep(3)\n'done'"))
            assert "done" in reply["data"]["observation"]["text"]

    run(play())


def test_an_address_may_have_so_many_sessions_and_others_are_not_harmed(narrow):
    async def play():
        async with ws(narrow), ws(narrow):
            async with ws(narrow) as third:
                refused = json.loads(await third.recv())
                assert refused["type"] == "error"
                assert "Allowed: 2" in refused["data"]["message"]
            # A session over HTTP counts as one, and no header makes a client another one.
            body = {"jsonrpc": "2.0", "id": 1, "method": "openenv/session/create", "params": {}}
            headers = {"X-Forwarded-For": "10.0.0.1", "Forwarded": "for=10.0.0.1"}
            async with httpx.AsyncClient(trust_env=False) as http:
                reply = await http.post(f"{narrow.url}/mcp", json=body, headers=headers)
            assert reply.status_code == 422
            assert "Allowed: 2" in reply.json()["detail"]
            async with ws(narrow, local_addr=("127.0.0.2", 0)) as other:
                assert (await ask(other, "reset"))["type"] == "observation"

    run(play())


def test_a_full_service_says_so_and_has_room_again(narrow):
    async def play():
        async with ws(narrow) as first, ws(narrow), ws(narrow, local_addr=("127.0.0.2", 0)):
            await ask(first, "reset")
            with pytest.raises(RuntimeError, match="CAPACITY_REACHED"):
                await warm(narrow)
        await warm(narrow)

    run(play())


TOKEN = "open-sesame-4711"


@pytest.fixture(scope="module")
def guarded():
    with serving("--token-variable", "ASTER_TEST_TOKEN", variables={"ASTER_TEST_TOKEN": TOKEN}) as running:
        yield running


@pytest.mark.parametrize(
    "given", [None, "Bearer wrong-secret-0815", TOKEN, f"bearer  {TOKEN}", f"Bearer {TOKEN}x", "é"]
)
def test_without_the_token_nothing_is_answered(guarded, given):
    headers = {} if given is None else {"Authorization": given.encode("latin-1")}
    with httpx.Client(base_url=guarded.url, trust_env=False) as client:
        for path in ("/metadata", "/state", "/schema", "/docs", "/openapi.json", "/nowhere"):
            reply = client.get(path, headers=headers)
            assert reply.status_code == 401
            assert TOKEN not in reply.text
        assert client.post("/reset", json={}, headers=headers).status_code == 401
        assert client.get("/health", headers=headers).status_code == 200

    async def play():
        sent = {} if given is None else {"Authorization": given}
        with pytest.raises(InvalidStatus) as refused:
            async with ws(guarded, additional_headers=sent):
                pass
        assert refused.value.response.status_code == 401

    if given != "é":
        run(play())


def test_with_the_token_episodes_are_played_and_a_service_that_is_told_to_stop_leaves_nothing(guarded):
    async def play():
        async with GenericEnvClient(base_url=guarded.url, headers={"Authorization": f"Bearer {TOKEN}"}) as client:
            await client.reset(seed=1)
            # Nor does a session see it: the pool's processes have an environment of their own.
            seen = await client.step(step("import os\nsorted(os.environ)"))
            assert "ASTER_TEST_TOKEN" not in seen.observation["text"]
        async with ws(guarded, additional_headers={"Authorization": f"Bearer {TOKEN}"}) as client:
            await ask(client, "reset")
            await say(client, "step", **step(LONG))
            held = await asyncio.to_thread(guarded.below)
            guarded.process.terminate()
            return held, await asyncio.to_thread(guarded.process.wait, 20)

    held, status = run(play())
    assert status == 0
    assert held
    wait(lambda: not set(held) & set(parents()))
    assert not list(guarded.files.iterdir())
    assert guarded.process.stdout.read() + guarded.log.read_text() == ""


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Host": "evil.example"},
        {"Host": "localhost.evil.example"},
    ],
)
def test_a_page_in_a_browser_is_no_way_in(server, headers):
    assert httpx.post(f"{server.url}/reset", json={}, headers=headers, trust_env=False).status_code == 403

    async def play():
        with pytest.raises(InvalidStatus) as refused:
            async with ws(server, additional_headers={"Origin": "http://evil.example"}):
                pass
        assert refused.value.response.status_code == 403

    run(play())
    own = {"Origin": server.url}
    assert httpx.post(f"{server.url}/reset", json={}, headers=own, trust_env=False).status_code == 200


GARBAGE = [
    "",
    "{",
    "null",
    "[]",
    "7",
    '"reset"',
    "{}",
    '{"type": 5}',
    '{"type": "step"}',
    '{"type": "step", "data": 5}',
    '{"type": "reset", "data": []}',
    '{"type": "step", "data": {"text": "\\ud800"}}',
    '{"type": "step", "data": {"tool": "python", "arguments": {"code": "\\udfff"}}}',
    '{"type": "step", "data": {"tool": "python", "arguments": {"\\ud800": {"a": [1e999]}}}}',
    '{"type": "reset", "data": {"seed": 1e999, "episode_id": {}}}',
    '{"type": "mcp", "data": {"jsonrpc": "2.0", "method": "tools/call", "id": [], "params": []}}',
    "[" * 100_000,
    '{"a":' * 50_000,
    "9" * 400_000,
    b"\x00\xff",
    "\u0000" * 1000,
]


@pytest.mark.parametrize("frame", GARBAGE, ids=lambda frame: repr(frame[:60]))
def test_garbage_is_an_error_for_who_sent_it_alone(server, frame):
    async def play():
        async with ws(server) as bystander, ws(server) as client:
            await ask(bystander, "reset", seed=1)
            await ask(bystander, "step", **step("mine = 3"))
            await ask(client, "reset", seed=1)
            await client.send(frame)
            try:
                reply = json.loads(await asyncio.wait_for(client.recv(), 20))
                # A half of a surrogate pair is replaced, and is no number that a model would get right.
                assert reply["type"] in ("error", "observation", "mcp")
            except ConnectionClosed:
                pass
            seen = await ask(bystander, "step", **step("mine"))
            assert seen["data"]["observation"]["messages"][-1]["content"] == "3"

    run(play())


def test_a_huge_frame_or_body_is_refused(server):
    async def play():
        async with ws(server) as client:
            await ask(client, "reset")
            with pytest.raises(ConnectionClosed) as closed:
                await ask(client, "step", text="x" * (3 << 20))
            assert closed.value.rcvd.code == 1009

    run(play())
    assert httpx.post(f"{server.url}/mcp", content=b"[" * (3 << 20), trust_env=False).status_code == 413

    def chunks():
        for _ in range(40):
            yield b" " * 100_000

    with contextlib.suppress(httpx.TransportError):  # it may be told so while it still sends
        assert httpx.post(f"{server.url}/mcp", content=chunks(), trust_env=False).status_code == 413


def test_who_sends_and_does_not_wait_for_answers_is_closed(quiet):
    running, idle = quiet

    async def play():
        async with ws(running) as client:
            await ask(client, "reset")
            await say(client, "step", **step(LONG))
            for _ in range(20):
                await say(client, "state")
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
            assert closed.value.rcvd.code == 1008

    run(play())
    wait(lambda: len(running.below()) <= idle)
