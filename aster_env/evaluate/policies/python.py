"""A policy that is a Python function: ``module:function``."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from typing import Any

import numpy as np

from aster_env.dialects.base import Dialect
from aster_env.errors import UnknownNameError, UsageError
from aster_env.evaluate.policies.base import OpenPolicy, Sampling
from aster_env.evaluate.policies.spec import PolicySpec
from aster_env.evaluate.policies.writing import encode_turn
from aster_env.rollout import Completion, GenerateRequest, Policy


class FunctionPolicy:
    """Plays what a function returns: a turn's text, its token ids, or a ``Completion``.

    An exception of the function is its author's to see and stops the evaluation, unless it is an
    ``InfrastructureError`` (``PolicyError``, say): then the episode is masked.

    Args:
        function: takes the request. It may be ``async``; one that is not runs in a thread, and several at once. A
            thread cannot be interrupted: after an episode's time is up, the call goes on to its own end.
        concurrency: threads.
    """

    def __init__(self, function: Callable[[GenerateRequest], Any], concurrency: int = 16) -> None:
        self._function = function
        self._dialect: Dialect | None = None
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="aster-policy")

    def attach(self, dialect: Dialect) -> None:
        """Say in which dialect and with which tokenizer text becomes ids."""
        self._dialect = dialect

    async def generate(self, request: GenerateRequest) -> Completion:
        """Return the function's turn.

        Raises:
            UsageError: what it returned is no turn.
        """
        try:
            if inspect.iscoroutinefunction(self._function):
                said = await self._function(request)
            else:
                said = await asyncio.get_running_loop().run_in_executor(self._threads, self._function, request)
                if inspect.isawaitable(said):
                    said = await said
        except TimeoutError as error:
            # As it is, it would be taken for the end of the episode's time.
            raise RuntimeError(f"The policy's function raised {type(error).__name__}: {error}") from error
        except Exception as error:
            # It goes on as it is; a traceback alone does not say whose it is.
            error.add_note(
                f"The policy's function {getattr(self._function, '__qualname__', self._function)} raised it."
            )
            raise
        return self._completion(said)

    async def release(self, episode: str) -> None:
        """Do nothing: a function keeps nothing for an episode."""

    async def close(self) -> None:
        """Start no further call; one that runs in a thread comes to its own end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _completion(self, said: Any) -> Completion:
        if isinstance(said, Completion):
            return said
        if isinstance(said, str):
            if self._dialect is None:
                raise UsageError("A function that returns text needs a dialect. Fix: OpenPolicy.attach(env.dialect).")
            return Completion(encode_turn(said, self._dialect))
        if isinstance(said, np.ndarray):
            said = said.tolist()
        if isinstance(said, Sequence) and all(isinstance(i, int | np.integer) for i in said):
            return Completion(tuple(int(i) for i in said))
        raise UsageError(
            f"The policy's function returned {said!r:.80}, a {type(said).__name__}. Allowed: a str (the turn's text), "
            "a sequence of token ids, or an aster_env.rollout.Completion."
        )


async def open_python(spec: PolicySpec, sampling: Sampling) -> OpenPolicy:
    """Import ``module:function``; a class, or an object, with ``generate`` and ``release`` is a policy as it is.

    Raises:
        UsageError: the module or the name in it is not there, or it cannot be called.
    """
    target = await asyncio.to_thread(load_function, spec.model)
    described = {"kind": "python", "model": spec.model, "tokenizer": spec.tokenizer or "bytes"}
    tokenizer = spec.tokenizer or None
    if isinstance(target, type) and isinstance(target, Policy):
        target = target()
    if isinstance(target, Policy):
        return OpenPolicy(target, tokenizer, described, on_close=getattr(target, "close", None))
    if not callable(target):
        raise UsageError(
            f"{spec.model!r} is of the type {type(target).__name__}. Allowed: a function of a request, or an object "
            "with 'async generate(request)' and 'async release(episode)'."
        )
    policy = FunctionPolicy(target, **spec.options)
    return OpenPolicy(policy, tokenizer, described, on_attach=policy.attach, on_close=policy.close)


def load_function(target: str) -> Any:
    """Import what ``module:name`` names.

    Raises:
        UsageError: the module or the name in it is not there.
    """
    module, _, name = target.partition(":")
    if os.getcwd() not in sys.path and "" not in sys.path:
        # The `aster` command's own folder is on the path, not the one where it is called; nothing is hidden by this.
        sys.path.append(os.getcwd())
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise UsageError(
            f"policy {target!r}: there is no module {error.name!r}. Fix: call the command in the module's folder, or "
            "set PYTHONPATH."
        ) from error
    try:
        return reduce(getattr, name.split("."), loaded)
    except AttributeError as error:
        public = [n for n, value in vars(loaded).items() if callable(value) and not n.startswith("_")]
        raise UnknownNameError(f"name in {module}", name, public) from error
