"""What an endpoint's failures, refusals and settings do to the chat policy, and what they do not."""

from __future__ import annotations

import asyncio
import io
import json
import time

import pytest

from aster_env import endpoints
from aster_env.endpoints import Refused
from aster_env.errors import PolicyError, UsageError
from aster_env.evaluate.policies import read_spec
from aster_env.evaluate.policies.contact import knows_no_tools, refused_parameter
from aster_env.evaluate.records import SAMPLES, read_run, write_manifest
from aster_env.evaluate.run import evaluate
from aster_env.evaluate.settings import EvalSettings
from aster_env.types import StopReason
from tests.evaluate.agents import ENVIRONMENT
from tests.evaluate.policies.server import Server, call, says
from tests.evaluate.policies.test_chat import open_only, run
from tests.scripted_http import NEVER, http


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(endpoints, "FIRST_WAIT", 0.01)


def test_an_endpoint_that_never_answers_is_left_in_time_and_its_connection_closed():
    started = time.monotonic()
    server = Server(NEVER)
    trajectory, _ = run(server, options={"timeout": 0.3})
    assert trajectory.stop is StopReason.INFRASTRUCTURE
    assert "within 0.3 s" in trajectory.error
    trajectory, _ = run(server, max_seconds=0.3)
    assert trajectory.stop is StopReason.MAX_SECONDS
    assert time.monotonic() - started < 4
    assert server.open == 0


@pytest.mark.parametrize(
    "text",
    [
        '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
        "m does not support tools",
    ],
)
def test_a_model_that_is_served_without_tool_calls_stops_the_evaluation(text):
    with pytest.raises(UsageError, match=r"no native tool calls: HTTP 400.*Fix: .*--policy completions"):
        run(Server(http(400, {"error": {"message": text}})))


def test_time_that_goes_to_an_endpoints_failures_is_no_wrong_answer():
    trajectory, _ = run(Server(http(503, b"down")), max_seconds=0.4, options={"retries": 50})
    assert (trajectory.stop, trajectory.reward) == (StopReason.INFRASTRUCTURE, None)
    assert "HTTP 503 'down'" in trajectory.error
    # A slow model alone has used its time up.
    assert run(Server(NEVER), max_seconds=0.2)[0].reward == 0


def test_time_that_goes_to_waiting_for_a_place_is_no_wrong_answer():
    async def main():
        async with Server(NEVER)() as url:
            options = {"timeout": 5.0, "retries": 0, "concurrency": 1}
            endpoint = endpoints.Endpoint("m", PolicyError, key_variable="NO_KEY_HERE", **options)
            first = asyncio.create_task(endpoint.ask(url, {}, str))
            await asyncio.sleep(0)
            with pytest.raises(TimeoutError) as caught:
                async with asyncio.timeout(0.1):
                    await endpoint.ask(url, {}, str)
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            await endpoint.close()
            return (caught.value.__cause__ or caught.value.__context__).__cause__

    why = asyncio.run(main())
    assert isinstance(why, PolicyError)
    assert "waited for a place" in str(why)


KEY = "sk-0123456789/abcdefghijklmnop'qrs\"tuv\\wxyz"


@pytest.mark.parametrize("before", [0, 20, 45, 60, 75])
@pytest.mark.parametrize("form", ["body", "content", "finish", "tool", "refusal", "models"])
def test_no_part_of_a_key_is_shown_wherever_the_text_is_cut(form, before, monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    text = "." * before + KEY
    reply = {
        "body": http(200, {"said": text}),
        "content": says([text]),
        "finish": says("no", finish=text),
        "tool": says(None, call(None, name_of_call=text)),
        "refusal": http(400, {"said": "." * 120 + text}),
    }.get(form)
    if reply is None:
        with pytest.raises(PolicyError) as caught:
            open_only(
                Server(models=http(200, {"said": text})), model="m", key_variable="MY_KEY", options={"retries": 0}
            )
        shown = str(caught.value)
    else:
        shown = run(Server(reply), key_variable="MY_KEY", options={"retries": 0})[0].error
    assert not [KEY[n : n + 5] for n in range(len(KEY) - 4) if KEY[n : n + 5] in shown]


def test_a_whole_reply_without_a_reason_for_its_end_is_taken():
    message = {"role": "assistant", "content": "\\boxed{0}"}
    assert run(Server(http(200, {"choices": [{"message": message, "finish_reason": None}]})))[0].reward == 1


def test_a_models_own_defaults_of_sampling_are_switched_off_where_the_server_knows_them():
    refuse = http(400, {"error": {"message": "Unrecognized request argument supplied: top_k"}})
    server = Server(refuse, says("\\boxed{0}"))
    _, opened = run(server)
    assert [server.posts[0][name] for name in ("top_k", "min_p", "repetition_penalty")] == [-1, 0.0, 1.0]
    assert "top_k" not in server.posts[1]
    assert server.posts[1]["min_p"] == 0.0
    assert opened.described["refused"] == ["top_k"]


def test_a_run_goes_on_at_another_address_without_usage_and_with_a_new_date(tmp_path):
    async def play(server, key_variable):
        async with server() as url:
            spec = read_spec("chat", model="m", url=url, key_variable=key_variable)
            await evaluate(EvalSettings(ENVIRONMENT, spec, concurrency=1), tmp_path, io.StringIO())

    reply = says("\\boxed{0}", usage=None)
    asyncio.run(play(Server(reply, models=({"id": "m", "created": 1},)), "NO_KEY_HERE"))
    samples, manifest = tmp_path / SAMPLES, read_run(tmp_path).manifest
    assert "estimated" in manifest["policy"]["tokens"]
    samples.write_bytes(b"".join(samples.read_bytes().splitlines(keepends=True)[:-1]))
    write_manifest(tmp_path, {**manifest, "finished": None})
    asyncio.run(play(Server(reply, models=({"id": "m", "created": 2},)), "NOR_KEY_HERE"))
    assert len(read_run(tmp_path).samples) == 6
    assert read_run(tmp_path).manifest["finished"]


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ("Unknown parameter: 'top_k'.", "top_k"),
        ("property 'seed' is unsupported", "seed"),
        ("seed is not supported by this model", "seed"),
        ("body.max_tokens: Extra inputs are not permitted", "max_tokens"),
        ("could not parse messages; max_tokens was 5 and seed 3", None),
        ("Unknown model. It was asked with a seed.", None),
        ("unsupported value: temperature", None),
    ],
)
def test_only_a_parameter_that_is_said_to_be_unknown_is_dropped(message, named):
    error = Refused(400, json.dumps({"error": {"message": message}}), "")
    assert refused_parameter(error, dict.fromkeys(["max_tokens", "seed", "temperature", "top_k"])) == named


@pytest.mark.parametrize(
    ("text", "says_so"),
    [
        ("m does not support tools", True),
        ("No endpoints found that support tool use", True),
        ("tools are not supported", True),
        ("Unknown model. supported tools: none", False),
        ("this server supports tools; the message is empty", False),
    ],
)
def test_a_model_without_tools_is_told_from_a_text_that_mentions_them(text, says_so):
    assert knows_no_tools(Refused(400, text, "")) == says_so
