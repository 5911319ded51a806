from __future__ import annotations

import json
import os
import sys
import tempfile

import pytest

from aster_env import cli, doctor
from tests.kernels.servers import below, wait_until

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


@linux
def test_it_tells_every_layer_and_what_it_leaves_open_and_leaves_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = below(os.getpid())
    status = cli.main(["doctor", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert status == (0 if report["starts"] else 1)
    assert {layer["name"] for layer in report["layers"]} >= set(doctor.LEFT_OPEN)
    for layer in report["layers"]:
        assert layer["reason"]
        assert bool(layer["open"]) != layer["on"]
    assert [attempt["mode"] for attempt in report["attempts"]] == ["privileged", "userns", "confined"]
    assert [attempt["mode"] for attempt in report["attempts"] if attempt["works"]] == [report["mode"]]
    wait_until(lambda: not below(os.getpid()) - before)
    assert not list(tmp_path.iterdir())


@linux
def test_a_weaker_mode_shows_what_it_leaves_open(capsys):
    if cli.main(["doctor", "--isolation", "confined"]) != 0:
        pytest.skip("this machine has no Landlock or no seccomp")
    printed = capsys.readouterr().out
    assert "OFF   mounts" in printed
    assert doctor.LEFT_OPEN["mounts"] in printed
    assert "not tried: confined was asked for" in printed
    assert "on    seccomp" in printed


@linux
def test_a_machine_where_no_mode_works_is_told_without_a_traceback(capsys, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")
    assert cli.main(["doctor"]) == 1
    printed = capsys.readouterr().out
    assert "no mode works" in printed
    assert "fails confined" in printed
    assert "FAILS" in printed
    assert "/nonexistent" in printed


def test_a_system_other_than_linux_is_told_without_a_traceback():
    report = doctor.examine(system="darwin")
    assert not report.starts
    assert not any(layer.on for layer in report.layers)
    printed = doctor.text(report)
    assert "needs Linux, and this is darwin" in printed
    assert "left open" not in printed


def test_optional_packages_are_found_or_said_how_to_get(monkeypatch):
    monkeypatch.setitem(doctor.EXTRAS, "no-such-package-of-aster", "nothing")
    extras = {extra.package: extra for extra in doctor.examine(system="darwin").extras}
    assert extras["no-such-package-of-aster"].version is None
    assert extras["no-such-package-of-aster"].fix == "pip install no-such-package-of-aster"
    assert extras["vllm"].fix == "pip install 'aster-gym[vllm]'"
    assert extras["torch"].fix == "pip install 'aster-gym[train]'"
