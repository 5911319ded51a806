"""The line that says how far a run is."""

from __future__ import annotations

import io
from dataclasses import replace

from aster_env.evaluate.progress import Progress
from tests.evaluate.test_statistics import sample


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_has_one_line_that_is_rewritten():
    stream = Terminal()
    progress = Progress("aime24", 4, stream=stream)
    progress._every = 0.0
    for number in range(3):
        progress.add(sample(number=number, score=1.0))
    progress.close()
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().count("\r") == 4
    assert "aime24  3/4  avg 100.0 [0.0, 100.0]" in stream.getvalue()
    assert " left" in progress.line()


def test_elsewhere_lines_come_seldom_and_the_last_one_always():
    stream = io.StringIO()
    progress = Progress("n", 100, stream=stream)
    for number in range(100):
        progress.add(sample(number=number))
    assert stream.getvalue() == ""
    progress.close()
    assert stream.getvalue().startswith("n  100/100  avg 0.0")
    assert "left" not in stream.getvalue()


def test_failures_are_shown_apart_and_an_earlier_run_counts_without_its_time():
    done = [sample("a", 0, 1.0), sample("b", 0, 0.0)]
    progress = Progress("n", 4, done, io.StringIO())
    assert progress.line().startswith("n  2/4  avg 50.0 [")
    assert "samples/s" not in progress.line()
    progress.add(replace(done[0], score=None))
    assert "  1 failed" in progress.line()
    assert progress.line().startswith("n  3/4  avg 50.0 [")
