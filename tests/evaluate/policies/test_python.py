"""Policies that are Python functions, and what a command line may ask for."""

from __future__ import annotations

import asyncio
import threading
from functools import partial

import pytest

from aster_env.errors import UnknownNameError, UsageError
from aster_env.evaluate.policies import Sampling, open_policy, read_spec
from aster_env.types import StopReason, Task
from tests.evaluate.policies import agents
from tests.evaluate.policies.server import episodes
from tests.support import EchoEnv

MODULE = "tests.evaluate.policies.agents"
TASK = Task("t", "What is 6 times 7?", ("42",))


def run(name, **kwargs):
    (trajectory,), opened = asyncio.run(episodes(read_spec(f"{MODULE}:{name}"), Sampling(), tasks=[TASK], **kwargs))
    return trajectory, opened


@pytest.mark.parametrize("name", ["text", "later", "ids", "completion", "Agent", "made"])
def test_a_function_or_a_policy_plays_an_episode(name):
    # One of them with real Python.
    trajectory, opened = run(name, make=None if name == "text" else partial(EchoEnv, lambda code: "42"))
    assert (trajectory.stop, trajectory.reward, trajectory.tool_calls) == (StopReason.ANSWERED, 1.0, 1)
    assert opened.described == {"kind": "python", "model": f"{MODULE}:{name}", "tokenizer": "bytes"}


def test_a_function_runs_beside_the_event_loop_and_a_policy_is_closed():
    agents.THREADS.clear()
    run("text", make=EchoEnv)
    assert threading.main_thread() not in agents.THREADS
    closed = agents.Agent.closed
    run("Agent", make=EchoEnv)
    assert agents.Agent.closed == closed + 1


def test_a_mistake_of_the_author_is_shown_and_a_policy_error_masks_the_episode():
    with pytest.raises(KeyError, match="a mistake of its author"):
        run("fails", make=EchoEnv)
    # It would be taken for the end of the episode's time.
    with pytest.raises(RuntimeError, match="TimeoutError: its own"):
        run("times_out", make=EchoEnv, max_seconds=30)
    trajectory, _ = run("unreachable", make=EchoEnv)
    assert (trajectory.stop, trajectory.reward) == (StopReason.INFRASTRUCTURE, None)
    with pytest.raises(UsageError, match=r"returned None, a NoneType. Allowed: a str"):
        run("nothing", make=EchoEnv)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tests.evaluate.policies.nowhere:f", "no module 'tests.evaluate.policies.nowhere'"),
        ("no_such_module:f", "no module 'no_such_module'. Fix: "),
        (f"{MODULE}:tex", "Unknown name in tests.evaluate.policies.agents 'tex'. Did you mean 'text'"),
        (f"{MODULE}:NOT_CALLABLE", "is of the type int. Allowed: a function"),
    ],
)
def test_what_is_not_there_is_named(name, said):
    with pytest.raises(UsageError, match=said):
        asyncio.run(open_policy(read_spec(name), Sampling()))


def test_a_module_of_the_current_folder_is_found(tmp_path, monkeypatch):
    (tmp_path / "agent_of_mine.py").write_text("def play(request):\n    return 'no answer'\n")
    (tmp_path / "broken_agent.py").write_text("import not_a_module_at_all\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in __import__("sys").path if path])

    async def main(name):
        await (await open_policy(read_spec(name), Sampling())).close()

    asyncio.run(main("agent_of_mine:play"))
    with pytest.raises(ModuleNotFoundError, match="not_a_module_at_all"):
        asyncio.run(main("broken_agent:play"))


@pytest.mark.parametrize(
    ("policy", "given", "said"),
    [
        ("chatt", {}, "Unknown policy 'chatt'. Did you mean 'chat'"),
        ("python", {}, "Fix: --policy MODULE:FUNCTION"),
        ("a b:c", {}, "Allowed: MODULE:FUNCTION"),
        ("a:b", {"model": "m"}, "no meaning"),
        ("a:b", {"url": "http://h"}, "no meaning"),
        ("chat", {}, "Fix: --url"),
        ("chat", {"url": "h:1"}, "is no address"),
        ("chat", {"url": "http://me:pw@h/v1"}, "holds a user"),
        ("completions", {"url": "http://h"}, "Fix: --tokenizer"),
        ("vllm", {}, "Fix: --model"),
        ("transformers", {}, "Fix: --model"),
        ("chat", {"url": "http://h", "options": {"timeouts": 1}}, "Did you mean 'timeout'"),
        ("chat", {"url": "http://h", "options": {"timeout": True}}, "Allowed: a number above 0"),
        ("chat", {"url": "http://h", "options": {"retries": -1}}, "from 0 on"),
        ("vllm", {"model": "m", "options": {"dtype": "int8"}}, "'float32'"),
    ],
)
def test_a_policy_that_cannot_work_is_refused_before_anything_is_opened(policy, given, said):
    with pytest.raises(UsageError, match=said) as caught:
        read_spec(policy, **given)
    assert "pw" not in str(caught.value)
    assert isinstance(caught.value, UnknownNameError) == ("Unknown" in str(caught.value))


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"temperature": float("nan")}, {"top_p": 0}, {"max_tokens": 0}])
def test_sampling_that_cannot_be_is_refused(wrong):
    with pytest.raises(UsageError, match="Allowed"):
        Sampling(**wrong)
