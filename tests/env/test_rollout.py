"""Many episodes on one loop: order, concurrency, failures, seeds."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace

import gymnasium as gym
import pytest

from aster_env.errors import PolicyError, UsageError
from aster_env.limits import Limits
from aster_env.rollout import Completion, RolloutRunner, episode_seed, make_envs, play, rollout
from aster_env.types import StopReason, Task, Trajectory
from tests.support import EchoEnv, ScriptedPolicy

TASKS = [Task(f"t{i}", f"Task {i}.", (str(i),)) for i in range(6)]


def call(code):
    return f'<tool_call>\n{{"name": "python", "arguments": {{"code": "{code}"}}}}\n</tool_call>'


def one_call_then_answer(context, turn):
    number = context.split("Task ")[1][0]
    return call(number) if turn == 0 else f"\\boxed{{{number}}}"


def collect(envs, policy, tasks=TASKS, **options):
    async def main():
        return [t async for t in rollout(envs, policy, tasks, **options)]

    return asyncio.run(main())


def test_every_task_is_played_and_keeps_its_place():
    envs = [EchoEnv() for _ in range(3)]
    done = collect(envs, ScriptedPolicy(envs[0], one_call_then_answer))
    assert sorted(t.index for t in done) == list(range(6))
    assert all(t.task is TASKS[t.index] and t.reward == 1.0 and t.tool_calls == 1 for t in done)
    assert not any(env.tool.open for env in envs)


def test_no_episode_waits_for_another():
    def respond(code):
        return 1.0 if code == "0" else "quick"

    envs = [EchoEnv(respond) for _ in range(2)]
    policy = ScriptedPolicy(envs[0], one_call_then_answer)
    started = time.monotonic()
    order = [t.index for t in collect(envs, policy)]
    assert order[-1] == 0
    assert time.monotonic() - started < 1.8


def test_tools_of_many_episodes_run_at_once():
    envs = [EchoEnv(lambda code: 0.4) for _ in range(6)]
    started = time.monotonic()
    collect(envs, ScriptedPolicy(envs[0], one_call_then_answer))
    assert time.monotonic() - started < 1.6


def test_a_policy_that_fails_masks_its_episode_alone():
    env = EchoEnv()

    class Failing(ScriptedPolicy):
        async def generate(self, request):
            if "Task 2" in self.tokenizer.decode(request.ids):
                raise PolicyError("no answer")
            return await super().generate(request)

    done = {t.index: t for t in collect([env], Failing(env, one_call_then_answer))}
    assert done[2].stop is StopReason.INFRASTRUCTURE
    assert done[2].reward is None
    assert "no answer" in done[2].error
    assert [t.reward for n, t in sorted(done.items()) if n != 2] == [1.0] * 5


def test_an_error_that_is_a_bug_is_raised_not_swallowed():
    env = EchoEnv()

    def broken(context, turn):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        collect([env], ScriptedPolicy(env, broken))


def test_leaving_early_ends_the_other_episodes():
    envs = [EchoEnv(lambda code: 5.0) for _ in range(3)] + [EchoEnv()]
    policy = ScriptedPolicy(envs[0], one_call_then_answer)

    async def main():
        stream = rollout(envs[::-1], policy, TASKS)
        async for trajectory in stream:
            await stream.aclose()
            return trajectory

    started = time.monotonic()
    assert asyncio.run(main()).index == 0
    assert time.monotonic() - started < 3


def test_the_request_holds_what_is_left_and_the_whole_context():
    env = EchoEnv(limits=Limits(max_tokens=1500))
    seen = []

    class Spy(ScriptedPolicy):
        async def generate(self, request):
            seen.append(request)
            return await super().generate(request)

    trajectory = asyncio.run(play(env, Spy(env, one_call_then_answer), TASKS[1], seed=9))
    assert [r.max_new_tokens + len(r.ids) for r in seen] == [1500, 1500]
    assert list(seen[1].ids) == trajectory.ids[: len(seen[1].ids)]
    assert {r.seed for r in seen} == {9}
    assert len({r.episode for r in seen}) == 1
    assert seen[0].stop == env.stop
    assert trajectory.seconds["generation"] >= 0


def test_the_request_holds_the_conversation_in_chat_form_too():
    env = EchoEnv()
    seen = []

    class Spy(ScriptedPolicy):
        async def generate(self, request):
            seen.append(request)
            return await super().generate(request)

    trajectory = asyncio.run(play(env, Spy(env, one_call_then_answer), TASKS[1]))
    assert [[m.role for m in r.messages] for r in seen] == [["user"], ["user", "assistant", "tool"]]
    assert list(seen[1].messages) == trajectory.messages[:3]
    assert all(r.tools == [{"type": "function", "function": env.tool.schema}] for r in seen)


def test_time_that_is_up_ends_an_episode_at_its_turn():
    env = EchoEnv(lambda code: 0.3)

    class Slow(ScriptedPolicy):
        async def generate(self, request):
            if self.turns:
                await asyncio.sleep(60)
            return await super().generate(request)

    started = time.monotonic()
    trajectory = asyncio.run(play(env, Slow(env, one_call_then_answer), TASKS[1], max_seconds=0.2))
    assert time.monotonic() - started < 20
    assert (trajectory.stop, trajectory.reward, trajectory.answer) == (StopReason.MAX_SECONDS, 0.0, None)
    assert [t.role for t in trajectory.turns] == ["environment", "model", "environment"], "the call came to its end"
    assert not env.tool.open
    assert asyncio.run(play(EchoEnv(), ScriptedPolicy(env, one_call_then_answer), TASKS[1], max_seconds=60)).reward == 1


@pytest.mark.parametrize("text", ["I think", "\\boxed{1}", call("1")])
def test_a_limit_of_the_policy_s_own_ends_the_episode_and_keeps_what_was_said(text):
    env = EchoEnv()

    class Short(ScriptedPolicy):
        async def generate(self, request):
            ids = tuple(self.tokenizer.encode(text))
            return Completion(ids, None, "length", {"prompt_tokens": 5, "completion_tokens": 2})

    trajectory = asyncio.run(play(env, Short(env, one_call_then_answer), TASKS[1]))
    assert (trajectory.stop, trajectory.reward) == (StopReason.MAX_TOKENS, 0.0)
    assert trajectory.turns[-1].text == text
    assert trajectory.tool_calls == 0
    assert trajectory.usage == {"prompt_tokens": 5, "completion_tokens": 2}
    assert Trajectory.from_json(json.loads(json.dumps(trajectory.to_json()))).usage == trajectory.usage


def test_what_turns_cost_is_summed_over_the_episode():
    class Counting(ScriptedPolicy):
        async def generate(self, request):
            played = await super().generate(request)
            return replace(played, usage={"prompt_tokens": 10 * len(request.messages), "completion_tokens": 3})

    env = EchoEnv()
    trajectory = asyncio.run(play(env, Counting(env, one_call_then_answer), TASKS[1]))
    assert trajectory.usage == {"prompt_tokens": 40, "completion_tokens": 6}


def test_seeds_of_episodes_differ_and_repeat():
    seeds = {episode_seed(s, i) for s in range(20) for i in range(20)}
    assert len(seeds) == 400
    assert episode_seed(3, 4) == episode_seed(3, 4)


def test_a_runner_plays_again_and_again_and_closes():
    env_kwargs = {"tasks": TASKS}
    with RolloutRunner("ASTER/PythonMath-v0", max_concurrent=2, env_kwargs=env_kwargs) as runner:
        assert runner.envs[0].tasks is runner.envs[1].tasks
        policy = ScriptedPolicy(runner.envs[0], one_call_then_answer)
        for _ in range(2):
            done = runner.run(policy, TASKS)
            assert [t.index for t in done] == list(range(6))
            assert [t.reward for t in done] == [1.0] * 6
    runner.close()


def test_environments_share_tasks_however_they_were_loaded(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "Task 1.", "gold": "1"}\n')
    kwargs = {"tasks": str(path), "fields": {"prompt": "text", "answers": "gold"}}
    first, second = make_envs("ASTER/PythonMath-v0", 2, kwargs)
    assert first.tasks is second.tasks
    assert first.tasks[0].answers == ("1",)


def test_a_runner_checks_its_prompts_before_a_run():
    env_kwargs = {"tasks": [Task("long", "x" * 3000, ("1",))], "max_tokens": 2000}
    with RolloutRunner("ASTER/PythonMath-v0", max_concurrent=1, env_kwargs=env_kwargs) as runner:
        with pytest.raises(UsageError, match="'long'"):
            runner.check_tasks()
        runner.check_tasks([Task("short", "x", ("1",))])
    with RolloutRunner("ASTER/PythonMath-v0", env_kwargs={**env_kwargs, "max_tokens": 9000}) as runner:
        runner.check_tasks()


def test_a_policy_that_returns_garbage_is_named():
    env = EchoEnv()

    class Garbage(ScriptedPolicy):
        async def generate(self, request):
            return Completion((10**6,), (-0.5,))

    with pytest.raises(UsageError, match="Allowed: 0 to"):
        collect([env], Garbage(env, one_call_then_answer))


@pytest.mark.parametrize(
    ("name", "count", "kwargs", "says"),
    [
        ("ASTER/PythonMath-v0", 0, {}, "at least 1"),
        ("ASTER/PythonMath-v1", 1, {}, "ASTER/PythonMath-v0"),
        ("nosuchmodule:X-v0", 1, {}, "nosuchmodule"),
        ("ASTER/PythonMath-v0", 1, {"max_tool_call": 1}, "Did you mean 'max_tool_calls'"),
        ("CartPole-v1", 1, {}, "not a ToolEnv"),
    ],
)
def test_what_cannot_be_made_is_named(name, count, kwargs, says):
    with pytest.raises(UsageError, match=says):
        make_envs(name, count, kwargs)


class Own(EchoEnv):
    """An environment whose tasks are its own affair."""

    def __init__(self, tokenizer=None, render_mode=None):
        super().__init__(tokenizer=tokenizer)


gym.register("OwnTasks-v0", entry_point=Own, disable_env_checker=True)


def test_an_environment_that_takes_no_tasks_can_be_made_many_times():
    with RolloutRunner("OwnTasks-v0", max_concurrent=3) as runner:
        assert len(runner.envs) == 3
    with pytest.raises(UsageError, match="Unknown argument of OwnTasks-v0 'tasks'"):
        RolloutRunner("OwnTasks-v0", env_kwargs={"tasks": []})
