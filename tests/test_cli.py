from __future__ import annotations

import json
import subprocess
import sys

import pytest

from aster_env import cli


def test_an_unknown_subcommand_offers_the_nearest(capsys):
    assert cli.main(["docter"]) == 2
    error = capsys.readouterr().err
    assert "'docter'" in error
    assert "Did you mean 'doctor'?" in error
    assert "'bench'" in error


def test_without_a_subcommand_the_help_is_printed(capsys):
    assert cli.main([]) == 2
    printed = capsys.readouterr().out
    assert all(name in printed for name in cli.COMMANDS)


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_subcommand_has_help(name, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    assert ended.value.code == 0
    assert f"aster {name}" in capsys.readouterr().out


def test_a_value_that_is_not_allowed_is_named_with_the_nearest(capsys):
    assert cli.main(["doctor", "--isolation", "confned"]) == 2
    assert "Did you mean 'confined'?" in capsys.readouterr().err


def test_bench_lists_its_benchmarks_and_offers_the_nearest(capsys):
    assert cli.main(["bench"]) == 0
    assert "kernels" in capsys.readouterr().out.split()
    assert cli.main(["bench", "kernls"]) == 2
    assert "Did you mean 'kernels'?" in capsys.readouterr().err


def test_an_installed_package_says_where_its_benchmarks_are(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "aster_env" / "cli.py"))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench", "kernels"]) == 2
    assert "checkout" in capsys.readouterr().err


def test_the_command_starts_without_loading_anything_heavy():
    code = "import sys, aster_env.cli; print(sorted({'torch', 'numpy.random', 'zmq', 'IPython'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torch" not in done.stdout
    assert "IPython" not in done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="the pool that is measured needs Linux")
def test_bench_kernels_runs_every_measure_and_writes_json(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench", "kernels", "--quick", "--json", "numbers.json"]) == 0
    printed = capfd.readouterr().out
    numbers = json.loads((tmp_path / "numbers.json").read_text(encoding="utf-8"))
    assert len(numbers["goals"]) == 12
    for row in numbers["goals"]:
        assert row["goal"] in printed
        assert row["value"] is not None or row["unit"] == "MB", row  # memory is another user's in some modes
    assert numbers["many"]["left_after_close"] == 0
    assert {"ipykernel", "pipe worker"} <= set(numbers)


def test_kernelspec_installs_a_kernel_that_jupyter_lists(tmp_path, capsys):
    assert cli.main(["kernelspec", "--prefix", str(tmp_path)]) == 0
    folder = tmp_path / "share" / "jupyter" / "kernels" / "aster"
    assert str(folder) in capsys.readouterr().out
    spec = json.loads((folder / "kernel.json").read_text(encoding="utf-8"))
    assert spec["metadata"]["kernel_provisioner"]["provisioner_name"] == "aster-zygote"
