"""The command's own errors, before anything is served."""

from __future__ import annotations

import argparse

import pytest

from aster_env.errors import UsageError
from aster_env.listening import read_token
from aster_env.serve import openenv_command


def options(*arguments):
    parser = argparse.ArgumentParser()
    openenv_command.add_arguments(parser)
    return parser.parse_args(["ASTER/PythonMath-v0", "--port", "0", *arguments])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--env-kwargs", "{"], "not JSON"),
        (["--env-kwargs", "[]"], "a JSON object"),
        (["--env-kwargs", '{"max_calls": 1}'], "max_tool_calls"),
        (["--env-kwargs", '{"view": "text"}'], "leave it out"),
        (["--max-sessions", "0"], "at least 1"),
        (["--per-client", "0"], "at least 1"),
        (["--idle-seconds", "0"], "above 0"),
        (["--idle-seconds", "nan"], "above 0"),
        (["--port", "99999"], "1 to 65535"),
        (["--token-variable", "ASTER_NOT_SET"], "ASTER_NOT_SET"),
        (["--host", "0.0.0.0"], "asks for no token"),
    ],
)
def test_a_wrong_argument_is_told_with_its_fix(arguments, says):
    given = options(*arguments)
    with pytest.raises(UsageError, match=says):
        given.run(given)


def test_an_unknown_environment_is_told_with_those_there_are():
    given = options()
    given.env_id = "ASTER/PythonMaths-v0"
    with pytest.raises(UsageError, match="ASTER/PythonMath-v0"):
        given.run(given)


def test_a_token_is_not_in_the_error_about_it(monkeypatch):
    monkeypatch.setenv("ASTER_TEST_TOKEN", "two words")
    with pytest.raises(UsageError) as told:
        read_token("ASTER_TEST_TOKEN")
    assert "two" not in str(told.value)
