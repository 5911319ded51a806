"""Policies for `aster eval` as a user would write them, and an environment without sessions."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from pathlib import Path

import gymnasium as gym

from aster_env.errors import PolicyError
from aster_env.evaluate.policies import PolicySpec, Sampling
from aster_env.evaluate.settings import EvalSettings
from aster_env.limits import Limits
from aster_env.types import Task
from tests.support import EchoEnv

ENVIRONMENT = "tests.evaluate.agents:AsterTest/Echo-v0"


class CheapEnv(EchoEnv):
    """Sums, with a tool that echoes; takes the arguments that an evaluation gives."""

    def __init__(self, *, tasks=None, size=6, max_tool_calls=50, max_tokens=32768, **options):
        rows = tasks or [Task(f"t{i}", f"Task {i}. What is {i} + {i}?", (str(2 * i),)) for i in range(size)]
        limits = Limits(max_tool_calls=max_tool_calls, max_tokens=max_tokens)
        super().__init__(str, list(rows), limits=limits, **options)


gym.register("AsterTest/Echo-v0", entry_point=CheapEnv, disable_env_checker=True)


def settings(function="by_seed", environment=ENVIRONMENT, max_tokens=32768, seed=0, **options):
    spec = PolicySpec("python", f"tests.evaluate.agents:{function}")
    return EvalSettings(environment, spec, Sampling(max_tokens=max_tokens, seed=seed), **options)


def call(code):
    return f'<tool_call>\n{{"name": "python", "arguments": {{"code": "{code}"}}}}\n</tool_call>'


def _draw(request):
    """A number that only the episode's seed gives."""
    return int(hashlib.sha256(str(request.seed).encode()).hexdigest(), 16)


def by_seed(request):
    """Some calls, then an answer that is right in half of the episodes: all of it decided by the seed."""
    draw, calls = _draw(request), sum(m.role == "tool" for m in request.messages)
    if calls < draw % 4:
        return "x" * (draw // 7 % 60) + call(str(draw % 1000))
    number = int(request.messages[0].content.split("Task ")[1].split(".")[0]) if "Task " in str(request.messages) else 0
    return f"So \\boxed{{{2 * number + draw // 11 % 2}}}"


async def slow(request):
    """The same, with a pause."""
    await asyncio.sleep(0.02 + _draw(request) % 5 / 100)
    return by_seed(request)


async def hanging(request):
    """Comes to no end."""
    await asyncio.sleep(3600)


def down(request):
    """An endpoint that is down."""
    raise PolicyError("the endpoint answered 503")


def flaky(request):
    """An endpoint that is down for one task, until the file FLAKY_UP is there."""
    if "Task 1." in str(request.messages) and not Path(os.environ["FLAKY_UP"]).exists():
        raise PolicyError("the endpoint answered 503")
    return by_seed(request)


def broken(request):
    """Has a mistake of its author."""
    return [][1]


def uses_python(request):
    """For ASTER/PythonMath-v0: one cell in a real session, then an answer."""
    if not any(m.role == "tool" for m in request.messages):
        return call("print(6 * 7)")
    return f"\\boxed{{{[m.content for m in request.messages if m.role == 'tool'][-1].strip()}}}"


def sleeps_in_python(request):
    """For ASTER/PythonMath-v0: a cell that takes long, and can be seen from outside by its memory."""
    return call("import time; x = b'x' * 400_000_000; time.sleep(600)")


def tells_time(request):
    """Takes a tenth of a second a turn."""
    time.sleep(0.1)
    return by_seed(request)
