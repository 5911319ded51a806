"""Episodes of ToolEnv: limits, stop reasons, views, failures."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from aster_env.errors import JudgeError, KernelError, UsageError
from aster_env.limits import Limits
from aster_env.rollout import Completion
from aster_env.types import Message, StopReason, Task, ToolResult, Trajectory
from tests.support import EchoEnv

CALL = '<tool_call>\n{"name": "python", "arguments": {"code": "1"}}\n</tool_call>'
ANSWER = "\\boxed{2}<|im_end|>"
BROKEN = "<tool_call>{</tool_call>"


@pytest.fixture
def env():
    env = EchoEnv()
    yield env
    env.close()


def say(env, text):
    return env.step(np.array(env.tokenizer.encode(text), dtype=np.int32))


def test_an_episode_of_a_call_and_an_answer(env):
    observation, info = env.reset(options={"task_id": "t1"})
    assert env.tokenizer.decode(observation) == info["text"]
    assert "What is 1 + 1?" in info["text"]
    observation, reward, terminated, truncated, info = say(env, CALL)
    assert (reward, terminated, truncated, info["tool_calls"]) == (0.0, False, False, 1)
    assert [m.role for m in info["messages"]] == ["assistant", "tool"]
    assert info["messages"][1] == Message("tool", "1")
    assert info["mask"].tolist() == [1] * len(env.tokenizer.encode(CALL)) + [0] * len(observation)
    observation, reward, terminated, truncated, info = say(env, ANSWER)
    assert (len(observation), reward, terminated, truncated) == (0, 1.0, True, False)
    assert info["stop"] is StopReason.ANSWERED
    assert info["reward_terms"] == {"correct": 1.0}
    trajectory = info["trajectory"]
    assert trajectory.answer == "2"
    assert trajectory.tool_calls == 1
    assert info["tokens"] == len(trajectory.ids) == len(trajectory.mask) == len(trajectory.logprobs)


def test_actions_and_observations_are_in_their_spaces(env):
    observation, _ = env.reset(seed=1)
    assert observation in env.observation_space
    action = np.array(env.tokenizer.encode(CALL), dtype=np.int32)
    assert action in env.action_space
    assert env.step(action)[0] in env.observation_space


@pytest.mark.parametrize(
    ("turns", "limits", "stop"),
    [
        (["hm<|im_end|>"], {}, StopReason.VOID_TURN),
        (["\\boxed{3}<|im_end|>"], {}, StopReason.ANSWERED),
        ([CALL] * 3, {"max_tool_calls": 2}, StopReason.MAX_TOOL_CALLS),
        ([CALL], {"max_tool_calls": 0}, StopReason.MAX_TOOL_CALLS),
        ([BROKEN] * 3, {"max_invalid_calls": 2}, StopReason.INVALID_CALLS),
        ([BROKEN, BROKEN, CALL, BROKEN, BROKEN, ANSWER], {"max_invalid_calls": 2}, StopReason.ANSWERED),
        (["x" * 5000], {"max_tokens": 2000}, StopReason.MAX_TOKENS),
        ([CALL] * 30, {"max_tokens": 2000}, StopReason.MAX_TOKENS),
        ([CALL, "x" * 2000 + CALL], {"max_tokens": 2000}, StopReason.MAX_TOKENS),
    ],
)
def test_each_end_has_its_reason(turns, limits, stop):
    ran = []
    env = EchoEnv(lambda code: ran.append(code) or "ok", limits=Limits(**limits))
    env.reset(options={"task_id": "t1"})
    for turn in turns:
        _, _, terminated, truncated, info = say(env, turn)
        if info["stop"]:
            break
    assert info["stop"] is stop
    assert truncated == stop.truncated
    assert terminated != truncated
    trajectory = info["trajectory"]
    assert trajectory.tool_calls == info["tool_calls"] == len(ran)
    assert Trajectory.from_json(trajectory.to_json()).tool_calls == len(ran)
    with pytest.raises(UsageError, match="reset"):
        say(env, ANSWER)
    env.close()


def test_a_session_lost_too_often_ends_the_episode(env):
    env.tool.respond = lambda code: (
        setattr(env.tool, "losses", env.tool.losses + 1),
        ToolResult("gone", state="lost"),
    )[1]
    env.reset()
    for _ in range(2):
        assert say(env, CALL)[4]["stop"] is None
    assert say(env, CALL)[4]["stop"] is StopReason.SESSION_LOST


def test_an_infrastructure_failure_is_no_observation_and_no_score(env):
    env.tool.respond = lambda code: KernelError("the sandbox is down")
    env.reset()
    observation, reward, terminated, truncated, info = say(env, CALL)
    assert (len(observation), reward, terminated, truncated) == (0, 0.0, False, True)
    assert info["stop"] is StopReason.INFRASTRUCTURE
    assert isinstance(info["error"], KernelError)
    assert info["trajectory"].reward is None
    assert "sandbox" not in "".join(turn.text for turn in info["trajectory"].turns)
    assert "sandbox is down" in info["trajectory"].error


def test_a_failing_judge_is_no_score(env):
    async def fail(task, trajectory):
        raise JudgeError("no judge")

    env.reward.__class__ = type("Failing", (env.reward.__class__,), {"__call__": lambda self, *a: fail(*a)})
    env.reset()
    info = say(env, ANSWER)[4]
    assert info["stop"] is StopReason.INFRASTRUCTURE
    assert info["trajectory"].reward is None


def test_a_finished_episode_holds_no_session(env):
    env.reset()
    say(env, CALL)
    assert env.tool.open
    say(env, ANSWER)
    assert not env.tool.open


def test_the_text_view_is_the_same_episode(env):
    other = EchoEnv(view="text")
    _, _ = env.reset(options={"task_id": "t1"})
    prompt, _ = other.reset(options={"task_id": "t1"})
    assert isinstance(prompt, str)
    for turn in (CALL, ANSWER):
        end = say(env, turn)
        other_end = other.step(turn)
        assert env.tokenizer.decode(end[0]) == other_end[0]
        assert end[1:4] == other_end[1:4]
    assert end[4]["trajectory"].ids == other_end[4]["trajectory"].ids
    other.close()


def test_the_same_seed_and_actions_give_the_same_bytes():
    def play(env):
        rows = [env.reset(seed=11)[0].tobytes()]
        rows += [say(env, turn)[0].tobytes() for turn in (CALL, BROKEN, ANSWER)]
        rows.append(env.reset()[0].tobytes())
        env.close()
        return rows

    assert play(EchoEnv()) == play(EchoEnv())
    assert len({play(EchoEnv())[0] for _ in range(3)}) == 1


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda env: env.step("text"), "token ids"),
        (lambda env: env.step(np.array([[1]])), "one-dimensional"),
        (lambda env: env.step(np.array([0.5])), "of integers"),
        (lambda env: env.step([-1]), "Allowed: 0 to"),
        (lambda env: env.step([10**6]), "Allowed: 0 to"),
        (lambda env: env.step([[1], [2, 3]]), "one-dimensional"),
        (lambda env: env.step(Completion((10**6,))), "Allowed: 0 to"),
        (lambda env: env.step(Completion((0.5,))), "of integers"),
        (lambda env: env.step(Completion((1, 2), (-0.5,))), "1 'logprobs' for 2 ids"),
        (lambda env: env.step(Completion((1, 2), (-0.5, None))), "'logprobs' must be numbers"),
        (lambda env: env.step(Completion((1, 2), -0.5)), "'logprobs' must be numbers"),
        (lambda env: env.reset(options={"task_idd": "t1"}), "task_id"),
        (lambda env: env.reset(options={"task_id": "t11"}), "Did you mean 't1'"),
        (lambda env: env.reset(options={"task": "t1"}), "aster_env.types.Task"),
        (lambda env: env.reset(options={"task": Task("long", "x" * 40000, ("1",))}), "max_tokens"),
    ],
)
def test_bad_input_is_named_and_costs_nothing(env, act, says):
    env.reset(options={"task_id": "t1"})
    with pytest.raises(UsageError, match=says):
        act(env)
    env.reset(options={"task_id": "t1"})
    assert say(env, ANSWER)[1] == 1.0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dialect": "hermess"}, "Did you mean 'hermes'"),
        ({"view": "txt"}, "Did you mean 'text'"),
        ({"tokenizer": 3}, "tokenizer"),
    ],
)
def test_bad_arguments_are_named(options, says):
    with pytest.raises(UsageError, match=says):
        EchoEnv(**options)


@pytest.mark.parametrize("limits", [{"max_tool_calls": -1}, {"max_tokens": 0}, {"max_tool_calls": 1.5}])
def test_bad_limits_are_named(limits):
    (name,) = limits
    with pytest.raises(UsageError, match=name):
        Limits(**limits)


def test_prompts_that_are_too_long_are_named_before_a_run():
    tasks = [Task("short", "x", ("1",)), Task("long", "x" * 3000, ("1",)), Task("longer", "x" * 4000, ("1",))]
    env = EchoEnv(tasks=tasks, limits=Limits(max_tokens=2500))
    with pytest.raises(UsageError, match=r"2 prompts .*'longer' .*'long'") as caught:
        asyncio.run(env.acheck_tasks())
    assert "short" not in str(caught.value)
    assert not env.tool.open
    asyncio.run(EchoEnv(tasks=tasks).acheck_tasks())


def test_prompts_can_be_checked_before_the_environment_is_used_on_another_loop():
    env = EchoEnv(limits=Limits(max_tokens=2500))
    env.check_tasks()
    with pytest.raises(UsageError, match=r"max_tokens is 2500.*'long' \([0-9]+\). Fix: raise max_tokens"):
        env.check_tasks([*env.tasks, Task("long", "x" * 3000, ("1",))])

    async def main():
        await env.areset()
        await env.aclose()

    asyncio.run(main())


def test_checking_prompts_leaves_a_running_episode_alone(env):
    env.reset(options={"task_id": "t1"})
    env.check_tasks()
    assert say(env, ANSWER)[1] == 1.0


def test_a_completion_brings_its_logprobs(env):
    env.reset(options={"task_id": "t1"})
    ids = tuple(env.tokenizer.encode(ANSWER))
    logprobs = tuple(-0.1 * n for n in range(len(ids)))
    trajectory = env.step(Completion(ids, logprobs))[4]["trajectory"]
    assert trajectory.model_turns[0].logprobs == logprobs
    assert trajectory.logprobs[-len(ids) :] == list(logprobs)


def test_an_environment_keeps_to_one_event_loop(env):
    env.reset()
    with pytest.raises(UsageError, match="another event loop"):
        asyncio.run(env.areset())


def test_render_is_the_episode_so_far(env):
    env.reset()
    say(env, CALL)
    assert CALL in env.render()
