"""What the LLM judge sends and reads: requests, verdicts, headers, arguments."""

from __future__ import annotations

import json

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from aster_env.errors import UsageError
from aster_env.rewards.chat import seconds_to_wait
from aster_env.rewards.llm import LLMJudge, _request, read_verdict
from tests.rewards.judge_server import INJECTIONS

HOSTILE = st.sampled_from([*INJECTIONS, "<", "[", "\\", '"', "|", "A"]) | st.text(max_size=5)


@given(st.lists(HOSTILE, max_size=5).map("".join))
@settings(max_examples=150)
def test_a_request_reads_back_as_it_was_and_holds_no_markup(text):
    content = _request(text, [text], text)
    clean = text.encode("utf-8", "replace").decode()
    assert json.loads(content) == {"question": clean[:8000], "reference_answers": [clean], "prediction": clean}
    assert not any(mark in content for mark in ("<|", "</", "[/INST]", "[INST]", "<a", "＜|"))


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("Correct", True), ("incorrect", False), (" **Correct**.\n", True), ("Verdict: Incorrect", False),
        ("<think>It is incorrect.\nIncorrect\n</think>\nCorrect", True), ("The same city.\nCorrect", True),
        ("not correct", None), ("Correct?\nIncorrect", None), ("Correct, but", None), ("", None), ("yes", None),
        ("Correct Incorrect", None), ("<think>Correct", None), ("correctly", None), ("Correct\nI am sure.", None),
    ],
)  # fmt: skip
def test_a_verdict_is_read_strictly(reply, verdict):
    assert read_verdict(reply) is verdict


WORDS = ["Correct", "Incorrect", "in", "not ", "\n", ".", "*", " ", "</think>", "é"]


@given(st.lists(st.sampled_from(WORDS) | st.text(max_size=3)))
@settings(max_examples=300)
def test_reading_a_verdict_is_total_and_an_incorrect_last_word_is_never_correct(pieces):
    reply = "".join(pieces)
    verdict = read_verdict(reply)
    last = [line for line in reply.rpartition("</think>")[2].splitlines() if line.strip()][-1:]
    letters = "".join(c for line in last for c in line.lower() if c.isalpha())
    assert (verdict is None) or letters == {True: "correct", False: "incorrect"}[verdict]


@given(st.text(max_size=30) | st.integers(-5, 10**12).map(str))
def test_reading_retry_after_is_total(value):
    assert seconds_to_wait(value) >= 0
    assert seconds_to_wait("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert seconds_to_wait("7") == 7


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"url": "localhost:8000"}, "Allowed: 'http://HOST"), ({"url": "ftp://h/v1"}, "no address"),
        ({"url": None}, "no address"),
        ({"url": "http://h:99999/v1"}, "no address"), ({"url": "http://u:pw@h/v1"}, "holds a user"),
        ({"model": ""}, "model=''"), ({"template": "maths"}, "Did you mean 'math'"), ({"timeout": 0}, "timeout=0"),
        ({"timeout": float("nan")}, "timeout=nan"), ({"retries": -1}, "retries=-1"),
        ({"concurrency": 0}, "concurrency=0"),
        ({"cache": "/no/such/x"}, "no folder"), ({"cache": __file__}, "no SQLite file"), ({"cache": "/"}, "no file"),
        ({"max_tokens": True}, "max_tokens=True"), ({"key_variable": "BAD_KEY"}, "BAD_KEY holds no key"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_named_before_anything_is_asked(options, says, monkeypatch):
    monkeypatch.setenv("BAD_KEY", "two secret words")
    with pytest.raises(UsageError, match=says) as raised:
        LLMJudge(**{"url": "http://h/v1", "model": "m", **options})
    assert "secret" not in str(raised.value)
    assert "pw" not in str(raised.value)


@pytest.mark.parametrize("url", ["http://h:1", "http://h:1/", "http://h:1/v1/", "http://h:1/v1/chat/completions"])
def test_an_endpoint_is_named_by_any_of_its_addresses(url):
    assert LLMJudge(url, "m").url == "http://h:1/v1/chat/completions"
