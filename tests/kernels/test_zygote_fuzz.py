"""A hostile kernel against its client: whatever it sends, the client ends soon, in bounded memory, with ``Died``."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aster_env.kernels.messages import Output, parse_json
from aster_env.kernels.session import Died, Session

MAX_OUTPUT = 1000
KINDS = ["stream", "execute_result", "display_data", "error", "status", "execute_reply", "aster_failed", "", "é"]
IDLE = {"execution_state": "idle"}

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.text("\ud800\x1b[m", max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
texts = json_values | st.text("xé\x1b[31m\ud800", max_size=3 * MAX_OUTPUT)
contents = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["stdout", "stderr"]) | json_values,
        "text": texts,
        "data": st.fixed_dictionaries({}, optional={"text/plain": texts}) | json_values,
        "traceback": st.lists(texts, max_size=4) | json_values,
        "ename": texts,
        "evalue": texts,
        "execution_state": st.sampled_from(["idle", "busy", "starting"]) | json_values,
        "why": texts,
    },
)
parents = st.fixed_dictionaries({"msg_id": st.sampled_from(["1", "2", "0", "", 1]) | json_values}) | json_values
messages = st.fixed_dictionaries(
    {},
    optional={
        "header": st.fixed_dictionaries({"msg_type": st.sampled_from(KINDS) | json_values}) | json_values,
        "parent_header": parents,
        "content": contents | json_values,
        "channel": json_values,
    },
)


def packed(data, size=None):
    return struct.pack(">I", len(data) if size is None else size) + data


def message(kind, content, parent="1"):
    row = {"header": {"msg_type": kind}, "parent_header": {"msg_id": parent}, "content": content}
    return packed(json.dumps(row).encode())


good = st.builds(message, st.sampled_from(KINDS), contents)
odd = st.builds(lambda row: packed(json.dumps(row).encode()), messages | json_values)
mislaid = st.builds(packed, st.binary(max_size=60), st.integers(0, 2**32 - 1) | st.integers(0, 80))
nested = st.builds(
    lambda a, b, n: packed(a * n + b * n), st.sampled_from([b"[", b'{"a":']), st.just(b"]"), st.integers(1, 3000)
)
frames = good | odd | mislaid | nested | st.binary(max_size=60)
streams = st.lists(frames, max_size=8).map(b"".join)
HELLO = message("status", {"execution_state": "starting"}, "")


async def meet(data, pieces=1, *, greeted=True, code="1", cells=1):
    """Run cells against a peer that sends ``data`` in pieces and hangs up; return what came of each."""
    trouble = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: trouble.append(context))
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    session = Session(1, ours, MAX_OUTPUT)

    async def peer():
        step = max(1, len(data) // pieces)
        try:
            for start in range(0, len(data), step):
                await loop.sock_sendall(theirs, data[start : start + step])
                await asyncio.sleep(0)
        except OSError:
            pass
        finally:
            theirs.close()

    outcomes = []
    try:
        if greeted:
            theirs.send(HELLO)
            await session.ready
        sending = asyncio.create_task(peer())
        for _ in range(cells):
            try:
                outcomes.append(await asyncio.wait_for(session.run(code), 20))
            except Died as died:
                outcomes.append(died)
        await sending
    finally:
        theirs.close()
        session.close()
        session.close()
    if session.ready.done() and not session.ready.cancelled():
        assert isinstance(session.ready.exception(), Died | None)
    assert trouble == []
    return session, outcomes


def bounded(output):
    cell = output.cell(0.0)
    found = [cell.stdout, cell.stderr, cell.value or "", cell.error or ""]
    # A line end is added to each display.
    assert sum(map(len, found)) <= 12 * output.limit + 100
    "".join(found).encode()
    assert "\x1b[" not in (cell.error or "")
    assert cell.truncated >= 0


def meets(data, pieces=1, **options):
    session, outcomes = asyncio.run(meet(data, pieces, **options))
    for outcome in outcomes:
        if isinstance(outcome, Output):
            bounded(outcome)
        else:
            assert isinstance(outcome, Died)
    assert not session.alive
    return session, outcomes


@given(streams, st.integers(1, 40))
@example(packed(b"[" * 990 + b"]" * 990), 1)
@example(message("error", {"traceback": ["x"]}) + message("status", IDLE), 7)
@example(packed(b'{"header":{"msg_type":' + b"9" * 5000 + b"}}"), 1)
def test_whatever_a_kernel_sends_a_cell_ends_with_its_output_or_its_death(data, pieces):
    meets(data, pieces)


@given(streams, st.integers(1, 40))
def test_a_cell_after_another_ends_likewise(data, pieces):
    meets(data + message("status", IDLE) + data, pieces, cells=2)


@given(streams)
def test_a_kernel_that_never_greets_well_is_ready_or_dead(data):
    meets(data, greeted=False)


@given(st.lists(good | odd.filter(lambda frame: b'"1"' not in frame), max_size=6).map(b"".join))
def test_messages_for_other_cells_change_nothing(data):
    hostile = data.replace(b'"msg_id": "1"', b'"msg_id": "7"')
    answer = message("execute_result", {"data": {"text/plain": "42"}}) + message("status", IDLE)
    _, (outcome,) = meets(hostile + answer)
    if isinstance(outcome, Output):
        cell = outcome.cell(0.0)
        assert (cell.value, cell.stdout, cell.error) == ("42", "", None)
    else:
        assert "protocol" in str(outcome)


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"traceback":[', b'[{"a":'])
@pytest.mark.parametrize("kind", ["stream", "error", "execute_result", "status"])
def test_nesting_of_every_depth_is_parsed_or_refused(opening, kind):
    closing = opening.translate(bytes.maketrans(b"[{", b"]}"), b'":atrceb')[::-1]
    for depth in (*range(100, 1100, 7), *range(900, 1000), 10**5):
        deep = opening * depth + b"1" + closing * depth
        content = b'{"text":%s,"traceback":[%s],"data":{"text/plain":%s},"name":%s}' % (deep, deep, deep, deep)
        row = b'{"header":{"msg_type":"%s"},"parent_header":{"msg_id":"1"},"content":%s}' % (kind.encode(), content)
        meets(packed(row) + message("status", IDLE))


@pytest.mark.parametrize("size", [2**31, 2**32 - 1, 48 * MAX_OUTPUT + (1 << 20) + 1])
def test_a_length_beyond_all_bounds_ends_the_session_at_once(size):
    _, (outcome,) = meets(struct.pack(">I", size))
    assert "protocol" in str(outcome)


@pytest.mark.parametrize(
    "piece",
    [
        message("stream", {"name": "stdout", "text": "x" * 5000}),
        message("stream", {"name": "stdout", "text": "x" * 5000}, "7"),
        message("error", {"traceback": ["x" * 5000]}),
        message("x", {}),
        packed(b'"' + b"x" * 10**6 + b'"')[:-1],
        struct.pack(">I", 10**6) + b"x",
    ],
    ids=["stream", "another's", "error", "unknown", "cut", "slow"],
)
def test_a_flood_ends_in_bounded_memory(piece):
    flood = piece * max(1, (20 << 20) // len(piece))
    tracemalloc.start()
    try:
        session, (outcome,) = meets(flood, pieces=200)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(outcome, Died)
    assert len(session._buffer) <= session._most + (1 << 18)
    # What is held: the buffer, a copy of one message, and that message parsed.
    assert peak < 6 * session._most


def test_a_flood_between_cells_ends_the_session_too():
    async def main():
        ours, theirs = socket.socketpair()
        session = Session(1, ours, MAX_OUTPUT)
        theirs.setblocking(False)
        theirs.send(HELLO)
        await session.ready
        piece = message("stream", {"text": "x" * 10_000}, "7")
        flooding = asyncio.get_running_loop().sock_sendall(theirs, piece * 2000)
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(flooding, 10)
        assert not session.alive
        with pytest.raises(Died, match="bytes"):
            await session.run("1")
        theirs.close()

    asyncio.run(main())


def test_a_peer_that_reads_nothing_does_not_hold_up_its_own_answer_or_end():
    async def main(answers):
        ours, theirs = socket.socketpair()
        session = Session(1, ours, MAX_OUTPUT)
        theirs.send(HELLO)
        await session.ready
        running = asyncio.create_task(session.run("x = 1 #" + "x" * (8 << 20)))
        await asyncio.wait({running}, timeout=0.1)
        assert not running.done()
        if answers:
            theirs.send(message("status", IDLE))
            assert isinstance(await asyncio.wait_for(running, 10), Output)
        theirs.close()
        if not answers:
            with pytest.raises(Died):
                await asyncio.wait_for(running, 10)
        session.close()

    asyncio.run(main(True))
    asyncio.run(main(False))


@pytest.mark.parametrize("when", ["before the greeting", "before the cell", "in the cell"])
def test_a_peer_that_hangs_up_is_noticed_at_once(when):
    async def main():
        ours, theirs = socket.socketpair()
        session = Session(1, ours, MAX_OUTPUT)
        if when != "before the greeting":
            theirs.send(HELLO)
            await session.ready
        running = asyncio.create_task(session.run("1")) if when == "in the cell" else None
        await asyncio.sleep(0)
        theirs.close()
        with pytest.raises(Died):
            await asyncio.wait_for(running or session.run("1"), 10)
        session.close()

    asyncio.run(main())


@given(st.lists(st.tuples(st.sampled_from(KINDS) | st.text(max_size=5), contents), max_size=12), st.integers(0, 50))
@settings(max_examples=300)
def test_output_takes_anything_and_keeps_no_more_than_its_limit(added, limit):
    output = Output(limit)
    ended = [output.add(kind, content) for kind, content in added]
    cell = output.cell(0.0)
    displays = sum(kind == "display_data" for kind, _ in added)
    assert len(cell.stdout) + len(cell.stderr) <= 12 * limit + displays
    assert len(cell.value or "") + len(cell.error or "") <= 24 * limit
    for text in (cell.stdout, cell.stderr, cell.value or "", cell.error or ""):
        text.encode()
    for (kind, content), end in zip(added, ended, strict=True):
        assert end == (kind == "status" and content.get("execution_state") == "idle")


@given(st.lists(st.text(max_size=40), max_size=10), st.integers(0, 100))
def test_output_counts_what_it_drops(pieces, limit):
    output = Output(limit)
    for piece in pieces:
        output.add("stream", {"name": "stdout", "text": piece})
    kept = "".join(output.stdout)
    assert kept == "".join(pieces)[:limit]
    assert len(kept) + output.truncated == sum(map(len, pieces))


@given(st.binary(max_size=200) | st.integers(1, 5000).map(lambda depth: b"[" * depth))
def test_json_of_a_hostile_sender_is_parsed_or_a_value_error(data):
    try:
        parse_json(data)
    except ValueError as error:
        assert not isinstance(error, RecursionError)  # noqa: PT017 (any other exception fails the test by itself)
