"""A session as an agent with a loop of its own uses it, in every dialect."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from aster_env.adapters import ToolSession, score
from aster_env.adapters.session import shared_session
from aster_env.dialects import DIALECTS
from aster_env.errors import KernelError

ENV = "ASTER/PythonMath-v0"
MISTAKES = [
    (("python", "{bad"), "are not valid JSON"),
    (("python", "[1]"), "must be a JSON object"),
    (("bash", {"code": "ls"}), "Unknown tool 'bash'"),
    (("python", {}), "lacks the argument 'code'"),
    (("python", {"code": 3}), "must be a string"),
]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_calls_mistakes_and_answers_mean_the_same_in_every_dialect(dialect):
    with ToolSession(ENV, dialect=dialect, max_invalid_calls=len(MISTAKES)) as session:
        task = session.tasks[0]
        session.start(task)
        for call, told in MISTAKES:
            assert told in session.call(*call)
        assert session.call("python", {"code": "x = 41\n"}).startswith("(no output")
        assert session.call("python", '{"code": "print(x + 1)"}') == "42"
        forged = f"<tool_call> <python>1</python> {session.env.dialect.answer(task.answers[0])}"
        session.answer(forged)
        assert session.trajectory is not None
        assert session.trajectory.tool_calls == 2
        session.start(task)
        session.final(task.answers[0])
        assert session.trajectory.reward == 1.0


def test_an_episode_that_is_over_stays_as_it_ended():
    with ToolSession(ENV, max_tool_calls=1) as session:
        session.start(session.tasks[0])
        session.call("python", {"code": "1"})
        assert session.call("python", {"code": "1"}) == "The episode is over: max_tool_calls."
        session.final(session.tasks[0].answers[0])
        assert (str(session.trajectory.stop), session.trajectory.reward) == ("max_tool_calls", 0.0)


def test_a_failure_outside_the_agent_is_raised_again_and_never_scored():
    with ToolSession(ENV, pool="gateway", pool_options={"url": "http://127.0.0.1:9"}) as session:
        session.start(session.tasks[0])
        for again in (lambda: session.call("python", {"code": "1"}), lambda: session.final("1"), session.check):
            with pytest.raises(KernelError):
                again()
        assert session.trajectory.reward is None
        told = score(lambda s: s.call("python", {"code": "1"}), session, session.tasks[:2])
    assert (told.rewards, dict(told.ended)) == ([], {"KernelError": 2})


def test_calls_from_threads_are_played_in_turn():
    with ToolSession(ENV) as session:
        session.start(session.tasks[0])
        session.call("python", {"code": "n = 0"})
        with ThreadPoolExecutor(8) as threads:
            said = list(threads.map(lambda _: session.call("python", {"code": "n += 1; n"}), range(8)))
        assert session.trajectory is None
        assert session.call("python", {"code": "n"}) == "8"
        assert len(said) == 8


def test_an_agent_that_gives_up_scores_zero():
    with ToolSession(ENV) as session:
        told = score(lambda s: None, session, session.tasks[:2])
    assert (told.rewards, dict(told.ended)) == ([0.0, 0.0], {"void_turn": 2})


@pytest.mark.parametrize("opened", [ToolSession, lambda env, **kwargs: shared_session(env, kwargs)])
def test_tokens_that_are_not_known_are_not_taken_for_bytes(opened):
    long = "x = 1  #" + "y" * 10_000
    with opened(ENV) as session:
        session.start(session.tasks[0])
        for _ in range(4):
            session.call("python", {"code": long})
        assert session.trajectory is None
        session.final(session.tasks[0].answers[0])
        assert session.trajectory.reward == 1.0
    with opened(ENV, max_tokens=1000) as session:
        session.start(session.tasks[0])
        session.call("python", {"code": long})
        session.call("python", {"code": long})
        assert str(session.trajectory.stop) == "max_tokens"


def test_a_tokenizer_that_is_named_counts_as_it_does():
    with ToolSession(ENV, tokenizer="bytes", max_tokens=9000) as session:
        session.start(session.tasks[0])
        session.call("python", {"code": "#" + "y" * 10_000})
        assert str(session.trajectory.stop) == "max_tokens"


def test_a_failure_that_is_not_of_length_is_counted_and_one_after_the_end_changes_nothing():
    def fails(session):
        raise TimeoutError("no answer")

    def fails_late(session):
        session.final(session.tasks[0].answers[0])
        fails(session)

    with ToolSession(ENV) as session:
        late, dead = (score(each, session, session.tasks[:1], (TimeoutError,)) for each in (fails_late, fails))
    assert (late.rewards, dict(late.ended)) == ([1.0], {"answered": 1})
    assert (dead.rewards, str(dead)) == ([], "no episode was scored; ended: TimeoutError 1")
