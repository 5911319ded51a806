from __future__ import annotations

import os
import sys
import tempfile

import pytest

from aster_env import doctor
from aster_env.doctor.sandbox import MENDS, examine_sandbox
from tests.kernels.servers import below, wait_until

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


def told(sandbox):
    return doctor.text(doctor.Report(sandbox=sandbox))


@linux
def test_it_tells_every_layer_and_what_it_leaves_open_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = below(os.getpid())
    found = examine_sandbox()
    assert {layer.name for layer in found.layers} >= set(doctor.LEFT_OPEN) == set(MENDS)
    for layer in found.layers:
        assert layer.reason
        assert bool(layer.open) != layer.on
        assert bool(layer.fix) != layer.on
    assert [attempt.mode for attempt in found.attempts] == ["privileged", "userns", "confined"]
    assert [attempt.mode for attempt in found.attempts if attempt.works] == [found.mode]
    wait_until(lambda: not below(os.getpid()) - before)
    assert not list(tmp_path.iterdir())


@linux
def test_a_weaker_mode_shows_what_it_leaves_open():
    found = examine_sandbox("confined")
    if not found.starts:
        pytest.skip("this machine has no Landlock or no seccomp")
    printed = told(found)
    assert "OFF   mounts" in printed
    assert doctor.LEFT_OPEN["mounts"] in printed
    assert "not tried: confined was asked for" in printed
    assert "on    seccomp" in printed


@linux
def test_a_machine_where_no_mode_works_is_told_without_a_traceback(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")
    found = examine_sandbox()
    assert not found.starts
    printed = told(found)
    assert "no mode works" in printed
    assert "fails confined" in printed
    assert "FAILS" in printed
    assert "/nonexistent" in printed


def test_a_system_other_than_linux_is_told_without_a_traceback():
    found = examine_sandbox(system="darwin")
    assert not found.starts
    assert not any(layer.on for layer in found.layers)
    printed = told(found)
    assert "needs Linux, and this is darwin" in printed
    assert "left open" not in printed
