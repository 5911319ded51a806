"""Policies, and many episodes on one event loop: no episode waits for another."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypeVar, runtime_checkable

import numpy as np

from aster_env import loops
from aster_env.env import ToolEnv
from aster_env.errors import InfrastructureError, UsageError
from aster_env.making import Wrapper, make_envs
from aster_env.types import Message, StopReason, Task, Trajectory, Turn

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """A request for one assistant turn.

    Args:
        ids: the whole context so far, as token ids (prompt, actions and observations).
        max_new_tokens: the most tokens the turn may have: what is left of the episode's budget.
        stop: strings that end the turn; the token that completes one is kept, none follows it.
        episode: names the episode, so that a policy can keep its key/value cache between turns: a later request of the
            same episode extends the ids of the earlier one, unless it was released in between.
        seed: makes sampling repeatable where the policy supports it; drawn once per episode.
        messages: the same context in chat form, for a policy that takes no ids.
        tools: what can be called, in OpenAI's form: ``{"type": "function", "function": schema}``.
        turns: the same context as turns, with their calls and results.
    """

    ids: Sequence[int]
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    episode: str = ""
    seed: int = 0
    messages: Sequence[Message] = ()
    tools: Sequence[Mapping[str, Any]] = ()
    turns: Sequence[Turn] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled turn.

    Args:
        ids: the sampled token ids, the end-of-turn token included.
        logprobs: log-probability of each id under the distribution it was sampled from; None if unknown.
        finish: ``"stop"`` for an end-of-turn token or stop string, ``"length"`` for the token limit: the request's, or
            a smaller one of the policy's own, which then ends the episode.
        usage: what the turn cost by the policy's own count, summed over an episode into ``Trajectory.usage``:
            ``"prompt_tokens"`` and ``"completion_tokens"`` of a request, and ``"tokens"``, by how many the episode
            grew; None where the ids are the model's own.
        back: how many of the last turns, each with its result, are taken back before this one is appended: the ids
            were sampled under what is left then.
        module: what wrote the turn, if its ids were sampled under another context; they are not trained on.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...] | None = None
    finish: Literal["stop", "length"] = "stop"
    usage: Mapping[str, int] | None = None
    back: int = 0
    module: str = ""


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


async def play(
    env: ToolEnv, policy: Policy, task: Task, *, seed: int = 0, index: int = 0, max_seconds: float | None = None
) -> Trajectory:
    """Play one episode and return its trajectory.

    An infrastructure failure ends the episode with ``StopReason.INFRASTRUCTURE``; it is not raised.

    Args:
        env: the environment, free for this episode.
        policy: plays the assistant.
        task: what is asked.
        seed: passed to the environment and, with every request, to the policy.
        index: stored in the trajectory.
        max_seconds: when they are over, no further token is sampled, and the episode ends with
            ``StopReason.MAX_SECONDS``; a tool that runs then comes to its end first, within its own time.
    """
    episode = f"{task.id}#{index}#{uuid.uuid4().hex[:8]}"
    usage: Counter[str] = Counter()
    try:
        trajectory = await _turns(env, policy, task, episode, seed, max_seconds, usage)
    finally:
        await policy.release(episode)
    trajectory.index, trajectory.usage = index, dict(usage)
    return trajectory


async def _turns(
    env: ToolEnv, policy: Policy, task: Task, name: str, seed: int, max_seconds: float | None, usage: Counter[str]
) -> Trajectory:
    """Play an episode's turns, and add what they cost to ``usage``."""
    ends = math.inf if max_seconds is None else time.perf_counter() + max_seconds
    _, info = await env.areset(seed=seed, options={"task": task})
    said, tools = env._running().trajectory, info["tools"]
    while True:
        ids, messages, turns = tuple(said.ids), tuple(said.messages), tuple(said.turns)
        request = GenerateRequest(ids, info["tokens_left"], env.stop, name, seed, messages, tools, turns)
        started = time.perf_counter()
        try:
            async with asyncio.timeout(max(0.0, ends - started) if ends < math.inf else None):
                completion = await policy.generate(request)
        except InfrastructureError as error:
            return await env.abort(error)
        except TimeoutError as error:
            # An endpoint says by the cause of its cancellation (only the context in Python 3.11.2) that the time went
            # to its failures.
            why = getattr(error.__cause__ or error.__context__, "__cause__", None)
            return await env.abort(why if isinstance(why, InfrastructureError) else StopReason.MAX_SECONDS)
        usage.update(completion.usage or {})
        seconds = time.perf_counter() - started
        timed = _Timed(completion.ids, completion.logprobs, seconds, completion.back, completion.module)
        if completion.finish == "length" and len(completion.ids) < request.max_new_tokens:
            return await env.abort(StopReason.MAX_TOKENS, timed)
        _, _, terminated, truncated, info = await env.astep(timed)
        if terminated or truncated:
            return said


async def rollout(
    envs: str | Sequence[ToolEnv],
    policy: Policy,
    tasks: Iterable[Task],
    *,
    max_concurrent: int = 64,
    seed: int = 0,
    wrappers: Sequence[Wrapper] = (),
    **env_kwargs: Any,
) -> AsyncIterator[Trajectory]:
    """Play one episode a task and yield each trajectory as it ends, so that none waits for another.

    Args:
        envs: an environment id, or environments to play on (one episode at a time on each).
        policy: plays the assistant in all episodes.
        tasks: one episode each, started in this order; ``trajectory.index`` is a task's position.
        max_concurrent: episodes that live at once, when ``envs`` is an id.
        seed: episode i gets a seed made of this and i.
        wrappers: see ``make_envs``; only when ``envs`` is an id.
        **env_kwargs: passed to ``gymnasium.make``.

    Raises:
        UsageError: the environment cannot be made from these arguments.
    """
    queue = enumerate(tasks)
    own = isinstance(envs, str)
    if wrappers and not own:
        raise UsageError("'wrappers' go around environments that are made here. Fix: wrap those that you pass.")
    pool = make_envs(envs, max_concurrent, env_kwargs, wrappers) if isinstance(envs, str) else list(envs)
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


def episode_seed(seed: int, index: int) -> int:
    """Return a seed below 2**31 for episode ``index``, well spread over both arguments."""
    return int(np.random.SeedSequence((seed, index)).generate_state(1)[0] >> 1)


class RolloutRunner:
    """Blocking rollouts on an event loop of its own; environments and sessions live from one run to the next.

    Args:
        env_id: the environment; ``"package:Name-v0"`` imports the package that registers it.
        max_concurrent: episodes that live at once.
        env_kwargs: passed to ``gymnasium.make``.
        wrappers: see ``make_envs``.

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
        wrappers: Sequence[Wrapper] = (),
    ) -> None:
        self.envs = make_envs(env_id, max_concurrent, env_kwargs or {}, wrappers)
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
    back: int
    module: str


async def _close(envs: Sequence[ToolEnv]) -> None:
    await asyncio.gather(*(env.aclose() for env in envs))
