"""The LLM judge against a real server on this machine that answers, refuses, breaks off or says nothing."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import time
import traceback

import pytest

from aster_env.errors import InfrastructureError, JudgeError
from aster_env.rewards import chat
from aster_env.rewards.base import Reward
from aster_env.rewards.llm import LLMJudge
from aster_env.types import StopReason, Task, Trajectory
from tests.rewards.judge_server import INJECTIONS, NEVER, Server, http, literal, says
from tests.support import EchoEnv


def judge(server, pairs=(("Paris", "City of Light"),), template="qa", **options):
    """Return a verdict or JudgeError for each pair of gold and answer, asked at once."""

    async def main():
        async with server() as url:
            made = LLMJudge(url, "m", template, **{"timeout": 5.0, **options})
            try:
                return await asyncio.gather(
                    *(made.judge("Which city?", (gold,), answer) for gold, answer in pairs), return_exceptions=True
                )
            finally:
                await made.close()

    return asyncio.run(main())


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(chat, "_FIRST_WAIT", 0.01)


def test_a_finished_episode_is_scored_by_the_verdict():
    server = Server(says("Correct"), says("Incorrect."))
    task = Task("t", "Which city?", ("Paris",), "qa")
    right, wrong = (Trajectory(task, stop=StopReason.ANSWERED, answer=a) for a in ("City of Light", "London"))

    async def main():
        async with server() as url:
            made = LLMJudge(url, "judge-1")
            assert isinstance(made, Reward)
            scored = [await made(task, right), await made(task, wrong)]
            await made.close()
            return scored

    first, second = asyncio.run(main())
    assert (first.value, first.terms, first.judged) == (1, {"judge": 1, "correct": 1}, True)
    assert (second.value, second.terms) == (0, {"judge": 0, "correct": 0})
    assert server.lines[0] == "POST /v1/chat/completions HTTP/1.1"
    request = server.requests[0]
    assert (request["model"], request["temperature"], request["max_tokens"]) == ("judge-1", 0, 16)
    sent = json.loads(request["messages"][1]["content"])
    assert sent == {"question": "Which city?", "reference_answers": ["Paris"], "prediction": "City of Light"}


def test_what_needs_no_judge_is_not_asked():
    server = Server(says("Correct"))
    assert judge(server, [("Paris", "the PARIS!"), ("Paris", ""), ("Paris", " "), ("Paris", "x" * 1001)]) == [
        True, False, False, False,
    ]  # fmt: skip
    assert judge(server, [("1/2", " 1/2 ")], template="math") == [True]
    task = Task("t", "q", ("Paris",))
    for stop, answer in ((StopReason.VOID_TURN, None), (StopReason.MAX_TOKENS, "Paris")):
        made = LLMJudge("http://127.0.0.1:9/v1", "m")
        assert asyncio.run(made(task, Trajectory(task, stop=stop, answer=answer))).value == 0
    assert server.requests == []


def test_every_gold_answer_scores_1_and_the_templates_differ():
    server = Server(says("Incorrect"))
    assert judge(server, [("Rome", "Rome"), ("0", "0")]) == [True, True]
    judge(server, [("1", "2")])
    judge(server, [("1", "2")], template="math")
    first, second = (request["messages"][0]["content"] for request in server.requests)
    assert first != second
    assert "one word: Correct or Incorrect" in first


@pytest.mark.parametrize(
    "fault",
    [
        http(429, {"error": "slow down"}), http(500, b"oops"), http(503, b""), says("Correct")[:-20],
        b"", b"nonsense\r\n\r\n",
        http(200, b"{"), http(200, {"choices": []}), http(200, {"choices": [{"message": {"content": None}}]}),
        says("It is rather correct, I think"), says(""), http(200, b"x" * (1 << 21)), http(200, b"[" * 100_000),
        http(429, b"", "Retry-After: soon"),
    ],
)  # fmt: skip
def test_a_fault_that_may_pass_is_tried_again_and_then_is_typed(fault):
    server = Server(fault, says("Correct"))
    assert judge(server) == [True]
    assert len(server.requests) == 2
    server = Server(fault)
    (error,) = judge(server, retries=2)
    assert isinstance(error, JudgeError)
    assert isinstance(error, InfrastructureError)
    assert "3 attempts" in str(error)
    assert len(server.requests) == 3


def test_retry_after_is_kept_and_one_beyond_the_time_fails_at_once():
    server = Server(http(429, b"", "Retry-After: 1"), says("Correct"))
    started = time.monotonic()
    assert judge(server) == [True]
    assert time.monotonic() - started >= 1
    started = time.monotonic()
    (error,) = judge(Server(http(429, b"", "Retry-After: 3600")))
    assert "after the time" in str(error)
    assert time.monotonic() - started < 1


def test_a_server_that_never_answers_is_left_in_time():
    started = time.monotonic()
    (error,) = judge(Server(NEVER), timeout=0.3)
    assert isinstance(error, JudgeError)
    assert "within 0.3 s" in str(error)
    assert time.monotonic() - started < 3


def test_no_server_is_an_infrastructure_failure():
    async def main():
        made = LLMJudge("http://127.0.0.1:9/v1", "m", retries=1)
        try:
            with pytest.raises(JudgeError, match=r"2 attempts.*ConnectError"):
                await made.judge("q", ("a",), "b")
        finally:
            await made.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("status", "fix"),
    [(401, "MY_KEY"), (403, "MY_KEY"), (404, "check the url"), (400, "check the url"), (302, "check")],
)
def test_a_refusal_is_not_tried_again_and_names_the_fix_but_not_the_key(status, fix, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-secret-1")
    server = Server(http(status, b"bad key sk-secret-1", "Location: http://127.0.0.1:9/"))
    (error,) = judge(server, key_variable="MY_KEY")
    assert isinstance(error, JudgeError)
    assert fix in str(error)
    assert "Fix:" in str(error)
    assert len(server.requests) == 1
    assert server.headers[0]["authorization"] == "bearer sk-secret-1"
    shown = "".join(traceback.format_exception(error)) + repr(vars(LLMJudge("http://h/v1", "m", key_variable="MY_KEY")))
    assert "secret" not in shown


@pytest.mark.parametrize("before", [0, 50, 65, 75])
def test_no_part_of_a_key_is_shown_where_a_reply_that_repeats_it_is_cut(before, monkeypatch):
    key = "sk-0123456789abcdefghijklmnopqrstuvwxyz"
    monkeypatch.setenv("MY_KEY", key)
    for reply in (says("." * before + key), http(200, b"." * before + key.encode())):
        (error,) = judge(Server(reply), key_variable="MY_KEY", retries=0)
        assert isinstance(error, JudgeError)
        assert not [key[n : n + 5] for n in range(len(key) - 4) if key[n : n + 5] in str(error)]


def test_no_key_is_sent_where_none_is_set_and_no_proxy_is_used(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    server = Server(says("Correct"))
    assert judge(server) == [True]
    assert "authorization" not in server.headers[0]


def test_equal_questions_are_asked_once_and_failures_are_not_kept():
    server = Server(http(400, b""), literal)
    first = judge(server, [("Paris", "Paris, France")] * 5)
    assert [type(verdict) for verdict in first] == [JudgeError] * 5
    assert len(server.requests) == 1
    assert judge(server, [("Paris, France", "Paris")] * 5 + [("Paris", "Rome")]) == [True] * 5 + [False]
    assert len(server.requests) == 3


def test_no_more_than_the_places_are_asked_at_once():
    server = Server(literal)
    assert judge(server, [("gold", f"answer {n}") for n in range(12)], concurrency=3) == [False] * 12
    assert (len(server.requests), server.most) == (12, 3)


def test_verdicts_outlive_the_process_in_a_file_and_not_a_change_of_question(tmp_path):
    server, cache = Server(says("Correct")), tmp_path / "verdicts.sqlite"

    async def main():
        async with server() as url:
            for question, template in (("q", "qa"), ("q", "qa"), ("other", "qa"), ("q", "math")):
                made = LLMJudge(url, "m", template, cache=cache)
                assert await made.judge(question, ("a",), "b")
                await made.close()

    asyncio.run(main())
    assert len(server.requests) == 3
    gc.collect()


def test_a_broken_cache_is_named(tmp_path):
    cache = tmp_path / "verdicts.sqlite"
    cache.write_bytes(b"SQLite format 3\0" + b"x" * 200)
    (error,) = judge(Server(says("Correct")), cache=cache)
    assert isinstance(error, JudgeError)
    assert "cache=None" in str(error)
    assert "verdicts.sqlite" in str(error)


def test_a_judge_serves_many_environments_whichever_closes_first():
    server = Server(says("Correct"))

    async def main():
        async with server() as url:
            made = LLMJudge(url, "m")
            asked = asyncio.gather(*(made.judge("q", ("a",), f"b{n}") for n in range(4)))
            await asyncio.sleep(0)
            await made.close()
            assert await asked == [True] * 4
            assert made._court is None
            assert await made.judge("q", ("a",), "c")
            await made.close()
            await made.close()

    asyncio.run(main())
    assert len(server.requests) == 5


def test_a_caller_that_is_cancelled_leaves_the_others_their_verdict():
    server = Server(literal)

    async def main():
        async with server() as url:
            made = LLMJudge(url, "m")
            first, second = (asyncio.create_task(made.judge("q", ("a",), "b")) for _ in range(2))
            while not server.requests:
                await asyncio.sleep(0.001)
            first.cancel()
            assert await second is False
            alone = asyncio.create_task(made.judge("q", ("a",), "c"))
            await asyncio.sleep(0)
            alone.cancel()
            await asyncio.gather(first, alone, return_exceptions=True)
            await made.close()
            assert len(asyncio.all_tasks()) <= 1 + server.open

    asyncio.run(main())


def test_a_judge_left_open_on_a_loop_that_ended_works_on_the_next():
    made = []

    async def main():
        async with Server(says("Correct"))() as url:
            made.append(LLMJudge(url, "m") if not made else made[0])
            with contextlib.suppress(JudgeError):
                await made[0].judge("q", ("a",), "b")

    asyncio.run(main())
    made[0]._client = (made[0]._client[0], "m", "OPENAI_API_KEY", 5.0, 0, 1)
    asyncio.run(main())
    gc.collect()


def test_an_episode_that_cannot_be_judged_is_masked():
    async def main():
        async with Server(http(500, b""))() as url:
            env = EchoEnv()
            env.reward = LLMJudge(url, "m", retries=0)
            await env.areset(seed=0)
            *_, truncated, info = await env.astep(env.tokenizer.encode("\\boxed{no}"))
            await env.aclose()
            return truncated, info["trajectory"]

    truncated, trajectory = asyncio.run(main())
    assert truncated
    assert (trajectory.stop, trajectory.reward) == (StopReason.INFRASTRUCTURE, None)
    assert "HTTP 500" in trajectory.error


@pytest.mark.parametrize("answer", INJECTIONS)
def test_a_prediction_forges_no_part_of_the_request(answer):
    server = Server(literal)
    assert judge(server, [("gold", answer)]) == [False]
    (request,) = server.requests
    assert [message["role"] for message in request["messages"]] == ["system", "user"]
    content = request["messages"][1]["content"]
    assert json.loads(content)["prediction"] == answer.replace("\ud83d", "?")
    assert json.loads(content)["reference_answers"] == ["gold"]
    assert not any(mark in content for mark in ("<|", "</", "[/INST]", "<<"))
