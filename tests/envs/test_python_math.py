"""ASTER/PythonMath-v0 as its users meet it: Gymnasium's checker, real sessions, vectors, real questions."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import aster_env
from aster_env.envs.python_math.env import PythonMathEnv
from aster_env.errors import UsageError
from aster_env.types import StopReason, Task
from aster_train.tiny.controls import InertPool
from tests.kernels.servers import below
from tests.kernels.test_ipykernel import alive, wait_until_gone
from tests.support import ExactReward

OPTIONS = {"task_options": {"size": 8}}


def call(code):
    return f"<tool_call>\n{json.dumps({'name': 'python', 'arguments': {'code': code}})}\n</tool_call>"


def make(**options):
    return gym.make("ASTER/PythonMath-v0", **OPTIONS, **options)


def say(env, text):
    return env.step(np.array(env.unwrapped.tokenizer.encode(text), dtype=np.int32))


def test_gymnasiums_checker_passes():
    env = make().unwrapped
    check_env(env, skip_render_check=True)
    env.close()


def test_check_env_passes_for_text():
    env = make(view="text").unwrapped
    check_env(env, skip_render_check=True)
    env.close()


def test_an_episode_with_a_real_session():
    env = make(view="text", timeout=2)
    prompt, info = env.reset(seed=3)
    task = env.unwrapped.tasks.get(info["task_id"])
    assert task.prompt in prompt
    assert "\\boxed{}" in prompt
    text = env.step(call("x = 6 * 7\nx"))[0]
    assert "42" in text
    assert "ZeroDivisionError" in env.step(call("x / 0"))[0]
    assert "43" in env.step(call("x + 1"))[0]
    late = env.step(call("while True: pass"))
    assert "longer than 2 s" in late[0]
    assert "kept" in late[0]
    assert "43" in env.step(call("x + 1"))[0]
    assert "no output" in env.step(call("y = 1"))[0]
    assert "Unknown tool" in env.step('<tool_call>{"name": "pyhton", "arguments": {"code": "1"}}</tool_call>')[0]
    alias = env.step('<tool_call>{"name": "code_interpreter", "arguments": {"code": "x"}}</tool_call>')
    assert "42" in alias[0]
    _, reward, terminated, _, info = env.step(f"So \\boxed{{{task.answers[0]}}}")
    assert (reward, terminated) == (1.0, True)
    assert info["tool_calls"] == 7
    results = info["trajectory"].results
    assert [result.ok for result in results] == [True, False, True, False, True, True, False, True]
    assert [result.timed_out for result in results].count(True) == 1
    env.close()


def test_output_is_bounded_with_the_count_of_what_was_dropped():
    env = make(view="text", max_output=100)
    env.reset(seed=0)
    text = env.step(call("print('a' * 500 + 'b' * 500)"))[0]
    assert "[… 900 characters dropped …]" in text
    assert "a" * 50 in text
    assert "b" * 50 in text
    assert "a" * 51 not in text
    env.close()


def test_each_episode_has_its_own_session():
    env = make(view="text")
    env.reset(seed=0)
    env.step(call("secret = 5\nimport math\nmath.mark = 1"))
    env.reset(seed=0)
    assert "NameError" in env.step(call("secret"))[0]
    assert "AttributeError" in env.step(call("import math\nmath.mark"))[0]
    env.close()


def test_the_same_seed_and_actions_give_the_same_bytes():
    def play():
        env = make()
        rows = [env.reset(seed=5)[0].tobytes()]
        rows += [say(env, call(code))[0].tobytes() for code in ("x = 2**64\nx", "print(x)\ny", "1 +")]
        env.close()
        return rows

    assert play() == play()


def test_vectors_run_their_tools_at_once_and_reset_themselves():
    envs = gym.make_vec("ASTER/PythonMath-v0", num_envs=4, **OPTIONS, view="text")
    observations, info = envs.reset(seed=0)
    assert len(observations) == 4
    assert info["_task_id"].all()
    envs.step([call("1")] * 4)
    started = time.monotonic()
    envs.step([call("import time; time.sleep(1)")] * 4)
    assert time.monotonic() - started < 3
    answers = [f"\\boxed{{{envs.envs[i].tasks.get(info['task_id'][i]).answers[0]}}}" for i in range(4)]
    answers[3] = call("1")
    _, rewards, terminated, truncated, info = envs.step(answers)
    assert rewards.tolist() == [1.0, 1.0, 1.0, 0.0]
    assert terminated.tolist() == [True, True, True, False]
    assert not truncated.any()
    assert info["stop"][0] is StopReason.ANSWERED
    observations, rewards, terminated, _, info = envs.step(["ignored"] * 3 + [call("2")])
    assert rewards.tolist() == [0.0] * 4
    assert not terminated.any()
    assert info["tool_calls"].tolist() == [0, 0, 0, 4]
    assert all("?" in o for o in observations[:3])
    envs.close()


def test_same_step_autoreset_keeps_the_end_of_the_episode():
    envs = gym.make_vec("ASTER/PythonMath-v0", num_envs=2, autoreset_mode="SameStep", **OPTIONS, view="text")
    envs.reset(seed=0)
    _, _, terminated, _, info = envs.step(["hm", call("1")])
    assert terminated.tolist() == [True, False]
    assert info["final_info"]["stop"][0] is StopReason.VOID_TURN
    assert info["stop"][0] is None
    envs.close()


def test_the_environments_of_a_vector_share_their_tasks_and_their_judges():
    envs = gym.make_vec("ASTER/PythonMath-v0", num_envs=3, **OPTIONS, view="text")
    assert len({id(env.tasks) for env in envs.envs}) == 1
    envs.reset(seed=0)
    envs.step(["\\boxed{x/2}"] * 3)
    assert len({id(env.reward._judges) for env in envs.envs}) == 1
    pids = envs.envs[0].reward._judges.pids
    assert 1 <= len(pids) <= 2
    assert all(map(alive, pids))
    envs.close()
    assert not any(map(alive, pids))


def test_environments_share_their_judges_until_the_last_is_closed():
    first, second = make(view="text").unwrapped, make(view="text").unwrapped
    for env in (first, second):
        env.reset(seed=0)
        env.step("\\boxed{x/2}")
    pids = second.reward._judges.pids
    first.close()
    assert any(map(alive, pids))
    second.reset(options={"task": Task("half", "?", ("x/2",))})
    assert second.step("\\boxed{0.5x}")[1] == 1.0
    assert second.reward._judges.pids == pids
    second.close()
    assert not any(map(alive, pids))


def test_code_that_is_no_unicode_costs_a_call_not_the_run():
    env = make(view="text")
    env.reset(seed=0)
    half = env.step('<tool_call>{"name": "python", "arguments": {"code": "print(\'\\ud83d\')"}}</tool_call>')
    assert "surrogate" in half[0]
    assert half[4]["tool_calls"] == 0
    assert "42" in env.step(call("6 * 7"))[0]
    env.close()


def test_a_flood_from_a_child_process_is_bounded_and_counted():
    options = {"pool": "ipykernel", "allow_unsandboxed": True, "pool_options": {"max_output": 1000}}
    env = make(view="text", max_output=100, **options)
    env.reset(seed=0)
    text, _, _, _, info = env.step(call("import os\n_ = os.system('seq 1 400000')"))
    assert "2687895 further characters of output were dropped" in text
    assert info["tool_calls"] == 1
    env.close()


def test_columns_are_found_or_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "Q", "gold": "1"}\n')
    fields = {"prompt": "text", "answers": "gold"}
    envs = gym.make_vec("ASTER/PythonMath-v0", num_envs=2, tasks=str(path), fields=fields)
    assert [env.tasks[0].prompt for env in envs.envs] == ["Q", "Q"]
    envs.close()
    with pytest.raises(UsageError, match="prompt"):
        gym.make("ASTER/PythonMath-v0", tasks=str(path))


def test_sessions_of_the_default_pool_are_isolated():
    env = make(view="text")
    env.reset(seed=0)
    refused = env.step(call(f"open({__file__!r})"))[4]
    assert "Error" in refused["text"]
    assert "import socket" not in refused["text"]
    env.step(call("import socket\nsocket.create_connection(('127.0.0.1', 9), 1)"))
    assert [result.ok for result in env.unwrapped._episode.trajectory.results] == [False, False]
    env.close()


def test_an_episode_with_stock_kernels_needs_the_users_word():
    with pytest.raises(UsageError, match=r"does not isolate.*Fix: pass allow_unsandboxed=True"):
        make(pool="ipykernel")
    env = make(pool="ipykernel", allow_unsandboxed=True, view="text")
    env.reset(seed=0)
    assert "42" in env.step(call("x = 42\nx"))[0]
    env.close()


def test_the_users_word_reaches_the_pools_that_know_it():
    env = make(allow_unsandboxed=True)
    env.reset(seed=0)
    assert env.unwrapped._leased.settings.unsandboxed
    env.close()
    make(allow_unsandboxed=True, pool="gateway", pool_options={"url": "http://127.0.0.1:9"})


@pytest.mark.parametrize("pool", ["zygote", "ipykernel"])
def test_where_no_session_can_be_made_the_error_names_a_pool_that_works(monkeypatch, pool):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UsageError, match=f"'{pool}' needs Linux, and this is darwin. Fix: .*'gateway'"):
        make(pool=pool, allow_unsandboxed=True)


def test_no_process_is_left_after_sigkill_of_the_program():
    program = textwrap.dedent("""
        import gymnasium as gym, aster_env, sys, time
        env = gym.make("ASTER/PythonMath-v0", view="text", task_options={"size": 2})
        env.reset(seed=0)
        call = '<tool_call>{"name": "python", "arguments": {"code": "6 * 7"}}</tool_call>'
        print("42" in env.step(call)[0], flush=True)
        time.sleep(1000)
    """)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline() == "True\n"
        processes = below(parent.pid)
        assert processes
        parent.kill()
    wait_until_gone(processes)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("ASTER/PythonMath-v0", {"dialect": "herms"}, "Did you mean 'hermes'"),
        ("ASTER/PythonMath-v0", {"tasks": "aime_25"}, "Did you mean"),
        ("ASTER/PythonMath-v0", {"pool": "ipykernle"}, "Did you mean 'ipykernel'"),
        ("ASTER/PythonMath-v0", {"pool": 3}, "pool=3 is a int"),
        ("ASTER/PythonMath-v0", {"pool_options": {"max_kernel": 1}}, "Did you mean 'max_kernels'"),
        ("ASTER/PythonMath-v0", {"pool_options": {"max_kernels": 0}}, "max_kernels=0"),
        ("ASTER/PythonMath-v0", {"pool_options": 3}, "pool_options=3 is a int"),
        ("ASTER/PythonMath-v0", {"pool": InertPool(), "pool_options": {"a": 1}}, "a pool that is open"),
        ("ASTER/PythonMath-v0", {"allow_unsandboxed": "yes"}, "allow_unsandboxed='yes'"),
        ("ASTER/PythonMath-v0", {"timeout": 0}, "timeout=0"),
        ("ASTER/PythonMath-v0", {"timeout": "30"}, "timeout='30'"),
        ("ASTER/PythonMath-v0", {"timeout": float("nan")}, "timeout=nan"),
        ("ASTER/PythonMath-v0", {"max_output": 0}, "max_output=0"),
        ("ASTER/PythonMath-v0", {"max_output": 1.5}, "max_output=1.5"),
        ("ASTER/PythonMath-v0", {"fields": {"prompt": "x"}}, "does not apply to the generated family"),
        ("ASTER/PythonMath-v0", {"max_tool_calls": -1}, "max_tool_calls=-1"),
        ("ASTER/PythonMath-v0", {"tokenizer": "./no/such/folder"}, "no/such/folder"),
    ],
)
def test_bad_arguments_are_named_before_anything_starts(name, options, says):
    with pytest.raises(UsageError, match=says):
        gym.make(name, **options)


def test_an_unknown_environment_gets_gymnasiums_suggestion():
    with pytest.raises(gym.error.NameNotFound, match="PythonMath"):
        gym.make("ASTER/PythonMaths-v0")


def test_importing_the_gym_pulls_in_no_torch():
    program = "import sys, aster_env, gymnasium; gymnasium.make('ASTER/PythonMath-v0')\n"
    program += "print([m for m in ('torch', 'transformers', 'trl', 'datasets') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_gold_answer_scores_one_and_every_empty_one_zero():
    """On the generated family, through the environment; real sets are checked by benchmarks/gold.py."""
    env = PythonMathEnv(**OPTIONS, view="text")
    for task in env.tasks:
        for answer, expected in ((task.answers[0], 1.0), ("", 0.0)):
            env.reset(options={"task_id": task.id})
            assert env.step(f"\\boxed{{{answer}}}")[1] == expected
    env.close()


def test_the_version_is_the_packages():
    import importlib.metadata

    assert aster_env.__version__ == importlib.metadata.version("aster-gym")
    assert Path(aster_env.__file__).with_name("py.typed").exists()


@pytest.mark.parametrize("dialect", ["hermes", "tags"])
def test_where_the_tool_is_required_an_answer_before_it_is_refused_and_the_episode_goes_on(dialect):
    env = make(view="text", require_tool=True, dialect=dialect, max_invalid_calls=2)
    write = env.unwrapped.dialect
    for wrong in (0, 1):
        _, info = env.reset(seed=0)
        gold = env.unwrapped.tasks.get(info["task_id"]).answers[0]
        answer = write.answer(gold) + "<|im_end|>"
        observation, _, terminated, truncated, info = env.step(answer)
        assert "Call 'python' first" in observation
        assert not terminated
        assert not truncated
        assert info["tool_calls"] == 0
        # A call that is not executed does not count.
        assert "Unknown tool" in env.step(write.call("search", {"query": "x"}))[0]
        if wrong:
            assert env.step(answer)[-1]["stop"] is StopReason.INVALID_CALLS
            continue
        assert "2" in env.step(write.call("python", {"code": "1 + 1"}))[0]
        _, reward, terminated, _, info = env.step(answer)
        assert (reward, terminated, info["stop"]) == (1.0, True, StopReason.ANSWERED)
        refused = [call for turn in info["trajectory"].model_turns for call in turn.calls if call.problem]
        assert [call.name for call in refused] == ["answer", "search"]
    env.close()


def test_without_the_option_an_answer_needs_no_tool():
    env = make(view="text")
    _, info = env.reset(seed=0)
    step = env.step(f"\\boxed{{{env.unwrapped.tasks.get(info['task_id']).answers[0]}}}")
    assert step[1:3] == (1.0, True)
    env.close()


def test_the_reward_of_tool_star_scores_form_before_the_answer():
    env = make(view="text", reward="toolstar", dialect="tags")
    scores = []
    for thought in ("<think>easy</think>", ""):
        _, info = env.reset(seed=0)
        gold = env.unwrapped.tasks.get(info["task_id"]).answers[0]
        env.step(thought + "<python>1 + 1</python>")
        scores.append(env.step(f"<answer>\\boxed{{{gold}}}</answer>")[1])
    assert scores == [1.0, -1.0]
    env.close()


def test_a_reward_of_ones_own_is_used():
    env = make(view="text", reward=ExactReward())
    _, info = env.reset(seed=0)
    gold = env.unwrapped.tasks.get(info["task_id"]).answers[0]
    assert env.step(f"\\boxed{{{gold}.0}}")[1] == 0.0
    env.close()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"reward": "toolstra"}, "Did you mean 'toolstar'"),
        ({"reward": "toolstar"}, "Fix: dialect='tags'"),
        ({"reward": 3}, "Allowed: 'math', 'toolstar', or a Reward"),
        ({"require_tool": "yes"}, "Allowed: True or False"),
        ({"require_tool": True, "reward": "toolstar", "dialect": "tags"}, "Fix: require_tool=False, or another reward"),
    ],
)
def test_wrong_rewards_and_requirements_are_named(options, says):
    with pytest.raises(UsageError, match=says):
        make(**options)
