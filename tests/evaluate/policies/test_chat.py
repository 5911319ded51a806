"""The chat policy against a real server on this machine."""

from __future__ import annotations

import asyncio
import json
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aster_env import endpoints
from aster_env.dialects import make_dialect
from aster_env.errors import PolicyError, UnknownNameError, UsageError
from aster_env.evaluate.policies import Sampling, open_policy, read_spec
from aster_env.evaluate.policies.chat import ONLY_FIRST
from aster_env.evaluate.policies.writing import NativeCall, write_call
from aster_env.limits import Limits
from aster_env.making import make_envs
from aster_env.tokenizers import ByteTokenizer
from aster_env.types import StopReason
from tests.evaluate.policies.server import USAGE, Server, answers_with, call, episodes, says
from tests.scripted_http import http
from tests.support import EchoEnv


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(endpoints, "FIRST_WAIT", 0.01)


def run(server, sampling=None, model="m", options=None, key_variable="NO_KEY_HERE", **kwargs):
    """Play an episode on EchoEnv (or others by ``make``); return its trajectory and the open policy."""

    async def main():
        async with server() as url:
            spec = read_spec(
                "chat", model=model, url=url, key_variable=key_variable, options={"timeout": 5.0, **(options or {})}
            )
            played, opened = await episodes(spec, sampling or Sampling(), **{"make": EchoEnv, **kwargs})
            return played if len(played) > 1 else played[0], opened

    return asyncio.run(main())


def test_an_episode_with_real_python_is_played_through_native_calls():
    (env,) = make_envs("ASTER/PythonMath-v0", 1, {})
    task = env.tasks[0]
    server = Server(answers_with(task.answers[0]))
    trajectory, opened = run(server, make=None, tasks=[task], sampling=Sampling(0.6, 0.95, seed=3))
    assert (trajectory.stop, trajectory.reward, trajectory.tool_calls) == (StopReason.ANSWERED, 1.0, 1)
    assert trajectory.usage == {"prompt_tokens": 200, "completion_tokens": 20, "tokens": 120}
    assert opened.counts_tokens
    assert "tokens" not in opened.described
    first, second = server.posts
    assert [first[name] for name in ("model", "temperature", "top_p")] == ["m", 0.6, 0.95]
    assert first["tools"][0]["function"]["name"] == "python"
    assert first["seed"] != second["seed"]
    assert first["max_completion_tokens"] == 32768
    assert second["max_completion_tokens"] == 32768 - 110
    assert [m["role"] for m in first["messages"]] == ["user"]
    *_, said, heard = second["messages"]
    assert said["tool_calls"] == [call(arguments={"code": f"print({task.answers[0]!r})"})]
    assert (said["content"], heard["role"], heard["tool_call_id"]) == ("Let me compute.", "tool", "c1")
    assert heard["content"].strip() == task.answers[0]


def test_only_the_first_of_several_calls_is_run_and_each_has_its_result():
    server = Server(says(None, call(), call("python", {"code": "2"}, "c2"), call("python", {"code": "3"}, "c2")),
                    says("\\boxed{0}"))  # fmt: skip
    trajectory, _ = run(server)
    assert (trajectory.stop, trajectory.tool_calls, trajectory.reward) == (StopReason.ANSWERED, 1, 1.0)
    said, *results = server.posts[1]["messages"][1:]
    ids = [c["id"] for c in said["tool_calls"]]
    assert len(set(ids)) == 3
    assert [(r["role"], r["tool_call_id"], r["content"]) for r in results] == [
        ("tool", ids[0], "print(6 * 7)"), ("tool", ids[1], ONLY_FIRST), ("tool", ids[2], ONLY_FIRST),
    ]  # fmt: skip


