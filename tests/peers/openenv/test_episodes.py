"""Whole episodes, played by OpenEnv's own client and by this project's."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from openenv.core.generic_client import GenericEnvClient
from websockets.asyncio.client import connect

from aster_env.envs.python_math.client import PythonMathClient
from aster_env.envs.python_math.models import PythonMathAction
from aster_env.tokenizers import as_tokenizer


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 60))


def call(code):
    return {"tool": "python", "arguments": {"code": code}}


async def rpc(client, method, **params):
    """Send an MCP request over an environment's session, as OpenEnv's own MCP client does."""
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    return (await client._send_and_receive({"type": "mcp", "data": message}))["data"]


def test_the_generic_client_plays_episodes_that_the_environment_scores(server, answers):
    async def play():
        async with GenericEnvClient(base_url=server.url) as client:
            for right in (True, False):
                first = await client.reset(seed=5)
                assert not first.done
                assert first.reward is None
                task = first.observation["task_id"]
                step = await client.step(call("x = 6 * 7\nx"))
                assert step.observation["messages"][-1] == {"role": "tool", "content": "42"}
                step = await client.step(call("x + 1"))
                assert step.observation["messages"][-1]["content"] == "43"
                assert (await client.state())["step_count"] == 2
                last = await client.step({"answer": answers[task] if right else "nonsense"})
                assert (last.done, last.reward) == (True, float(right))
                assert last.observation["stop"] == "answered"
                assert last.observation["reward_terms"] == {"correct": float(right)}
                assert (await client.state())["reward"] == float(right)

    run(play())


def test_the_blocking_client_plays_too(server, answers):
    with GenericEnvClient(base_url=server.url).sync() as client:
        task = client.reset(seed=1).observation["task_id"]
        assert client.step({"answer": answers[task]}).reward == 1.0


def test_the_typed_client_gives_typed_observations(server, answers):
    async def play():
        async with PythonMathClient(base_url=server.url) as client:
            first = (await client.reset(task_id="train-l2-s0-1938")).observation
            assert [tool["function"]["name"] for tool in first.tools] == ["python"]
            assert first.stop_strings
            text = f"It is clear.\n\\boxed{{{answers[first.task_id]}}}"
            last = await client.step(PythonMathAction(text=text))
            assert last.reward == 1.0
            state = await client.state()
            assert (state.task_id, state.stop, state.step_count) == ("train-l2-s0-1938", "answered", 1)

    run(play())


def test_ids_are_taken_as_they_were_sampled_and_make_the_training_row(server):
    tokenizer = as_tokenizer(None)

    async def play():
        async with GenericEnvClient(base_url=server.url) as client:
            first = (await client.reset(seed=2)).observation
            assert tokenizer.decode(first["ids"]) == first["text"]
            action = tokenizer.encode('<tool_call>\n{"name": "python", "arguments": {"code": "1 + 1"}}\n</tool_call>')
            step = (await client.step({"ids": list(action)})).observation
            assert tokenizer.decode(step["ids"]) == step["text"]
            used = len(first["ids"]) + len(action) + len(step["ids"])
            assert step["tokens_left"] == first["tokens_left"] + len(first["ids"]) - used
            assert (await client.state())["tokens"] == used

    run(play())


def test_sessions_share_nothing(server):
    async def play(name):
        async with GenericEnvClient(base_url=server.url) as client:
            await client.reset(seed=name)
            await client.step(call(f"mine = {name}"))
            await asyncio.sleep(0.1)
            seen = await client.step(call("mine"))
            return seen.observation["messages"][-1]["content"]

    async def together():
        return await asyncio.gather(*map(play, range(12)))

    assert run(together()) == [str(name) for name in range(12)]


def test_a_reset_starts_from_nothing(server):
    async def play():
        async with GenericEnvClient(base_url=server.url) as client:
            await client.reset(seed=1)
            await client.step(call("old = 1"))
            await client.reset(seed=1, episode_id="second")
            step = await client.step(call("old"))
            assert "NameError" in step.observation["text"]
            assert (await client.state())["episode_id"] == "second"

    run(play())


def test_reference_answers_never_leave_the_service(server, answers):
    task, gold = next((task, gold) for task, gold in answers.items() if len(gold) >= 4)

    async def play():
        texts = []
        async with connect(server.url.replace("http", "ws") + "/ws", proxy=None) as socket:
            for message in (
                {"type": "reset", "data": {"task_id": task}},
                {"type": "step", "data": call("1")},
                {"type": "step", "data": {"text": "no answer"}},
                {"type": "state"},
            ):
                await socket.send(json.dumps(message))
                texts.append(await socket.recv())
        return texts

    texts = run(play())
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        texts += [client.get(path).text for path in ("/state", "/metadata", "/schema", "/openapi.json", "/health")]
        index = list(answers).index(task)
        shown = client.post("/PythonMath-v0/task", json={"split": "tasks", "index": index})
        assert shown.json()["task"]["id"] == task
        assert client.post("/PythonMath-v0/num_tasks", json={"split": "tasks"}).json() == {"num_tasks": len(answers)}
        texts.append(shown.text)
    for text in texts:
        assert '"answers"' not in text
        assert gold not in text.replace(task, "")


@pytest.mark.parametrize(
    ("action", "says"),
    [
        ({}, "Invalid message"),
        ({"text": "a", "answer": "b"}, "Invalid message"),
        ({"answer": "b", "arguments": {"a": 1}}, "Invalid message"),
        ({"tex": "a"}, "Invalid message"),
        ({"ids": [1, "x"]}, "Invalid message"),
        ({"ids": [-1]}, "ids are not allowed"),
        ({"ids": [10**9]}, "must be the tokenizer's"),
        ({"ids": [2**40]}, "ids are not allowed"),
    ],
)
def test_a_wrong_action_is_an_error_and_the_session_goes_on(server, action, says):
    async def play():
        async with GenericEnvClient(base_url=server.url) as client:
            await client.reset(seed=1)
            await client.step(call("kept = 7"))
            with pytest.raises(RuntimeError, match=says):
                await client.step(action)
            step = await client.step(call("kept"))
            assert step.observation["messages"][-1]["content"] == "7"

    run(play())


def test_a_call_of_an_unknown_tool_is_the_models_mistake(server):
    async def play():
        async with GenericEnvClient(base_url=server.url) as client:
            await client.reset(seed=1)
            step = await client.step({"tool": "browser", "arguments": {"url": "x"}})
            assert not step.done
            assert "browser" in step.observation["messages"][-1]["content"]

    run(play())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"task_id": "train-l2-s0-193x"}, "Did you mean"),
        ({"index": -1}, "Allowed: 0 to"),
        ({"index": "1"}, "Allowed: 0 to"),
        ({"split": "test", "index": 1}, "Unknown split"),
        ({"difficulty": 3}, "Unknown reset option"),
        ({"seed": "one"}, "Allowed: a whole number"),
    ],
)
def test_a_wrong_reset_names_what_is_allowed(server, options, says):
    async def play():
        async with GenericEnvClient(base_url=server.url) as client:
            with pytest.raises(RuntimeError, match=says):
                await client.reset(**options)
            assert not (await client.reset(index=3)).done

    run(play())


def test_a_step_without_an_episode_says_to_reset(server):
    async def play():
        async with GenericEnvClient(base_url=server.url) as client:
            with pytest.raises(RuntimeError, match="reset"):
                await client.step({"answer": "1"})
            await client.reset()
            await client.step({"answer": "1"})
            with pytest.raises(RuntimeError, match="reset"):
                await client.step({"answer": "1"})

    run(play())
    reply = httpx.post(f"{server.url}/step", json={"action": {"answer": "1"}}, trust_env=False)
    assert reply.status_code == 422
    assert "reset" in reply.json()["detail"]


def test_tools_are_listed_and_called_over_mcp_within_the_episode(server):
    async def play():
        async with GenericEnvClient(base_url=server.url) as client:
            await client.reset(seed=1)
            (tool,) = (await rpc(client, "tools/list"))["result"]["tools"]
            assert tool["name"] == "python"
            assert tool["inputSchema"]["required"] == ["code"]
            assert tool["name"] not in ("reset", "step", "state", "close")
            for code, says in (("y = 20", "(no output"), ("y + 1", "21")):
                result = (await rpc(client, "tools/call", name="python", arguments={"code": code}))["result"]
                assert says in result["content"][0]["text"]
                assert result["structuredContent"]["done"] is False
            assert "Unknown tool" in (await rpc(client, "tools/call", name="reset", arguments={}))["error"]["message"]
            assert (await client.state())["tool_calls"] == 2

    run(play())


def test_mcp_over_http_keeps_a_session_until_it_is_closed(server):
    with httpx.Client(base_url=server.url, trust_env=False, timeout=30) as client:

        def ask(method, **params):
            return client.post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).json()

        session = ask("openenv/session/create")["result"]["session_id"]
        for code, says in (("z = 5", "(no output"), ("z", "5")):
            reply = ask("tools/call", session_id=session, name="python", arguments={"code": code})
            assert says in reply["result"]["content"][0]["text"]
        assert ask("openenv/session/close", session_id=session)["result"]["closed"]
        assert "Unknown session_id" in ask("tools/list", session_id=session)["error"]["message"]


def test_questions_are_answered_by_searching(serve):
    world = {"seed": 0, "passages": 300}
    running = serve(env_id="ASTER/WikiQA-v0", env_kwargs={"world": world, "max_tool_calls": 2})

    async def play():
        async with GenericEnvClient(base_url=running.url) as client:
            first = (await client.reset(seed=0)).observation
            assert [tool["function"]["name"] for tool in first["tools"]] == ["search"]
            question = first["messages"][-1]["content"]
            step = await client.step({"tool": "search", "arguments": {"query": question[:100]}})
            assert len(step.observation["messages"][-1]["content"]) > 100
            assert (await client.step({"answer": "nobody"})).reward == 0.0

    run(play())
