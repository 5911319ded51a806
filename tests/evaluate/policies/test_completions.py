"""The policy of token ids against a real server on this machine."""

from __future__ import annotations

import asyncio

import pytest

from aster_env import endpoints
from aster_env.errors import UsageError
from aster_env.evaluate.policies import Sampling, read_spec
from aster_env.limits import Limits
from aster_env.making import make_envs
from aster_env.types import StopReason
from tests.evaluate.policies.server import SamplingServer, Server, episodes, says
from tests.scripted_http import NEVER, http
from tests.support import EchoEnv

END = "<|im_end|>"
CALL = '<tool_call>\n{"name": "python", "arguments": {"code": "1"}}\n</tool_call>'


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(endpoints, "FIRST_WAIT", 0.01)


def run(server, sampling=None, options=None, **kwargs):
    async def main():
        async with server() as url:
            given = {"timeout": 5.0, "retries": 1, **(options or {})}
            spec = read_spec("completions", model="m", url=url, tokenizer="bytes", options=given)
            played, opened = await episodes(spec, sampling or Sampling(), **{"make": EchoEnv, **kwargs})
            return played if len(played) > 1 else played[0], opened

    return asyncio.run(main())


def test_what_was_sampled_is_what_is_recorded():
    (env,) = make_envs("ASTER/PythonMath-v0", 1, {})
    gold = env.tasks[0].answers[0]
    code = f'<tool_call>\n{{"name": "python", "arguments": {{"code": "print({gold!r})"}}}}\n</tool_call>'
    # Neither bytes that are no UTF-8 nor a marker spelled in plain bytes would survive being read as text.
    odd = [255, 254, *b"<python>", *env.tokenizer.encode(code)]
    server = SamplingServer(lambda prompt, n: [odd, odd, f"So \\boxed{{{gold}}}.{END}"][n])
    trajectory, opened = run(server, Sampling(seed=5), make=None)
    assert (trajectory.stop, trajectory.reward, trajectory.tool_calls) == (StopReason.ANSWERED, 1.0, 1)
    assert [list(turn.ids) for turn in trajectory.model_turns] == server.sampled[1:]
    assert all(set(turn.logprobs) == {-0.25} for turn in trajectory.model_turns)
    probe, first, second = server.posts
    assert second["prompt"] == trajectory.ids[: len(second["prompt"])]
    assert len(second["prompt"]) == len(trajectory.ids) - len(server.sampled[2])
    assert probe["max_tokens"] == 1
    for name, value in {"include_stop_str_in_output": True, "skip_special_tokens": False, "return_token_ids": True,
                        "stop": ["</tool_call>"], "top_k": 0, "repetition_penalty": 1.0,
                        "add_special_tokens": False, "logprobs": 0}.items():  # fmt: skip
        assert first[name] == value
    assert first["seed"] != second["seed"]
    assert "tokens" not in trajectory.usage
    assert trajectory.usage["completion_tokens"] == sum(map(len, server.sampled[1:]))
    assert not opened.counts_tokens


def test_log_probabilities_of_another_distribution_are_left_out():
    server = SamplingServer(lambda prompt, n: f"\\boxed{{0}}{END}")
    trajectory, opened = run(server, Sampling(0.6, 0.95))
    assert trajectory.model_turns[0].logprobs is None
    assert "logprobs" not in server.posts[0]
    assert "left out" in opened.described["logprobs"]
    trajectory, _ = run(server, Sampling(0.6), options={"processed_logprobs": True})
    assert trajectory.model_turns[0].logprobs is not None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda choice: choice | {"token_ids": None}, "Fix: .*--policy chat"),
        (lambda choice: choice | {"prompt_token_ids": [1, *choice["prompt_token_ids"]]}, "changes what it is sent"),
    ],
)
def test_a_server_that_gives_no_ids_or_changes_them_is_told_from_the_first_contact_on(change, said):
    server = SamplingServer(lambda prompt, n: END, change=change)
    with pytest.raises(UsageError, match=said):
        run(server)
    assert len(server.posts) == 1


def test_a_server_without_completions_is_a_usage_error():
    with pytest.raises(UsageError, match="no completions of token ids: HTTP 404"):
        run(Server(http(404, b"")))
    trajectory = None
    with pytest.raises(UsageError, match="gives no token ids"):
        trajectory, _ = run(Server(says("hello")))
    assert trajectory is None


def test_the_models_context_is_its_budget_whether_it_is_listed_or_only_refused():
    server = SamplingServer(lambda prompt, n: "x" * 10_000, models=({"id": "m", "max_model_len": 900},))
    trajectory, _ = run(server)
    assert (trajectory.stop, len(trajectory.ids), trajectory.error) == (StopReason.MAX_TOKENS, 900, None)

    class Full(SamplingServer):
        def _reply(self, body):
            if len(body["prompt"]) + body["max_tokens"] > 900:
                return http(400, {"error": {"message": "This model's maximum context length is 900 tokens. Sorry."}})
            return super()._reply(body)

    # Several learn it at once.
    played, _ = run(Full(lambda prompt, n: "x" * 10_000, models=("m",)), count=4)
    assert [(t.stop, len(t.ids), t.error) for t in played] == [(StopReason.MAX_TOKENS, 900, None)] * 4
    trajectory, _ = run(SamplingServer(lambda prompt, n: "x", models=({"id": "m", "max_model_len": 20},)))
    assert (trajectory.stop, trajectory.reward) == (StopReason.MAX_TOKENS, 0.0)


def test_the_environments_budget_is_an_episodes():
    trajectory, _ = run(SamplingServer(lambda prompt, n: "x" * 10_000), limits=Limits(max_tokens=1000))
    assert (trajectory.stop, len(trajectory.ids)) == (StopReason.MAX_TOKENS, 1000)


@pytest.mark.parametrize(
    "fault",
    [
        http(500, b""), http(200, b"{"), NEVER, http(200, {"choices": [{"token_ids": ["a"], "finish_reason": "stop"}]}),
        http(200, {"choices": [{"token_ids": [1], "finish_reason": "abort"}]}), http(200, {"choices": [None]}),
        http(200, {"choices": [{"token_ids": [1] * 40_000, "finish_reason": "stop"}]}), http(400, b"no"),
        http(200, {"choices": [{"token_ids": [1], "finish_reason": "stop"}]}, cut=-4),
    ],
)  # fmt: skip
def test_what_fails_after_the_first_contact_masks_the_episode(fault):
    class Failing(SamplingServer):
        def _reply(self, body):
            return fault if len(self.posts) > 1 else super()._reply(body)

    trajectory, _ = run(Failing(lambda prompt, n: END), options={"timeout": 1.0})
    assert (trajectory.stop, trajectory.reward) == (StopReason.INFRASTRUCTURE, None)
    assert "PolicyError" in trajectory.error