@pytest.mark.parametrize("dialect", ["hermes", "tags"])
@pytest.mark.parametrize("arguments", ['{"code": "1"', "[1]", '"x"', "nonsense", "[" * 100_000])
def test_arguments_that_are_no_object_come_back_as_a_readable_error(arguments, dialect):
    server = Server(says(None, call("python", arguments)), says(None, call("python", "")), says("<answer>\\boxed{0}"))
    trajectory, _ = run(server, dialect=dialect, limits=Limits(max_tokens=1 << 20))
    assert (trajectory.stop, trajectory.tool_calls, trajectory.reward) == (StopReason.ANSWERED, 0, 1.0)
    first, second = trajectory.results
    assert first.text.startswith("Error: ")
    assert not first.ok
    assert not second.ok
    # Servers parse what they are sent: it is an object there.
    sent = server.posts[1]["messages"][1]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(sent) == {"arguments": arguments}
    assert server.posts[1]["messages"][2]["content"] == first.text


def test_an_unknown_tool_is_refused_by_the_environment():
    trajectory, _ = run(Server(says(None, call("pyton")), says("\\boxed{0}")))
    assert "Did you mean 'python'" in trajectory.results[0].text


def test_a_call_written_as_text_is_run_and_answered_by_a_user_message():
    text = '<tool_call>\n{"name": "python", "arguments": {"code": "7"}}\n</tool_call>'
    server = Server(says(text), says("\\boxed{0}"))
    trajectory, _ = run(server)
    assert trajectory.tool_calls == 1
    assert server.posts[1]["messages"][1:] == [
        {"role": "assistant", "content": text}, {"role": "user", "content": "7"},
    ]  # fmt: skip


def test_reasoning_goes_back_to_the_endpoint_and_is_left_out_where_it_is_refused():
    refuse = http(400, {"error": {"message": "reasoning_content is not allowed in messages[1]", "param": "messages"}})
    server = Server(says(None, call(), reasoning_content="hm"), refuse, says("\\boxed{0}"))
    trajectory, opened = run(server)
    assert trajectory.stop is StopReason.ANSWERED
    assert server.posts[1]["messages"][1]["reasoning_content"] == "hm"
    assert "reasoning_content" not in server.posts[2]["messages"][1]
    assert opened.described["refused"] == ["reasoning_content"]


def test_what_a_server_refuses_to_know_is_left_out_once_and_said():
    refuse = [
        http(400, {"error": {"message": "Unsupported", "param": name, "code": "unsupported_parameter"}})
        for name in ("max_completion_tokens", "max_tokens")
    ]
    old = http(422, {"detail": [{"loc": ["body", "seed"], "msg": "extra", "input": {"temperature": 1}}]})
    server = Server(*refuse, old, says(None, call()), says("\\boxed{0}"))
    _, opened = run(server)
    sent = [{*body} & {"max_completion_tokens", "max_tokens", "seed"} for body in server.posts]
    assert sent == [{"max_completion_tokens", "seed"}, {"max_tokens", "seed"}, {"seed"}, set(), set()]
    assert opened.described["refused"] == ["max_completion_tokens", "max_tokens", "seed"]


def test_a_refused_temperature_stops_the_evaluation_and_a_default_one_does_not():
    refuse = http(400, {"error": {"message": "temperature does not support this", "param": "temperature"}})
    with pytest.raises(UsageError, match=r"refuses temperature=0\.6.*Fix: --temperature 1"):
        run(Server(refuse), Sampling(0.6))
    assert run(Server(refuse, says("\\boxed{0}")))[0].reward == 1


def test_the_policys_own_count_ends_an_episode_by_its_length():
    used = {"prompt_tokens": 100, "completion_tokens": 100}
    server = Server(says(None, call(), usage=used))
    trajectory, _ = run(server, Sampling(max_tokens=200))
    assert (trajectory.stop, trajectory.usage["tokens"], len(server.posts)) == (StopReason.MAX_TOKENS, 200, 1)
    trajectory, _ = run(Server(says("\\boxed{0}", usage=used)), Sampling(max_tokens=199))
    assert (trajectory.stop, trajectory.answer, trajectory.reward) == (StopReason.MAX_TOKENS, None, 0.0)
    trajectory, _ = run(Server(says("I think", finish="length")))
    assert trajectory.stop is StopReason.MAX_TOKENS
    assert trajectory.turns[-1].text.startswith("I think")


