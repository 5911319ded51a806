"""OpenEnv's own validation: of the folders, and of a running service."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from openenv.cli.__main__ import app
from typer.testing import CliRunner

ROOT = Path(__file__).parents[3]
FOLDERS = sorted(path.parent for path in (ROOT / "envs").glob("*/openenv.yaml"))


def report(*arguments):
    """Run `openenv validate` in this process, where its imports are there already."""
    done = CliRunner().invoke(app, ["validate", *arguments, "--json"])
    return done.exit_code, json.loads(done.stdout)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_each_folder_passes_whole(folder):
    status, found = report(str(folder), "--level", "static")
    assert status == 0
    assert found["verdict"] == "pass"
    assert found["results"]
    assert all(row["status"] == "pass" for row in found["results"])


def test_each_environment_has_a_folder():
    assert [folder.name for folder in FOLDERS] == ["multi_tool", "python_math", "web_walker", "wiki_qa"]
    for folder in FOLDERS:
        for name in ("models.py", "client.py", "server/app.py", "Dockerfile"):
            assert (folder / name).is_file(), f"{folder.name}/{name}"


def test_a_running_service_passes_whole(server):
    status, found = report("--url", server.url)
    assert status == 0
    assert found["passed"]
    assert found["summary"]["failed_criteria"] == []
    assert found["mode"] == "simulation"


@pytest.mark.parametrize("name", ["multi_tool", "web_walker"])
def test_a_folder_serves_its_environment_from_within(name):
    folder = ROOT / "envs" / name
    command = [sys.executable, "-m", "server.app", "--port", "0"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        try:
            assert report("--url", url)[0] == 0
        finally:
            process.terminate()
        assert process.wait(30) == 0
