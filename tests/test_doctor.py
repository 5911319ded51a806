from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement

from aster_env import cli, doctor
from aster_env.doctor import findings, machine, packages, services
from aster_env.doctor.findings import Finding, clean, output
from aster_env.doctor.packages import installed, requirements
from aster_env.doctor.sandbox import Sandbox

KEY = "sk-secret-of-the-tests-31415"
CSV = "NVIDIA H100 80GB HBM3, 81559, {driver}"
HEADER = "| NVIDIA-SMI {driver}     Driver Version: {driver}     CUDA Version: {cuda}     |"


@contextlib.contextmanager
def answering(status=200, body=b"", drip=False):
    """A real server with one reply; it collects the headers that it was sent."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append((self.path, dict(self.headers)))
            self.send_response(status)
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body)
                while drip:
                    self.wfile.write(b" ")
                    time.sleep(0.05)  # a server that is slow on purpose

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1", seen
        server.shutdown()


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    for variable in (*services.KEYS, *services.BASES):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(services, "ENDPOINT_SECONDS", 0.5)


def ask(*urls):
    return list(services.endpoints(urls))


def program(folder, monkeypatch, text):
    """Put an nvidia-smi first on the path."""
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(machine, "NVIDIA_SMI", 1.0)


def graphics(folder, monkeypatch, built, driver="550.54", cuda="12.4"):
    rows, header = CSV.format(driver=driver), HEADER.format(driver=driver, cuda=cuda)
    program(folder, monkeypatch, f'case "$*" in *query*) echo "{rows}";; *) echo "{header}";; esac')
    monkeypatch.setattr(machine, "_torch_cuda", lambda: built)
    return list(machine.gpu())


def test_a_driver_that_runs_torch_s_cuda_is_fine_and_an_older_one_is_not(tmp_path, monkeypatch):
    card, fit = graphics(tmp_path, monkeypatch, built="12.8")
    assert (card.status, fit.status) == ("ok", "ok")
    assert "NVIDIA H100 80GB HBM3, 80 GiB, driver 550.54" in card.says
    fit = graphics(tmp_path, monkeypatch, built="13.0")[1]
    assert fit.status == "bad"
    assert "built for CUDA 13.0, and the driver runs up to 12.4" in fit.says
    assert fit.fix
    without = graphics(tmp_path, monkeypatch, built=None)[1]
    assert (without.status, without.says) == ("bad", "it is built without CUDA")


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("sleep 1000", "did not answer within 1 s"),
        ("sleep 1000 & exec sleep 1000", "did not answer within 1 s"),
        ("yes", "nvidia-smi says: y y y"),
        ("printf '\\033[31m\\377garbage\\0'; exit 9", "nvidia-smi says: [31m"),
        (
            "echo NVIDIA-SMI has failed because it could not communicate with the driver.; exit 9",
            "could not communicate",
        ),
        ("exit 0", "nvidia-smi says: nothing"),
        ("echo a, b, c", "nvidia-smi says: a, b, c"),
    ],
)
def test_an_nvidia_smi_that_hangs_or_prints_garbage_is_told_in_time(tmp_path, monkeypatch, script, expected):
    program(tmp_path, monkeypatch, script)
    began = time.monotonic()
    (found,) = machine.gpu()
    assert time.monotonic() - began < 3
    assert found.status == "bad"
    assert expected in found.says
    assert found.says.isprintable()
    assert found.fix


def test_an_nvidia_smi_that_is_no_program_is_told(tmp_path, monkeypatch):
    program(tmp_path, monkeypatch, "")
    (tmp_path / "nvidia-smi").write_bytes(b"\x7fELF nothing")
    (found,) = machine.gpu()
    assert (found.status, "could not be started" in found.says) == ("bad", True)


def test_no_gpu_is_nothing_wrong_unless_torch_expects_one(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(machine, "_torch_cuda", lambda: None)
    assert [found.status for found in machine.gpu()] == ["absent"]
    monkeypatch.setattr(machine, "_torch_cuda", lambda: "13.0")
    assert [found.status for found in machine.gpu()] == ["warn"]


def test_torch_s_cuda_is_read_without_importing_it(tmp_path, monkeypatch):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    for text, expected in (
        ("from typing import Optional\ncuda: Optional[str] = '12.8'\n", "12.8"),
        ("cuda = '13.0'\n", "13.0"),
        ("cuda = None\n", None),
        ("cuda = (\n", None),
        ("x.y = 1\n", None),
    ):
        (tmp_path / "torch" / "version.py").write_text(text)
        assert machine._torch_cuda() == expected


def test_an_endpoint_that_serves_is_fine_and_is_sent_the_key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with answering(body=b'{"data": [{"id": "a-model"}, {"id": "b\\u001b[31m"}]}') as (url, seen):
        (found,) = ask(url)
    assert found.status == "ok"
    assert found.says.endswith("s: a-model, b [31m")
    assert seen[0][0] == "/v1/models"
    assert seen[0][1]["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ({"status": 401}, "asks for a key, and OPENAI_API_KEY is not set"),
        ({"status": 500, "body": b"x"}, "HTTP 500"),
        ({"status": 302}, "HTTP 302"),
        ({"body": b"<html>"}, "does not list models"),
        ({"body": b"[" * 100_000}, "does not list models"),
        ({"body": b'{"data": 7}'}, "does not list models"),
        ({"body": b"x" * (3 << 20)}, "does not list models"),
        ({"body": b'{"data": [', "drip": True}, "no answer within 0.5 s"),
    ],
)
def test_an_endpoint_that_does_not_serve_says_why_and_what_to_do(reply, expected):
    began = time.monotonic()
    with answering(**reply) as (url, _):
        (found,) = ask(url)
    assert time.monotonic() - began < 5
    assert found.status == "bad"
    assert expected in found.says
    assert found.fix


@pytest.mark.parametrize("end", ["", "/", "/v1/", "/v1/completions", "/v1/chat/completions"])
def test_an_endpoint_is_asked_at_the_address_that_an_evaluation_takes(end):
    with answering(body=b'{"data": [{"id": "m"}]}') as (url, seen):
        (found,) = ask(url.removesuffix("/v1") + end)
    assert (found.status, found.name, seen[0][0]) == ("ok", url, "/v1/models")


def test_an_endpoint_that_never_answers_is_not_waited_for():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent_url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        with socket.create_server(("127.0.0.1", 0)) as probe:
            closed_url = f"http://127.0.0.1:{probe.getsockname()[1]}/v1"
        found = {line.name: line.says for line in ask(silent_url, closed_url)}
    assert "no answer within" in found[silent_url]
    assert "cannot be reached: ConnectError" in found[closed_url]


def test_a_well_known_variable_is_asked_but_only_a_named_endpoint_is_demanded(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    (found,) = ask()
    assert (found.status, found.demanded) == ("bad", False)
    assert doctor.Report([found], Sandbox(starts=True)).fine
    (found,) = ask("http://127.0.0.1:1/v1")
    assert found.demanded
    assert not doctor.Report([found], Sandbox(starts=True)).fine


@pytest.mark.parametrize("url", ["", "nonsense", "ftp://host/v1", "http://", "http://[", "\x00", "http://a b/"])
def test_what_is_no_address_is_told(url):
    (found,) = ask(url)
    assert found.status == "bad"
    assert found.fix


def test_no_key_appears_anywhere_whatever_a_server_says(monkeypatch, capsys):
    for variable in services.KEYS:
        monkeypatch.setenv(variable, f"{KEY}-{variable.lower()}")
    monkeypatch.setenv("WANDB_API_KEY", f"{KEY}\n")
    monkeypatch.setenv("SOME_OTHER_TOKEN", "another-secret")
    monkeypatch.setattr(doctor, "installed", lambda: iter(()))
    monkeypatch.setattr(doctor, "examine_sandbox", lambda *_: Sandbox(starts=True, pool="it starts"))
    told = json.dumps({"data": [{"id": f"model-{KEY}-openai_api_key"}, {"id": "another-secret"}]}).encode()
    parser = argparse.ArgumentParser()
    cli.add_doctor(parser)
    with answering(body=told) as (url, _):
        address = url.replace("http://", "http://user:pass-of-url@") + "?api_key=in-the-query"
        for flags in ([], ["--json"]):
            options = parser.parse_args([*flags, "--endpoint", address])
            assert options.run(options) == 0
            printed = capsys.readouterr()
            for secret in (KEY, "31415", "another-secret", "pass-of-url", "in-the-query"):
                assert secret not in printed.out + printed.err
            assert "OPENAI_API_KEY" in printed.out
            assert "[hidden]" in printed.out
    report = json.loads(printed.out)
    states = {found["name"]: found["status"] for found in report["findings"] if found["area"] == "Keys"}
    assert states["OPENAI_API_KEY"] == "ok"
    assert states["WANDB_API_KEY"] == "warn"


def test_a_broken_import_is_told_with_its_last_line_and_a_slow_one_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for name, text in {
        "broken": "raise ImportError('libcudart.so.13: cannot open shared object file')",
        "slow": "while True: pass",
        "fine": "",
        "killed": "import os; os._exit(5)",
    }.items():
        (tmp_path / f"{name}.py").write_text(text)
    names = ("broken", "slow", "fine", "killed")
    monkeypatch.setattr(packages, "IMPORTED", {name: name for name in names})
    monkeypatch.setattr(packages, "IMPORT_SECONDS", 1.5)
    found = {line.name: line for line in packages._imports(names)}
    assert found["import broken"].status == "bad"
    assert found["import broken"].says == "ImportError: libcudart.so.13: cannot open shared object file"
    assert "pip install --force-reinstall broken" in found["import broken"].fix
    assert (found["import killed"].status, found["import killed"].says) == ("bad", "it ended with status 5")
    assert found["import fine"].status == "ok"
    assert (found["import slow"].status, found["import slow"].says) == (
        "absent",
        "not known: it takes longer than 1.5 s",
    )


def distribution(folder, name, version, *lines):
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    text = "\n".join([f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}", *lines])
    (info / "METADATA").write_text(text + "\n")


def test_a_package_out_of_range_or_at_odds_with_another_is_told(tmp_path, monkeypatch):
    distribution(tmp_path, "vllm", "0.25.0", "Requires-Dist: torch==1.0")
    distribution(tmp_path, "trackio", "0.1.0")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(packages, "IMPORTED", {"vllm": "vllm"})
    monkeypatch.setattr(packages, "_imports", lambda _: iter(()))
    found = {line.name: line for line in installed()}
    assert found["always"].status == "ok"
    assert found["train"].status == "ok"
    assert found["vllm"].status == "warn"
    assert "vllm needs torch==1.0" in found["vllm"].says
    assert "trackio 0.1.0 is installed, and >=0.5 is needed" in found["trackio"].says
    assert found["trackio"].fix == "pip install 'aster-gym[trackio]'"
    assert "dev" not in requirements()


def test_an_extra_is_absent_where_its_own_package_is(monkeypatch):
    needed = {"": [Requirement("numpy")]}
    needed |= {"inspect": [Requirement("inspect-not-there"), Requirement("numpy")]}
    needed |= {"web": [Requirement("pages-not-there"), Requirement("numpy")]}
    monkeypatch.setattr(packages, "requirements", lambda: needed)
    found = {line.name: (line.status, line.says) for line in installed()}
    assert found["inspect"] == ("absent", "not installed: inspect-not-there")
    assert found["web"] == ("warn", "pages-not-there is not installed")


def test_a_disk_that_is_full_or_closed_or_gone_is_told(tmp_path, monkeypatch):
    assert machine._disk("x", tmp_path / "not" / "yet", 1, "fix").status == "ok"
    full = machine._disk("x", tmp_path, 1 << 60, "free some")
    assert (full.status, full.fix) == ("bad", "free some (df -h shows all)")
    monkeypatch.setattr(machine.os, "access", lambda *_: False)
    assert "nothing may be written" in machine._disk("x", tmp_path, 1, "fix").says


def test_the_least_limit_of_all_control_groups_counts(tmp_path):
    own = tmp_path / "own"
    own.write_text("0::/a/b\n")
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "memory.max").write_text("max\n")
    assert machine.memory_limit(str(tmp_path), str(own)) is None
    (tmp_path / "a" / "memory.max").write_text("1024\n")
    assert machine.memory_limit(str(tmp_path), str(own)) == 1024
    own.write_text("5:cpu,memory:/a\n")
    (tmp_path / "memory" / "a").mkdir(parents=True)
    (tmp_path / "memory" / "a" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("77\n")
    assert machine.memory_limit(str(tmp_path), str(own)) == 77
    assert machine.memory_limit(str(tmp_path), str(tmp_path / "none")) is None


def test_a_section_that_hangs_is_told_in_time_and_the_others_are_not_lost(monkeypatch):
    gate = threading.Event()

    def hanging():
        yield Finding("Disk", "runs", "ok", "fine")
        gate.wait(30)

    monkeypatch.setattr(doctor, "disks", hanging)
    monkeypatch.setattr(doctor, "installed", lambda: iter(()))
    monkeypatch.setattr(doctor, "PATIENCE", 1.0)
    began = time.monotonic()
    found = [line for line in doctor.examine(system="darwin").findings if line.area == "Disk"]
    assert time.monotonic() - began < 3
    gate.set()
    assert [(line.name, line.status) for line in found] == [("runs", "ok"), ("all of it", "bad")]


@pytest.mark.skipif(sys.platform != "linux", reason="the default pool needs Linux")
def test_every_line_that_is_not_fine_says_how_to_mend_it():
    report = doctor.examine()
    for found in report.findings:
        assert found.status in doctor.STATUSES
        assert found.says
        assert found.fix or found.status in ("ok", "absent"), found
    assert {found.area for found in report.findings} == set(doctor.AREAS)
    assert all(area in doctor.text(report) for area in doctor.AREAS)
    assert json.loads(json.dumps(report.as_json()))["starts"] == report.starts


@given(st.text())
def test_what_is_shown_is_one_bounded_line(text):
    shown = clean(text, 50)
    assert len(shown) <= 50
    assert shown.isprintable()
    assert shown == clean(shown, 50)


def test_a_program_is_bounded_in_time_and_in_output_and_leaves_no_child():
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        output(["sh", "-c", "sleep 987 & echo started; wait"], 0.5)
    status, printed = output(["sh", "-c", "exec yes"], 5)
    assert time.monotonic() - began < 5
    assert status != 0
    assert len(printed) < 2 * findings.MOST + 1
    assert output(["sh", "-c", "echo out; echo err >&2; exit 3"], 5) == (3, "out\nerr\n")
