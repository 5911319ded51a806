"""Functions and policies that an evaluation is given by name."""

from __future__ import annotations

import threading

import numpy as np

from aster_env.errors import PolicyError
from aster_env.rollout import Completion
from aster_env.tokenizers import ByteTokenizer

CALL = '<tool_call>\n{"name": "python", "arguments": {"code": "print(6 * 7)"}}\n</tool_call>'
THREADS = set()
NOT_CALLABLE = 3


def text(request):
    THREADS.add(threading.current_thread())
    return CALL if request.messages[-1].role == "user" else f"\\boxed{{{request.messages[-1].content.strip()}}}"


async def later(request):
    return text(request)


def ids(request):
    return np.array(ByteTokenizer().encode(text(request) + "<|im_end|>"))


def completion(request):
    return Completion(tuple(ByteTokenizer().encode(text(request) + "<|im_end|>")))


def fails(request):
    raise KeyError("a mistake of its author")


def times_out(request):
    raise TimeoutError("its own")


def unreachable(request):
    raise PolicyError("the model is away")


def nothing(request):
    return None


class Agent:
    closed = 0

    async def generate(self, request):
        return completion(request)

    async def release(self, episode):
        pass

    def close(self):
        Agent.closed += 1


made = Agent()
