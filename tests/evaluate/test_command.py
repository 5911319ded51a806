"""`aster eval` as it is typed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aster_env.cli import main
from aster_env.errors import UnknownNameError, UsageError
from aster_env.evaluate.command import read_settings
from aster_env.evaluate.records import SAMPLES, read_run
from aster_env.making import make_envs
from tests.evaluate.agents import ENVIRONMENT

ROOT = Path(__file__).parents[2]
BY_SEED = "tests.evaluate.agents:by_seed"
MATH = {"policy": BY_SEED}


def aster(*words):
    return main(["eval", *map(str, words)])


def test_a_run_reports_and_goes_on(tmp_path, capsys):
    command = (ENVIRONMENT, "--policy", BY_SEED, "--k", 2, "--out", tmp_path)
    assert aster(*command) == 0
    said = capsys.readouterr()
    assert "avg@2" in said.out
    assert "tasks  12/12" in said.err
    assert {path.name for path in tmp_path.iterdir()} >= {
        "run.json",
        SAMPLES,
        "report.json",
        "report.md",
        "report.html",
    }
    assert aster(*command, "--json") == 0
    (summary,) = json.loads(capsys.readouterr().out)["summaries"]
    assert (summary["samples"], summary["problems"]) == (12, 6)
    assert aster("report", tmp_path) == 0
    assert "avg@2" in capsys.readouterr().out
    assert aster(*command[:-1], tmp_path, "--seed", 5) == 2
    assert "another seed: was 0, is 5" in capsys.readouterr().err


def test_two_runs_are_compared(tmp_path, capsys):
    for seed in (0, 1):
        assert aster(ENVIRONMENT, "--policy", BY_SEED, "--k", 4, "--seed", seed, "--out", tmp_path / str(seed)) == 0
    capsys.readouterr()
    out = tmp_path / "compared"
    assert aster("compare", tmp_path / "0", tmp_path / "1", "--json", "--out", out) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["wins"] + found["losses"] + found["ties"] == found["problems"] == 6
    assert (out / "compare.html").is_file()
    assert aster("compare", tmp_path / "0", tmp_path / "1") == 0
    assert "paired permutation" in capsys.readouterr().out
    more = ("--env-kwargs", '{"size": 4}', "--out", tmp_path / "other")
    assert aster(ENVIRONMENT, "--policy", BY_SEED, *more) == 0
    assert aster("compare", tmp_path / "0", tmp_path / "other") == 2
    assert "differ in tasks" in capsys.readouterr().err
    assert aster("compare", tmp_path / "0", tmp_path / "other", "--anyway") == 0


def test_one_run_is_compared_with_that_of_its_task_set_among_several(tmp_path, capsys):
    several = tmp_path / "several"
    for folder in (several / "tasks", several / "more", tmp_path / "alone"):
        assert aster(ENVIRONMENT, "--policy", BY_SEED, "--out", folder) == 0
    capsys.readouterr()
    assert aster("compare", several, tmp_path / "alone", "--json", "--out", tmp_path / "out") == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["a"], found["ties"]) == (str(several / "tasks"), 6)
    assert (tmp_path / "out/tasks/compare.html").is_file()


def test_without_a_folder_a_new_one_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert aster(ENVIRONMENT, "--policy", BY_SEED, "--limit", 1) == 0
    (folder,) = (tmp_path / "runs/eval").iterdir()
    assert folder.name.startswith("Echo-v0-20")
    assert len(read_run(folder).samples) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([ENVIRONMENT], "No policy was given"),
        (["repotr", "x"], "Did you mean 'report'"),
        (["report"], "takes 1 folder, and got 0"),
        (["compare", "x"], "takes 2 folders, and got 1"),
        (["report", "nowhere"], "There is no run in 'nowhere'"),
        (["report", "nowhere", "--k", "3"], "--k does not apply to `aster eval report`. Allowed: --json"),
        ([ENVIRONMENT, "--policy", BY_SEED, "--anyway"], "--anyway applies to"),
        ([ENVIRONMENT, "--policy", BY_SEED, "--k", "0"], "k=0 is not allowed"),
        ([ENVIRONMENT, "--policy", BY_SEED, "--max-seconds", "nan"], "max_seconds=nan is not allowed"),
        ([ENVIRONMENT, "--policy", BY_SEED, "--budgets", "99999"], "budgets: 99999 is not allowed"),
        ([ENVIRONMENT, "--policy", BY_SEED, "--protocol", "astre"], "Did you mean 'aster'"),
        ([ENVIRONMENT, "--policy", BY_SEED, "--protocol", "aster"], "has no tasks for"),
        ([ENVIRONMENT, "--policy", BY_SEED, "--protocol", "aster", "--tasks", "aime24"], "has no tasks for"),
        ([ENVIRONMENT, "--policy", BY_SEED, "--env-kwargs", '{"max_tokens": 5}'], "Fix: pass --max-tokens"),
        ([ENVIRONMENT, "--policy", BY_SEED, "--tasks", "a/x.jsonl", "b/x.jsonl"], "Two task sets are called 'x'"),
        (["ASTER/PythonMaths-v0", "--policy", BY_SEED], "ASTER/PythonMath-v0"),
        (["ASTER/PythonMath-v0", "--policy", BY_SEED, "--tasks", "aime24=nowhere.jsonl"], "There is no file"),
    ],
)
def test_what_cannot_work_is_told_with_the_fix(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert aster(*words) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("text", ["{", "[1]", "3"])
def test_options_in_json_must_be_objects(text, capsys):
    with pytest.raises(SystemExit):
        aster(ENVIRONMENT, "--policy", BY_SEED, "--env-kwargs", text)
    assert "--env-kwargs" in capsys.readouterr().err


def test_asters_protocol_is_as_published():
    found = read_settings("ASTER/PythonMath-v0", {**MATH, "protocol": "aster"})
    assert (found.k, found.sampling.temperature, found.sampling.top_p) == (16, 0.6, 0.95)
    assert (found.sampling.max_tokens, found.budgets, found.max_tool_calls) == (92160, (30720, 92160), 50)
    assert found.tasks == ("aime24", "aime25", "hmmt25", "beyond_aime")


def test_tool_stars_protocol_is_as_published_and_its_environment_takes_it():
    found = read_settings("ASTER/MultiTool-v0", {**MATH, "protocol": "tool-star", "modules": ["backtracker"]})
    assert (found.k, found.sampling.temperature, found.max_tool_calls) == (1, 0.0, 6)
    assert found.env_kwargs["tool_limits"] == {"python": 3, "search": 3}
    assert found.modules == ("backtracker",)
    assert found.tasks[:4] == ("gsm8k", "math500", "aime24", "aime25")
    assert found.tasks[4:] == ("hotpotqa", "2wikimultihopqa", "bamboogle", "musique")
    (env,) = make_envs("ASTER/MultiTool-v0", 1, {**found.env_kwargs, "world": {"passages": 300}})
    assert env.limits.tool_limits == {"python": 3, "search": 3}


def test_an_unknown_module_is_refused_by_its_name():
    with pytest.raises(UnknownNameError, match="Did you mean 'backtracker'"):
        read_settings("ASTER/MultiTool-v0", {**MATH, "modules": ["backtraker"]})


def test_modules_are_refused_with_a_chat_endpoint_before_it_is_asked():
    given = {"policy": "chat", "model": "m", "url": "http://127.0.0.1:9/v1", "modules": ["backtracker"]}
    with pytest.raises(UsageError, match="need a policy that takes token ids"):
        read_settings("ASTER/MultiTool-v0", given)
    assert read_settings("ASTER/MultiTool-v0", {**given, "modules": []}).policy.kind == "chat"


def test_what_is_given_goes_over_the_protocol():
    given = {**MATH, "protocol": "aster", "k": 2, "tasks": ["gsm8k"], "max_tokens": 40_000}
    found = read_settings("ASTER/PythonMath-v0", given)
    assert (found.k, found.tasks, found.budgets, found.sampling.max_tokens) == (2, ("gsm8k",), (30720,), 40_000)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_closes_every_session_and_says_how_to_go_on(tmp_path, number, status):
    words = ["ASTER/PythonMath-v0", "--policy", "tests.evaluate.agents:sleeps_in_python", "--out", str(tmp_path)]
    command = [sys.executable, "-m", "aster_env.cli", "eval", *words, "--limit", "2", "--concurrency", "2"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stderr=pipe, stdout=pipe, text=True, start_new_session=True) as process:
        deadline = time.monotonic() + 60
        while sum(memory(pid) > 400_000_000 for pid in descendants(process.pid)) < 2:  # both cells run
            assert time.monotonic() < deadline, process.poll()
            time.sleep(0.02)  # polling with a deadline, not waiting for luck
        children = descendants(process.pid)
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    assert process.returncode == status, said
    assert "To go on:" in said
    assert str(tmp_path) in said
    assert "Traceback" not in said
    deadline = time.monotonic() + 5  # whoever inherits an orphan takes a moment to collect it
    while (
        left := [state for pid in children if (state := state_of(pid)) not in ("", "Z")]
    ) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left


def state_of(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def memory(pid):
    """Bytes that a process has in memory."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def descendants(pid):
    """The processes that a process started, and theirs."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue
        if int(text.rpartition(")")[2].split()[1]) == pid:
            child = int(stat.parent.name)
            found += [child, *descendants(child)]
    return [each for each in found if each != os.getpid()]
