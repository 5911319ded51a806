"""The tool ``python``: what the model reads of a cell, and what becomes of its session."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aster_env.errors import UsageError
from aster_env.kernels import open_pool
from aster_env.kernels.base import Cell
from aster_env.tools.python import PythonTool, bound

MEMORY = "The Python process ended while the code ran: it was killed because memory ran out."
INTERRUPT = "KeyboardInterrupt                 Traceback (most recent call last)"


class Scripted:
    """A pool whose only session gives the cells it is told to."""

    def __init__(self, *cells):
        self.cells, self.timeouts, self.started, self.closed = list(cells), [], 0, 0

    async def start(self):
        self.started += 1
        return self

    async def execute(self, code, timeout=30.0):
        self.timeouts.append(timeout)
        return self.cells.pop(0)

    async def close(self):
        self.closed += 1


def results(*cells, **options):
    async def main():
        tool = PythonTool(Scripted(*cells), **options)
        return [await tool(code="…") for _ in cells]

    return asyncio.run(main())


def said(cell, **options):
    return results(cell, **options)[0].text


def test_a_cell_reads_like_a_notebook():
    assert said(Cell(stdout="a\n", stderr="b\n", value="3")) == "a\nb\n3"
    assert said(Cell(stdout="a\n", error="NameError: x")) == "a\nNameError: x"
    assert said(Cell(value="''")) == "''"


def test_a_cell_that_gives_nothing_says_how_to_see_something():
    assert "print" in said(Cell())


def test_a_session_that_was_neither_lost_nor_stopped_says_nothing_of_its_state():
    assert "state" not in said(Cell(value="1")) + said(Cell(error="NameError: x"))


def test_a_timeout_that_kept_the_state_says_so_and_what_to_do():
    lines = said(Cell(stdout="begun\n", error=INTERRUPT, timed_out=True), timeout=2).splitlines()
    assert lines[0] == "begun"
    assert "longer than 2 s" in lines[1]
    assert "faster" in lines[1]
    assert lines[2].startswith("state: kept")
    assert len(lines) == 3


def test_a_timeout_that_lost_the_state_says_so_and_what_to_do():
    lines = said(Cell(state="lost", timed_out=True), timeout=2).splitlines()
    assert "longer than 2 s" in lines[0]
    assert lines[1].startswith("state: lost")
    assert "define again" in lines[1]


def test_a_session_killed_because_memory_ran_out_is_told_as_such():
    lines = said(Cell(stdout="begun\n", error=MEMORY, state="lost", died=True)).splitlines()
    assert lines[:2] == ["begun", MEMORY]
    assert lines[2].startswith("state: lost")


@pytest.mark.parametrize("cell", [Cell(value="1", state="lost"), Cell(error=MEMORY, state="lost", timed_out=True)])
def test_a_lost_state_hides_neither_the_value_nor_the_reason(cell):
    text = said(cell)
    assert (cell.value or cell.error) in text
    assert "state: lost" in text


def test_characters_that_the_session_dropped_are_counted_and_told():
    (result,) = results(Cell(stdout="x" * 50, truncated=1234), max_output=20)
    assert "[… 30 characters dropped …]" in result.text
    assert "1234 further characters of output were dropped" in result.text
    assert result.dropped == 1264


cells = st.builds(
    Cell,
    stdout=st.text(max_size=80),
    stderr=st.text(max_size=80),
    value=st.none() | st.text(max_size=80),
    error=st.none() | st.text(max_size=80),
    state=st.sampled_from(["kept", "lost"]),
    truncated=st.sampled_from([0, 7]),
    timed_out=st.booleans(),
    died=st.booleans(),
)


@given(cell=cells, most=st.integers(1, 100))
def test_no_bound_cuts_away_what_became_of_the_state(cell, most):
    (result,) = results(cell, max_output=most)
    assert ("\nstate: lost" in f"\n{result.text}") == (cell.state == "lost")
    assert ("\nstate: kept" in f"\n{result.text}") == (cell.state == "kept" and cell.timed_out)
    assert ("7 further characters" in result.text) == (cell.truncated == 7)
    assert (result.state, result.timed_out) == (cell.state, cell.timed_out)
    assert result.ok == (cell.error is None and not cell.timed_out)
    assert len(result.text) <= most + 300


@given(text=st.text(max_size=60), most=st.integers(1, 60))
def test_a_bound_keeps_head_and_tail_and_counts_the_rest(text, most):
    short, dropped = bound(text, most)
    assert dropped == max(0, len(text) - most)
    if dropped:
        head, _, tail = short.partition(f"\n[… {dropped} characters dropped …]\n")
        assert len(head) + len(tail) == most
        assert text.startswith(head)
        assert text.endswith(tail)
    else:
        assert short == text


def test_losses_are_counted_in_a_row_and_forgotten_with_the_episode():
    async def main():
        lost, kept = Cell(error="gone", state="lost", died=True), Cell(value="1")
        pool = Scripted(lost, lost, kept, lost)
        tool, losses = PythonTool(pool, timeout=3), []
        for _ in range(4):
            await tool(code="…")
            losses.append(tool.losses)
        await tool.reset()
        await tool.close()
        assert (losses, tool.losses) == ([1, 2, 0, 1], 0)
        assert (pool.started, pool.closed, pool.timeouts) == (1, 1, [3] * 4)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timeout", 0), ("timeout", float("inf")), ("timeout", float("nan")), ("timeout", True), ("timeout", "3"),
        ("max_output", 0), ("max_output", 1.5), ("max_output", True),
    ],
)  # fmt: skip
def test_a_limit_that_is_not_allowed_is_named(name, value):
    with pytest.raises(UsageError, match=f"{name}={value!r}.*Allowed"):
        PythonTool(Scripted(), **{name: value})


def test_a_real_session_tells_a_timeout_and_its_end_truly():
    async def main():
        async with open_pool("ipykernel", allow_unsandboxed=True) as pool:
            tool = PythonTool(pool, timeout=3)
            await tool(code="x = 6 * 7")
            late = await tool(code="while True: pass")
            assert "longer than 3 s" in late.text
            assert "\nstate: kept" in late.text
            assert (await tool(code="x")).text == "42"
            killed = await tool(code="print('begun', flush=True)\nimport os\nos.kill(os.getpid(), 9)")
            assert "out of memory" in killed.text
            assert "\nstate: lost" in killed.text
            assert (killed.state, killed.ok, tool.losses) == ("lost", False, 1)
            assert "NameError" in (await tool(code="x")).text
            await tool.close()

    asyncio.run(main())
