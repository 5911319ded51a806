"""The evaluation loop of verifiers over the adapter, with a scripted endpoint."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import aster_gym
import pytest
import verifiers.v1 as vf
from verifiers.v1.clients import EvalClientConfig, ModelContext
from verifiers.v1.utils import loaders

from aster_env.adapters.session import shared_session
from tests.examples.endpoint import calls, endpoint, results, says, text
from tests.peers.processes import descendants

# Deprecations inside verifiers' own libraries.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ENV = "ASTER/PythonMath-v0"
KWARGS = {"task_options": {"size": 4}}


def asked(request):
    """Return the gold answer of what a conversation asks."""
    tasks = shared_session(ENV, KWARGS).tasks
    return next(task.answers[0] for task in tasks if any(task.prompt in text(m) for m in request["messages"]))


def run(plays, kwargs=KWARGS, limit=4):
    """Play one episode for each of the first tasks, all at once, and return their traces."""

    async def episodes(url):
        env = aster_gym.load_environment(env_id=ENV, env_kwargs=kwargs)
        client = EvalClientConfig(base_url=url, api_key_var="NO_KEY")
        context = ModelContext(client=client, model="scripted", sampling=vf.SamplingConfig())
        async with env.serving():
            played = await asyncio.gather(*(env.run_episode(task, context) for task in env.taskset.take(limit)))
        return [trace for episode in played for trace in episode.traces]

    with endpoint(plays) as url:
        return asyncio.run(episodes(url))


def test_the_plug_in_is_found_by_its_name():
    assert loaders.taskset_class("aster-gym") is aster_gym.AsterTaskset
    assert loaders.environment_class("aster-gym") is aster_gym.AsterEnv
    assert loaders.default_harness_id("aster-gym") == "aster-gym"


def test_right_answers_score_one_and_state_lasts_from_call_to_call():
    alive = []

    def plays(request):
        alive.append(len(descendants()))
        said = results(request["messages"])
        steps = [calls(f"x = {asked(request)}"), calls("print(x)")]
        return steps[len(said)] if len(said) < 2 else says(f"It is \\boxed{{{said[-1]}}}.")

    before = descendants().keys()
    traces = run(plays)
    assert [trace.errors for trace in traces] == [[]] * 4
    assert [trace.reward for trace in traces] == [1.0] * 4
    assert [trace.metrics["tool_calls"] for trace in traces] == [2] * 4
    assert {trace.info["aster"]["stop"] for trace in traces} == {"answered"}
    assert max(alive) > len(before)
    assert descendants().keys() <= before


def test_wrong_answers_and_none_score_zero():
    traces = run(lambda request: says("It is \\boxed{-1}." if int(asked(request)) % 2 else "I do not know."))
    assert [trace.reward for trace in traces] == [0.0] * 4
    assert all(trace.ok for trace in traces)


def test_a_long_episode_is_not_ended_by_its_bytes():
    def plays(request):
        said = results(request["messages"])
        return calls("#" + "y" * 10_000) if len(said) < 4 else says(f"\\boxed{{{asked(request)}}}")

    (trace,) = run(plays, limit=1)
    assert (trace.reward, trace.info["aster"]["stop"]) == (1.0, "answered")


def test_the_models_mistakes_are_told_and_limits_end_the_episode():
    heard = []

    def plays(request):
        heard.extend(results(request["messages"])[-1:])
        return [calls("{", argument=None), calls("1", name="bash")][len(heard)] if len(heard) < 2 else calls("1")

    (trace,) = run(plays, {**KWARGS, "max_tool_calls": 2}, limit=1)
    assert "not valid JSON" in heard[0]
    assert "Unknown tool 'bash'" in heard[1]
    assert (trace.reward, trace.info["aster"]["stop"]) == (0.0, "max_tool_calls")


def test_a_failure_outside_the_model_is_an_error_and_never_a_score():
    broken = {**KWARGS, "pool": "gateway", "pool_options": {"url": "http://127.0.0.1:9"}}
    heard = []

    def plays(request):
        heard.extend(results(request["messages"]))
        return calls("print(1)")

    traces = run(plays, broken, limit=2)
    assert all("KernelError" in trace.errors[0].message for trace in traces)
    assert [trace.ok for trace in traces] == [False, False]
    assert [dict(trace.rewards) for trace in traces] == [{}, {}]
    assert heard == []


def test_an_endpoint_that_refuses_is_an_error_and_ends_the_sessions():
    before = descendants().keys()
    traces = run(lambda request: 400 if results(request["messages"]) else calls("x = 1"), limit=2)
    assert [trace.ok for trace in traces] == [False, False]
    assert {trace.errors[0].type for trace in traces} == {"ProviderError"}
    assert descendants().keys() <= before


def test_another_harness_is_judged_by_its_last_reply():
    class Echo(aster_gym.AsterHarness):
        async def launch(self, ctx, trace, runtime, url, secret, mcp_urls, data):
            from openai import AsyncOpenAI

            async with AsyncOpenAI(base_url=url, api_key=secret) as client:
                asks = [{"role": "user", "content": data.prompt}]
                await client.chat.completions.create(model=ctx.model, messages=asks)
            return vf.ProgramResult(exit_code=0, stdout="", stderr="")

    (task,) = aster_gym.AsterTaskset(loaders.taskset_config_type("aster-gym")(env_kwargs=KWARGS)).take(1)
    with endpoint(lambda request: says(f"\\boxed{{{asked(request)}}}")) as url:
        config = vf.AgentConfig(
            model="scripted",
            client=EvalClientConfig(base_url=url, api_key_var="NO_KEY"),
            runtime=vf.SubprocessConfig(),
            harness={"id": "aster-gym"},
        )
        agent = vf.Agent(config)
        agent.harness = Echo(config.harness)
        trace = asyncio.run(agent.run(task))
    assert (trace.errors, trace.reward) == ([], 1.0)


def test_the_command_line_runs_it(tmp_path):
    def plays(request):
        said = results(request["messages"])
        return says(f"\\boxed{{{said[0]}}}") if said else calls("print(6 * 7)")

    command = [
        Path(sys.executable).with_name("vf-eval"),
        "aster-gym",
        "-m",
        "scripted",
        "-n",
        "1",
        "--output-dir",
        tmp_path,
    ]
    taskset = ["--env.taskset.env-id", ENV, "--env.taskset.env-kwargs", json.dumps(KWARGS)]
    with endpoint(plays) as url:
        client = ["--client.base-url", url, "--client.api-key-var", "NO_KEY"]
        done = subprocess.run(
            [*command, *taskset, *client],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.rglob("traces.jsonl")
    (episode,) = map(json.loads, path.read_text().splitlines())
    assert json.dumps(episode).count('"answer": "42"') == 1