def test_tokens_are_estimated_where_the_endpoint_gives_no_usage():
    trajectory, opened = run(Server(says(None, call(), usage=None), says("\\boxed{0}", usage=None)))
    assert "estimated" in opened.described["tokens"]
    assert 50 < trajectory.usage["tokens"] < 1000


CONTEXT = [
    {"error": {"message": "too much", "code": "context_length_exceeded", "type": "invalid_request_error"}},
    {"error": {"message": "This model's maximum context length is 2048 tokens. However, you requested …", "code": 400}},
    {"error": {"message": "the request exceeds the available context size", "type": "exceed_context_size_error"}},
    {"error": {"message": "Input is too long for requested model."}},
    {"message": "prompt is too long: 210000 tokens > 200000 maximum"},
]


@pytest.mark.parametrize("body", CONTEXT)
def test_a_full_context_is_the_models_budget_and_no_failure(body):
    server = Server(says(None, call()), http(400, body))
    trajectory, _ = run(server)
    assert (trajectory.stop, trajectory.reward, trajectory.error) == (StopReason.MAX_TOKENS, 0.0, None)
    assert "max_completion_tokens" not in server.posts[-1]


def test_a_cap_beyond_the_context_is_left_to_the_server():
    server = Server(http(400, CONTEXT[1]), says("\\boxed{0}"))
    assert run(server)[0].reward == 1
    assert len(server.posts) == 2


@pytest.mark.parametrize(
    "fault",
    [
        http(429, {"error": "slow down"}), http(500, b"oops"), http(503, b""), says("\\boxed{0}")[:-20], b"",
        b"nonsense\r\n\r\n", http(200, b"{"), http(200, b"[" * 100_000), http(200, {"choices": []}),
        http(200, {"choices": [{"message": None}]}), says(["parts"]), says(None, {"id": "x"}), says(None, call(None)),
        http(200, b"x" * (1 << 25) + b"x"), says("no", finish="content_filter"), says("no", finish="abort"),
        says("no", finish="error"), http(200, {"choices": [{"message": {"content": ""}}]}),
        http(200, {"choices": [{"message": {"content": "so"}, "error": {"code": 502}}]}),
        http(429, b"", "Retry-After: soon"),
    ],
)  # fmt: skip
def test_a_fault_that_may_pass_is_tried_again_and_then_masks_the_episode(fault):
    server = Server(fault, says("\\boxed{0}"))
    assert run(server)[0].reward == 1
    assert len(server.posts) == 2
    trajectory, _ = run(Server(fault), options={"retries": 1})
    assert (trajectory.stop, trajectory.reward) == (StopReason.INFRASTRUCTURE, None)
    assert "PolicyError" in trajectory.error
    assert "2 attempts" in trajectory.error


