"""Hostile cells: what the attacker got, what its next cell sees, and that a neighbour was not touched."""

from __future__ import annotations

import ast
import collections
import os
import re

import pytest

from aster_env.kernels.inside import linux
from tests.kernels.hostile import (
    calls,
    connection,
    forgery,
    interpreter,
    machine,
    malformed,
    memory,
    output,
    outside,
    reading,
    relatives,
    signals,
    timing,
    unicode,
    writing,
)
from tests.kernels.hostile.case import ANY, GRACE, MAX_OUTPUT

TABLES = (
    calls,
    connection,
    forgery,
    interpreter,
    machine,
    malformed,
    memory,
    output,
    outside,
    reading,
    relatives,
    signals,
    timing,
    unicode,
    writing,
)
CASES = [case for table in TABLES for case in table.CASES]
FAMILIES = """read write network processes memory disk output time signals siblings parent kernel namespaces syscalls
    proc ctypes pickles symlinks unicode threads interpreter"""
MARGIN = 15.0
"""Seconds beyond all limits that a loaded machine may need."""


@pytest.mark.parametrize("case", CASES, ids=[f"{case.family}: {case.name}" for case in CASES])
def test_a_hostile_cell_gets_nothing(world, case):
    case = case.under(world.mode)
    if case.machine not in ("", linux.machine()):
        pytest.skip(f"makes sense on {case.machine} only")
    before = descriptors()

    async def main():
        attacker = await world.attacker()
        try:
            await check(world, attacker, case)
        finally:
            await attacker.close()
        await world.visit()

    world.run(main())
    assert descriptors() == before


async def check(world, attacker, case):
    cell = await attacker.execute(case.code, timeout=case.timeout)
    told(world, cell, case.timeout)
    assert case.timed_out in (None, cell.timed_out), cell
    assert case.state in ("", cell.state), cell
    assert matches(cell.error, case.error, cell), cell
    if not (cell.timed_out or cell.died or (cell.error and case.error is ANY)):
        assert right(cell.value, case.got), cell.value
    again = await attacker.execute(case.after, timeout=case.after_timeout)
    told(world, again, case.after_timeout)
    if cell.state == "lost":
        assert "NameError" in (await attacker.execute("kept")).error
        assert (await attacker.execute("1 + 1")).value == "2"
    elif case.then is not ANY:
        assert right(again.value, case.then), again


def told(world, cell, timeout):
    """Check what holds for every cell, whatever it did."""
    assert cell.seconds < timeout + GRACE + MARGIN, cell.seconds
    texts = [text or "" for text in (cell.stdout, cell.stderr, cell.value, cell.error)]
    assert sum(map(len, texts)) <= 8 * MAX_OUTPUT
    assert not any(world.host.secret in text for text in texts)
    "".join(texts).encode()
    if cell.died:
        assert cell.state == "lost"
        assert "process ended" in cell.error
    elif cell.state == "lost":
        assert cell.timed_out


def matches(error, expected, cell):
    if expected is ANY or cell.timed_out or cell.died:
        return True
    return (error is None) if expected == "" else bool(error and re.search(expected, error))


def right(value, expected):
    if expected in ((), (ANY,)):
        return expected != () or value is None
    got = None if value is None else ast.literal_eval(value)
    return expected(got) if callable(expected) else got in expected


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def test_every_family_is_there_and_no_name_twice():
    counts = collections.Counter(case.family for case in CASES)
    assert set(counts) == set(FAMILIES.split())
    assert len(CASES) >= 80
    assert len({(case.family, case.name) for case in CASES}) == len(CASES)
