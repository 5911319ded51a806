"""Making the environments of a rollout, their arguments checked first."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator

from aster_env.env import ToolEnv
from aster_env.errors import UsageError, check_name
from aster_env.tasks import share_tasks

Wrapper = Callable[[Any], Any]
"""What goes around an environment, as ``aster_env.shaping.FirstCall`` does."""


def make_envs(
    env_id: str, count: int, env_kwargs: Mapping[str, Any], wrappers: Sequence[Wrapper] = ()
) -> list[ToolEnv]:
    """Make ``count`` environments that share their TaskSet and, once in use, their kernel pool.

    Args:
        env_id: the environment.
        count: how many.
        env_kwargs: passed to ``gymnasium.make``.
        wrappers: go around each, the first innermost. The environment inside is what is played, so only a wrapper
            that changes it has an effect: see ``aster_env.shaping``.

    Raises:
        UsageError: the environment cannot be made from these arguments.
    """
    if count < 1:
        raise UsageError(f"max_concurrent={count} is not allowed. Allowed: at least 1.")
    names = _check_arguments(env_id, env_kwargs)
    envs: list[ToolEnv] = []
    for _ in range(count):
        kwargs = dict(env_kwargs)
        if envs and "tasks" in names:
            # The tasks are read or generated once; the other environments share them.
            kwargs = share_tasks(env_kwargs, envs[0].tasks)
        wrapped: Any = gym.make(env_id, **kwargs)
        for wrapper in wrappers:
            wrapped = wrapper(wrapped)
        env = wrapped.unwrapped
        if not isinstance(env, ToolEnv):
            raise UsageError(f"{env_id!r} is a {type(env).__name__}, not a ToolEnv. Fix: pass an ASTER/… environment.")
        envs.append(env)
    return envs


def _check_arguments(env_id: str, env_kwargs: Mapping[str, Any]) -> set[str]:
    """Return an environment's arguments; raise ``UsageError`` for an unknown one, or for an argument it lacks."""
    module, _, name = env_id.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        entry_point = gym.spec(name).entry_point
    except (gym.error.Error, ModuleNotFoundError) as error:
        known = ", ".join(sorted(name for name in gym.registry if name.startswith("ASTER/")))
        raise UsageError(f"{error} Environments of this gym: {known}.") from error
    made: Any = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    classes = made.__mro__[:-1] if isinstance(made, type) else ()
    inits = [vars(c)["__init__"] for c in classes if "__init__" in vars(c)] or [made]
    names: set[str] = set()
    for init in inits:
        kinds = {name: parameter.kind for name, parameter in inspect.signature(init).parameters.items()}
        names |= {name for name, kind in kinds.items() if kind not in (2, 4)} - {"self"}
        if inspect.Parameter.VAR_KEYWORD not in kinds.values():
            break  # nothing is passed on to its base class
    for given in env_kwargs:
        check_name(f"argument of {env_id}", given, sorted(names))
    return names
