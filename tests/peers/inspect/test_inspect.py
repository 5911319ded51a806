"""Inspect AI's own evaluation loop over the adapter, with its mock model."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from inspect_ai import eval as evaluate
from inspect_ai.model import ModelOutput, ModelUsage, get_model
from inspect_ai.solver import generate

from aster_env.adapters import inspect_task
from aster_env.adapters.inspect_task import aster
from aster_env.adapters.session import shared_session
from aster_env.errors import UsageError
from tests.examples import endpoint
from tests.peers.processes import descendants

# Inspect's own: a deprecated argument of a library of its, and streams that it leaves to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def collected():
    """Collect those streams while their warnings are still ignored."""
    yield
    gc.collect()


ENV = "ASTER/PythonMath-v0"
KWARGS = {"task_options": {"size": 4}}


def asked(messages):
    """Return the gold answer of what a conversation asks."""
    tasks = shared_session(ENV, KWARGS).tasks
    return next(task.answers[0] for task in tasks if any(task.prompt in m.text for m in messages))


def calls(code, name="python"):
    return spent(ModelOutput.for_tool_call("mockllm", name, {"code": code}))


def says(text):
    return spent(ModelOutput.from_content("mockllm", text))


def spent(output):
    """Say how many tokens there were: the mock model would count them with a tokenizer that it has to download."""
    output.usage = ModelUsage()
    return output


def results(messages):
    return [message.text for message in messages if message.role == "tool"]


def run(folder, plays, kwargs=KWARGS, **options):
    def generated(messages, tools, choice, config):
        return plays(messages)

    model = get_model("mockllm/model", custom_outputs=generated, memoize=False)
    options = {"display": "none", "log_dir": str(folder), "fail_on_error": False, **options}
    (log,) = evaluate(aster(ENV, kwargs), model=model, **options)
    return log


def scores(log):
    return [sample.scores["environment"] for sample in log.samples]


def test_right_answers_score_one_and_state_lasts_from_call_to_call(tmp_path):
    alive = []

    def plays(messages):
        alive.append(len(descendants()))
        said = results(messages)
        steps = [calls(f"x = {asked(messages)}"), calls("print(x)")]
        return steps[len(said)] if len(said) < 2 else says(f"It is \\boxed{{{said[-1]}}}.")

    before = descendants().keys()
    log = run(tmp_path, plays)
    assert [sample.error for sample in log.samples] == [None] * 4
    assert log.results.scores[0].metrics["mean"].value == 1.0
    assert [score.metadata["tool_calls"] for score in scores(log)] == [2] * 4
    assert {score.metadata["stop"] for score in scores(log)} == {"answered"}
    assert max(alive) > len(before)
    assert descendants().keys() <= before


def test_wrong_answers_and_none_score_zero(tmp_path):
    def plays(messages):
        return says("It is \\boxed{-1}." if int(asked(messages)) % 2 else "I do not know.")

    log = run(tmp_path, plays)
    assert [score.value for score in scores(log)] == [0.0] * 4
    assert {score.metadata["stop"] for score in scores(log)} <= {"answered", "void_turn"}


def test_a_long_episode_is_not_ended_by_its_bytes(tmp_path):
    def plays(messages):
        return calls("#" + "y" * 10_000) if len(results(messages)) < 4 else says(f"\\boxed{{{asked(messages)}}}")

    log = run(tmp_path, plays, limit=1)
    assert [(score.value, score.metadata["stop"]) for score in scores(log)] == [(1.0, "answered")]


def test_the_models_mistakes_are_told_and_limits_end_the_episode(tmp_path):
    heard = []

    def plays(messages):
        heard.extend(results(messages)[-1:])
        return calls("1", name="bash") if len(results(messages)) < 2 else calls("print(1)")

    log = run(tmp_path, plays, {**KWARGS, "max_tool_calls": 2}, limit=1)
    assert "Unknown tool 'bash'" in heard[0]
    assert [score.metadata["stop"] for score in scores(log)] == ["max_tool_calls"]
    assert [score.value for score in scores(log)] == [0.0]


def test_a_failure_outside_the_model_is_an_error_of_the_sample_and_never_a_score(tmp_path):
    broken = {**KWARGS, "pool": "gateway", "pool_options": {"url": "http://127.0.0.1:9"}}
    heard = []

    def plays(messages):
        heard.extend(results(messages))
        return calls("print(1)")

    log = run(tmp_path, plays, broken, limit=2)
    assert [sample.scores for sample in log.samples] in ([None, None], [{}, {}])
    assert all("KernelError" in sample.error.traceback for sample in log.samples)
    assert heard == []


def test_a_limit_of_inspects_ends_the_sessions_too(tmp_path):
    before = descendants().keys()
    log = run(tmp_path, lambda messages: calls("x = 1"), limit=2, message_limit=6)
    assert {sample.limit.type for sample in log.samples} == {"message"}
    assert [score.value for score in scores(log)] == [0.0, 0.0]
    assert descendants().keys() <= before


def test_another_solvers_last_output_is_judged_as_an_answer(tmp_path):
    log = run(tmp_path, lambda messages: says(f"\\boxed{{{asked(messages)}}}"), solver=generate(), limit=2)
    assert [score.value for score in scores(log)] == [1.0, 1.0]


def test_arguments_that_a_log_cannot_hold_are_refused():
    with pytest.raises(UsageError, match="what JSON can hold"):
        aster(ENV, {"tasks": object()})


def test_the_command_line_runs_it_against_an_endpoint(tmp_path):
    def plays(request):
        said = endpoint.results(request["messages"])
        return endpoint.says(f"\\boxed{{{said[0]}}}") if said else endpoint.calls("print(6 * 7)")

    root = Path(__file__).parents[3]
    command = [Path(sys.executable).with_name("inspect"), "eval", Path(inspect_task.__file__).relative_to(root)]
    options = ["-T", f"env_id={ENV}", "-T", "env_kwargs={task_options: {size: 2}}", "--limit", "1", "--display", "none"]
    with endpoint.endpoint(plays) as url:
        model = ["--model", "openai-api/local/scripted", "--model-base-url", url]
        done = subprocess.run(
            [*command, *options, *model, "--log-dir", tmp_path, "--log-format", "json"],
            cwd=root,
            env={**os.environ, "LOCAL_API_KEY": "none"},
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.glob("*.json")
    (sample,) = json.loads(path.read_text())["samples"]
    score = sample["scores"]["environment"]
    assert (score["value"], score["answer"], score["metadata"]["tool_calls"]) == (0, "42", 1)
