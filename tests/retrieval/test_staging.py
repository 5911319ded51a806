"""Folders that appear whole: what a killed process leaves goes, what a living one builds stays."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from aster_env.errors import UsageError
from aster_env.retrieval.staging import check_free, put, staged

BUILDS = (
    "import sys, time; from pathlib import Path; from aster_env.retrieval.staging import staged\n"
    "with staged(Path(sys.argv[1])) as built:\n    built.mkdir(); print('built', flush=True); time.sleep(60)"
)


def leftovers(folder):
    return [path for path in folder.parent.iterdir() if path.name.startswith(f".{folder.name}-")]


def build(folder):
    with staged(folder) as built:
        built.mkdir()
        (built / "part").write_text("whole")
        put(built, folder)


def test_what_a_killed_build_left_is_removed_by_the_next_and_a_living_one_is_not(tmp_path):
    folder = tmp_path / "made"
    with subprocess.Popen([sys.executable, "-c", BUILDS, str(folder)], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"built\n"
        (living,) = leftovers(folder)
        build(tmp_path / "other")
        build(folder)
        assert leftovers(folder) == [living]
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert leftovers(folder) == [living]
    (folder / "part").unlink()
    build(folder)
    assert leftovers(folder) == []
    assert (folder / "part").read_text() == "whole"


def fail(folder, error):
    with staged(folder) as built:
        built.mkdir()
        raise error


def test_a_build_that_fails_leaves_nothing_and_disk_errors_say_the_fix(tmp_path):
    with pytest.raises(UsageError, match=r"No space left.*Fix: see that the disk has room"):
        fail(tmp_path / "made", OSError(28, "No space left on device"))
    with pytest.raises(ZeroDivisionError):
        fail(tmp_path / "made", ZeroDivisionError())
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_overwritten(tmp_path):
    (tmp_path / "made").mkdir()
    check_free(tmp_path / "made")
    (tmp_path / "made" / "mine").write_text("x")
    with pytest.raises(UsageError, match="is there already"):
        check_free(tmp_path / "made")
