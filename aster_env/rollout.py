"""Policies, and many episodes on one event loop: no episode waits for another."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypeVar, runtime_checkable

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import load_env_creator

from aster_env import loops
from aster_env.env import ToolEnv
from aster_env.errors import InfrastructureError, UsageError, check_name
from aster_env.tasks import share_tasks
from aster_env.types import Task, Trajectory

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """A request for one assistant turn.

    Args:
        ids: the whole context so far, as token ids (prompt, actions and observations).
        max_new_tokens: the most tokens the turn may have: what is left of the episode's budget.
        stop: strings that end the turn; the token that completes one is kept, none follows it.
        episode: names the episode, so that a policy can keep its key/value cache between turns: a later
            request of the same episode extends the ids of the earlier one.
        seed: makes sampling repeatable where the policy supports it; drawn once per episode.
    """

    ids: Sequence[int]
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    episode: str = ""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled turn.

    Args:
        ids: the sampled token ids, the end-of-turn token included.
        logprobs: log-probability of each id under the distribution it was sampled from; None if unknown.
        finish: ``"stop"`` for an end-of-turn token or stop string, ``"length"`` for the token limit.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...] | None = None
    finish: Literal["stop", "length"] = "stop"


@runtime_checkable
class Policy(Protocol):
    """A language model, or anything that plays one."""

    async def generate(self, request: GenerateRequest) -> Completion:
        """Sample one turn.

        Raises:
            PolicyError: the model could not be reached; the episode is masked, not scored.
        """
        ...

    async def release(self, episode: str) -> None:
        """Forget what was kept for ``episode`` (its cache); unknown names are ignored."""
        ...


async def play(env: ToolEnv, policy: Policy, task: Task, *, seed: int = 0, index: int = 0) -> Trajectory:
    """Play one episode and return its trajectory.

    An infrastructure failure ends the episode with ``StopReason.INFRASTRUCTURE``; it is not raised.

    Args:
        env: the environment, free for this episode.
        policy: plays the assistant.
        task: what is asked.
        seed: passed to the environment and, with every request, to the policy.
        index: stored in the trajectory.
    """
    episode = f"{task.id}#{index}#{uuid.uuid4().hex[:8]}"
    observation, info = await env.areset(seed=seed, options={"task": task})
    ids = [int(i) for i in observation]
    try:
        while True:
            request = GenerateRequest(tuple(ids), info["tokens_left"], env.stop, episode, seed)
            started = time.perf_counter()
            try:
                completion = await policy.generate(request)
            except InfrastructureError as error:
                trajectory = await env.abort(error)
                break
            timed = _Timed(completion.ids, completion.logprobs, time.perf_counter() - started)
            observation, _, terminated, truncated, info = await env.astep(timed)
            if terminated or truncated:
                trajectory = info["trajectory"]
                break
            ids.extend(completion.ids)
            ids.extend(int(i) for i in observation)
    finally:
        await policy.release(episode)
    trajectory.index = index
    return trajectory


async def rollout(
    envs: str | Sequence[ToolEnv],
    policy: Policy,
    tasks: Iterable[Task],
    *,
    max_concurrent: int = 64,
    seed: int = 0,
    **env_kwargs: Any,
) -> AsyncIterator[Trajectory]:
    """Play one episode a task and yield each trajectory as it ends, so that none waits for another.

    Args:
        envs: an environment id, or environments to play on (one episode at a time on each).
        policy: plays the assistant in all episodes.
        tasks: one episode each, started in this order; ``trajectory.index`` is a task's position.
        max_concurrent: episodes that live at once, when ``envs`` is an id.
        seed: episode i gets a seed made of this and i.
        **env_kwargs: passed to ``gymnasium.make``.

    Raises:
        UsageError: the environment cannot be made from these arguments.
    """
    queue = enumerate(tasks)
    own = isinstance(envs, str)
    pool = make_envs(envs, max_concurrent, env_kwargs) if isinstance(envs, str) else list(envs)
    ended: asyncio.Queue[Trajectory | None] = asyncio.Queue()

    async def work(env: ToolEnv) -> None:
        try:
            for index, task in queue:
                await ended.put(await play(env, policy, task, seed=episode_seed(seed, index), index=index))
        finally:
            await ended.put(None)

    workers = [asyncio.create_task(work(env)) for env in pool]
    try:
        running = len(workers)
        while running:
            trajectory = await ended.get()
            if trajectory is None:
                running -= 1
            else:
                yield trajectory
            failed = next((w for w in workers if w.done() and not w.cancelled() and w.exception()), None)
            if failed is not None:
                await failed
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        if own:
            await asyncio.gather(*(env.aclose() for env in pool))


def make_envs(env_id: str, count: int, env_kwargs: Mapping[str, Any]) -> list[ToolEnv]:
    """Make ``count`` environments that share their TaskSet and, once in use, their kernel pool."""
    if count < 1:
        raise UsageError(f"max_concurrent={count} is not allowed. Allowed: at least 1.")
    names = _check_arguments(env_id, env_kwargs)
    envs: list[ToolEnv] = []
    for _ in range(count):
        kwargs = dict(env_kwargs)
        if envs and "tasks" in names:
            # The tasks are read or generated once; the other environments share them.
            kwargs = share_tasks(env_kwargs, envs[0].tasks)
        env = gym.make(env_id, **kwargs).unwrapped
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


def episode_seed(seed: int, index: int) -> int:
    """Return a seed below 2**31 for episode ``index``, well spread over both arguments."""
    return int(np.random.SeedSequence((seed, index)).generate_state(1)[0] >> 1)


class RolloutRunner:
    """Blocking rollouts on an event loop of its own; environments and sessions live from one run to the next.

    Args:
        env_id: the environment; ``"package:Name-v0"`` imports the package that registers it.
        max_concurrent: episodes that live at once.
        env_kwargs: passed to ``gymnasium.make``.

    Attributes:
        idle: seconds so far in which every episode waited for something outside this thread.

    Raises:
        UsageError: the environment cannot be made from these arguments.
    """

    def __init__(
        self,
        env_id: str,
        *,
        max_concurrent: int = 64,
        env_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.envs = make_envs(env_id, max_concurrent, env_kwargs or {})
        self._selector = loops.IdleSelector()
        self._runner = asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(self._selector))
        self._task: asyncio.Task[Any] | None = None

    @property
    def idle(self) -> float:  # noqa: D102 (an attribute of the class above)
        return self._selector.seconds

    def check_tasks(self, tasks: Iterable[Task] | None = None) -> None:
        """Check the prompts of tasks, before a model is loaded, without starting a session.

        Args:
            tasks: None: all of the environment's.

        Raises:
            UsageError: a prompt leaves no token to answer with; the text names the tasks and their token counts.
        """
        self._runner.run(self.envs[0].acheck_tasks(tasks))

    def run(self, policy: Policy, tasks: Sequence[Task], seed: int = 0) -> list[Trajectory]:
        """Play one episode a task and return the trajectories in the order of the tasks."""
        return self._runner.run(self._collect(policy, tasks, seed))

    def cancel(self) -> None:
        """Give up the run that is going on, which then raises ``asyncio.CancelledError``; for handlers of signals."""
        task = self._task  # another thread may be about to end it
        if task is not None:
            with contextlib.suppress(RuntimeError):  # its loop is closed
                task.get_loop().call_soon_threadsafe(task.cancel)

    def call(self, function: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run ``function`` on this runner's loop, to close a pool of one's own, say."""
        return self._runner.run(function())

    def close(self) -> None:
        """End every session and process; calling it twice is harmless."""
        envs, self.envs = self.envs, []
        if envs:
            self._runner.run(_close(envs))
        self._runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _collect(self, policy: Policy, tasks: Sequence[Task], seed: int) -> list[Trajectory]:
        self._task = asyncio.current_task()
        try:
            done = [t async for t in rollout(self.envs[: len(tasks)], policy, tasks, seed=seed)]
        finally:
            self._task = None
        return sorted(done, key=lambda trajectory: trajectory.index)


@dataclass(frozen=True, slots=True)
class _Timed:
    """An action with the time its generation took."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...] | None
    seconds: float


async def _close(envs: Sequence[ToolEnv]) -> None:
    await asyncio.gather(*(env.aclose() for env in envs))