@pytest.mark.parametrize("status", [302, 400, 401, 404])
def test_a_refusal_is_not_tried_again_and_shows_no_key(status, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-secret-1")
    server = Server(http(status, b"bad sk-secret-1", "Location: http://127.0.0.1:9/"))
    trajectory, opened = run(server, key_variable="MY_KEY")
    assert trajectory.stop is StopReason.INFRASTRUCTURE
    assert "Authorization: Bearer sk-secret-1" in server.heads[0]
    assert len(server.posts) == 1
    assert "Fix:" in trajectory.error
    assert "secret" not in trajectory.error + json.dumps(opened.described)


def test_no_more_than_the_places_are_asked_at_once():
    server = Server(says("\\boxed{0}"))
    played, _ = run(server, count=5, options={"concurrency": 2})
    assert {t.stop for t in played} == {StopReason.ANSWERED}
    assert server.most <= 2


def open_only(server, **given):
    async def main():
        async with server() as url:
            opened = await open_policy(read_spec("chat", url=url, **given), Sampling())
            await opened.close()
            return opened.described

    return asyncio.run(main())


def test_the_first_contact_names_a_wrong_model_a_wrong_key_and_no_server(monkeypatch):
    with pytest.raises(UnknownNameError, match=r"Did you mean 'qwen3-8b'"):
        open_only(Server(models=("qwen3-8b", "other")), model="qwen3-8B")
    with pytest.raises(UsageError, match="several models"):
        open_only(Server(models=("a", "b")))
    assert open_only(Server(models=("only",)))["model"] == "only"
    assert open_only(Server(models=http(404, b"")), model="m")["model"] == "m"
    monkeypatch.setenv("MY_KEY", "sk-secret-1")
    refusing = Server(models=http(401, b"bad key sk-secret-1"))
    with pytest.raises(UsageError, match=r"HTTP 401.*MY_KEY") as caught:
        open_only(refusing, model="m", key_variable="MY_KEY")
    assert "secret" not in "".join(traceback.format_exception(caught.value))
    spec = read_spec("chat", model="m", url="http://127.0.0.1:9", options={"retries": 1})
    with pytest.raises(PolicyError, match=r"'m' at http://127\.0\.0\.1:9/v1.*2 attempts.*ConnectError"):
        asyncio.run(open_policy(spec, Sampling()))
    with pytest.raises(PolicyError, match="no list of models"):
        open_only(Server(models=http(200, b"<html>")), model="m", options={"retries": 0})


TEXT = st.text() | st.sampled_from(
    ["<think>", "</think>", "</tool_call>", "<tool_call>", "</python>", "<python>", "<|im_end|>", "\n", "\\boxed{1}"]
)
TEXTS = st.lists(TEXT, max_size=5).map("".join)
VALUES = TEXTS | st.integers() | st.booleans() | st.none() | st.lists(TEXTS, max_size=2)
SCHEMAS = {"python": EchoEnv().tool.schema}


@given(content=TEXTS, arguments=st.dictionaries(TEXTS, VALUES, max_size=3), name=TEXTS.filter(bool))
def test_the_dialect_reads_the_very_call_that_the_endpoint_gave(content, arguments, name):
    dialect = make_dialect("hermes", ByteTokenizer())
    text = write_call(content, NativeCall("c", name, json.dumps(arguments)), dialect, SCHEMAS)
    read = dialect.parse(dialect.tokenizer.decode(dialect.tokenizer.encode(text)), SCHEMAS).call
    assert read is not None
    assert read.problem is None
    assert (read.name, read.arguments) == (name, arguments)


@given(content=TEXTS, code=TEXTS, raw=TEXTS)
def test_the_tags_express_a_call_or_one_that_is_refused(content, code, raw):
    dialect = make_dialect("tags", ByteTokenizer())
    for text in (json.dumps({"code": code}), raw):
        given_call = NativeCall("c", "python", text)
        read = dialect.parse(write_call(content, given_call, dialect, SCHEMAS), SCHEMAS).call
        assert read is not None
        if read.problem is None:
            assert read.arguments["code"].strip("\n") == (given_call.arguments or {})["code"].strip("\n")


def test_usage_counts_growth():
    replies = [says(None, call(), usage={"prompt_tokens": p, "completion_tokens": 10}) for p in (100, 150)]
    trajectory, _ = run(Server(*replies, says("\\boxed{0}", usage={"prompt_tokens": 130, "completion_tokens": 7})))
    # 100 + 10, then 40 of the result + 10; then a prompt that became shorter, for the server drops old reasoning, + 7.
    assert trajectory.usage["tokens"] == 110 + 50 + 7
    assert USAGE["prompt_tokens"] == 100
