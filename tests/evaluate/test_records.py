"""The file of samples: whole lines, whatever happens to the process that writes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import replace

import pytest

from aster_env.errors import UsageError
from aster_env.evaluate.records import (
    SAMPLES,
    Sample,
    SampleWriter,
    locked,
    make_sample,
    read_run,
    read_samples,
    write_manifest,
)
from aster_env.types import StopReason, Task, ToolCall, ToolResult, Trajectory, Turn

SAMPLE = Sample("t", 0, 7, 1.0, "answered", "4", 10, 1, 0.5, {"ok": 1}, {"turns": [1], "usage": {}})


def write(folder, samples):
    async def main():
        writer = SampleWriter(folder)
        try:
            await asyncio.gather(*(writer.append(sample) for sample in samples))
        finally:
            writer.close()

    asyncio.run(main())


def test_what_was_written_at_once_by_many_is_read_back(tmp_path):
    hostile = ["\ud800", "a\nb", "\x00", "é\u2028", "<script>"]
    samples = [replace(SAMPLE, task=f"t{i}", answer=hostile[i % 5]) for i in range(200)]
    write(tmp_path, samples)
    assert list(read_samples(tmp_path, turns=True).values()) == samples
    assert "turns" not in read_samples(tmp_path)["t0", 0].trajectory


def test_a_line_torn_at_any_byte_is_dropped_and_the_next_one_is_whole(tmp_path):
    write(tmp_path, [SAMPLE, replace(SAMPLE, sample=1)])
    whole = (tmp_path / SAMPLES).read_bytes()
    first = whole.index(b"\n") + 1
    for end in range(len(whole)):
        (tmp_path / SAMPLES).write_bytes(whole[:end])
        assert len(read_samples(tmp_path)) == (end >= first)
        write(tmp_path, [replace(SAMPLE, sample=2)])
        assert [s.sample for s in read_samples(tmp_path).values()] == ([0, 2] if end >= first else [2])


def test_a_long_torn_line_is_cut_off_whole(tmp_path):
    write(tmp_path, [SAMPLE])
    whole = (tmp_path / SAMPLES).read_bytes()
    (tmp_path / SAMPLES).write_bytes(whole + b"x" * 200_000)
    write(tmp_path, [])
    assert (tmp_path / SAMPLES).read_bytes() == whole


def test_the_last_record_of_a_sample_counts(tmp_path):
    write(tmp_path, [replace(SAMPLE, score=None)])
    write(tmp_path, [replace(SAMPLE, score=0.0)])
    assert [s.score for s in read_samples(tmp_path).values()] == [0.0]


@pytest.mark.parametrize("line", ["{}", "[]", "no", '{"task": "t", "what": 1}'])
def test_a_whole_line_that_is_no_sample_is_named(tmp_path, line):
    write(tmp_path, [SAMPLE])
    with (tmp_path / SAMPLES).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UsageError, match="line 2: no sample"):
        read_samples(tmp_path)


def test_two_processes_cannot_write_one_folder_and_a_dead_one_holds_nothing(tmp_path):
    code = (
        "import sys, pathlib; from aster_env.evaluate.records import locked\n"
        "with locked(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=pipe, stdout=pipe) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(UsageError, match="Another process is writing"), locked(tmp_path):
            pass
        other.kill()
        other.wait()
        with locked(tmp_path):
            pass


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"has no run\.json"):
        read_run(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UsageError, match="is no JSON"):
        read_run(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UsageError, match="no manifest"):
        read_run(tmp_path)
    write_manifest(tmp_path, {"settings": {}})
    assert read_run(tmp_path).samples == []


def test_calls_are_counted_by_how_they_ended():
    def said(call):
        return Turn("model", (1, 2), "", calls=(call,) if call else ())

    def heard(**result):
        return Turn("environment", (3,), "", results=(ToolResult("", **result),))

    turns = [Turn("environment", (9,), "")]
    turns += [said(ToolCall("python")), heard(), said(ToolCall("python")), heard(ok=False)]
    turns += [said(ToolCall("python")), heard(ok=False, timed_out=True), said(ToolCall("x", {}, "unknown")), heard()]
    turns += [said(None)]
    trajectory = Trajectory(Task("t", "?", ("1",)), turns, 1.1, stop=StopReason.ANSWERED, answer="1", tool_calls=3)
    trajectory.seconds = {"generation": 1.0, "tools": 0.5, "reward": 9.0}
    sample = make_sample(trajectory, 2, 5)
    assert sample.calls == {"ok": 1, "error": 1, "timeout": 1, "invalid": 1}
    assert (sample.score, sample.tokens, sample.seconds, sample.key) == (1.0, 15, 1.5, ("t", 2))
    assert json.dumps(sample.trajectory)
    trajectory.usage = {"tokens": 99}
    trajectory.reward, trajectory.stop = None, StopReason.INFRASTRUCTURE
    assert (make_sample(trajectory, 2, 5).tokens, make_sample(trajectory, 2, 5).score) == (99, None)
