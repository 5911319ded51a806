"""One session: a ToolEnv as an OpenEnv environment."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import numpy as np
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import EnvironmentMetadata

from aster_env.env import ToolEnv
from aster_env.errors import InfrastructureError, UsageError, check_name
from aster_env.serve.openenv_models import AsterAction, AsterObservation, AsterState
from aster_env.serve.sessions import Sessions, while_present
from aster_env.tools.python import PythonTool
from aster_env.types import StopReason, Task

SPLIT = "tasks"
"""The name of the only split: a service's tasks are what its environment was made with."""
RESERVED = ("reset", "step", "state", "close")
"""Names that OpenEnv keeps for itself; no tool may have one."""


class AsterEnvironment(Environment[AsterAction, AsterObservation, AsterState]):
    """A session of a service; its ToolEnv is made by the first ``reset`` and closed with the session.

    A task's reference answers are in no observation, state or metadata. An infrastructure failure is raised, with the
    name of its class in the text, so that no client takes it for an observation; the next ``reset`` starts anew.

    Args:
        sessions: makes the ToolEnv.
    """

    SUPPORTS_CONCURRENT_SESSIONS = True
    REQUIRES_SINGLE_THREAD_EXECUTOR = True  # only making and closing run there, at once: no thread a session

    def __init__(self, sessions: Sessions) -> None:
        super().__init__()
        self._sessions = sessions
        self._env: ToolEnv | None = None
        self._tools: list[Mapping[str, Any]] = []
        self._closed = self._charged = False
        self._one = asyncio.Lock()
        self._state = AsterState()
        self.mcp_client = _ToolCalls(self)

    @property
    def state(self) -> AsterState:
        """Where the episode is."""
        return self._state

    def get_metadata(self) -> EnvironmentMetadata:
        """Return the environment's name and what it is."""
        tasks = len(self._sessions.tasks)
        text = f"{self._sessions.env_id}: episodes of tool use over {tasks} tasks, scored by the environment."
        return EnvironmentMetadata(name=self._sessions.env_id, description=text, version="0.1.0")

    async def reset_async(
        self, seed: int | None = None, episode_id: str | None = None, **options: Any
    ) -> AsterObservation:
        """Start an episode.

        Args:
            seed: chooses the task; the same seed chooses the same.
            episode_id: the episode's name in ``state``; one is made up otherwise.
            **options: ``task_id``, or ``index`` (with ``split``), to choose the task.

        Raises:
            UsageError: an unknown option, task or index.
            InfrastructureError: what the tools run on is not there.
        """
        task = self._choose(options)
        if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool) or seed < 0):
            raise UsageError(f"seed={seed!r} is not allowed. Allowed: a whole number of at least 0.")
        async with self._alone():
            env = self._env = self._env or await self._sessions.take()
            self._state = AsterState()
            ids, info = await while_present(_begin(env, seed, {} if task is None else {"task": task}))
            self._state = AsterState(episode_id=str(episode_id or uuid.uuid4())[:255])
            self._tools = [tool["function"] for tool in info["tools"]]
            return self._observe(ids, info, tools=[dict(tool) for tool in info["tools"]], stop_strings=list(env.stop))

    async def step_async(self, action: AsterAction, timeout_s: float | None = None, **_: Any) -> AsterObservation:
        """Play one assistant turn.

        Args:
            action: the turn.
            timeout_s: not used: a call's time limit is the environment's.

        Raises:
            UsageError: no episode is running, or the action is not in the action space.
            InfrastructureError: something outside the model failed; the episode is over and not scored.
        """
        async with self._alone():
            env = self._env
            if env is None or self._state.episode_id is None:
                raise UsageError("step was sent without a running episode. Fix: send reset first.")
            turn = _written(env, action)
            ids, reward, terminated, truncated, info = await while_present(env.astep(turn))
            self._state.step_count += 1
            failed, done = info["stop"] is StopReason.INFRASTRUCTURE, terminated or truncated
            observation = self._observe(ids, info, done=done, reward=reward if done and not failed else None)
            if failed:
                raise info["error"]
            return observation

    def reset(self, seed: int | None = None, episode_id: str | None = None, **options: Any) -> AsterObservation:
        """Start an episode, from another thread than the service's."""
        coroutine = self.reset_async(seed, episode_id, **options)
        return asyncio.run_coroutine_threadsafe(coroutine, self._sessions.loop).result()

    def step(self, action: AsterAction, timeout_s: float | None = None, **_: Any) -> AsterObservation:
        """Play one assistant turn, from another thread than the service's."""
        return asyncio.run_coroutine_threadsafe(self.step_async(action), self._sessions.loop).result()

    def close(self) -> None:
        """End the session, after the request that is being answered; returns at once, from any thread."""
        self._closed = True
        if not self._one.locked():
            self._give_back()

    @contextlib.asynccontextmanager
    async def mcp_session(self) -> AsyncIterator[None]:
        """Count the session for its client, once; OpenEnv enters it with every session, whatever it is used for."""
        if self._charged:
            yield
            return
        with self._sessions.charge():
            self._charged = True
            yield

    def list_splits(self) -> list[str]:
        """Return the names of the splits."""
        return [SPLIT]

    def num_tasks(self, split: str) -> int:
        """Return how many tasks there are."""
        check_name("split", split, (SPLIT,))
        return len(self._sessions.tasks)

    def list_tasks(self, split: str) -> list[dict[str, Any]]:
        """Return every task without its answers."""
        return self.get_task_range(split)

    def get_task(self, split: str, index: int) -> dict[str, Any]:
        """Return a task without its answers."""
        if not 0 <= index < self.num_tasks(split):
            raise IndexError(index)
        return _shown(index, self._sessions.tasks[index])

    def get_task_range(self, split: str, start: int | None = None, stop: int | None = None) -> list[dict[str, Any]]:
        """Return the tasks of a slice without their answers."""
        return [_shown(index, self._sessions.tasks[index]) for index in range(self.num_tasks(split))[start:stop]]

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Answer one request at a time, none of a session that is closed; name what fails."""
        async with self._one:
            try:
                if self._closed:
                    raise UsageError("The session is closed. Fix: connect again.")
                with _named():
                    yield
            finally:
                if self._closed:
                    self._give_back()

    def _give_back(self) -> None:
        env, self._env = self._env, None
        if env is not None:
            self._sessions.give_back(env)

    def _choose(self, options: dict[str, Any]) -> Task | None:
        for name in options:
            check_name("reset option", name, ("task_id", "index", "split"))
        check_name("split", options.get("split", SPLIT), (SPLIT,))
        tasks, index = self._sessions.tasks, options.get("index")
        if index is not None:
            if not isinstance(index, int) or not 0 <= index < len(tasks):
                raise UsageError(f"index={index!r} is not allowed. Allowed: 0 to {len(tasks) - 1}.")
            return tasks[index]
        return None if options.get("task_id") is None else tasks.get(str(options["task_id"]))

    def _observe(self, ids: Any, info: dict[str, Any], **more: Any) -> AsterObservation:
        """Take the counts of a step into the state, and return what the client is shown."""
        counts = {name: info[name] for name in ("task_id", "tool_calls", "tokens_left")}
        stop = None if info["stop"] is None else str(info["stop"].value)
        for name, value in (*counts.items(), ("tokens", info["tokens"]), ("stop", stop)):
            setattr(self._state, name, value)
        self._state.reward = more.get("reward")
        messages = [{"role": message.role, "content": message.content} for message in info["messages"]]
        return AsterObservation(
            text=info["text"],
            ids=[int(i) for i in ids],
            messages=messages,
            stop=stop,
            reward_terms=dict(info.get("reward_terms", {})),
            **counts,
            **more,
        )


class _ToolCalls:
    """The session's tools over MCP: ``tools/call`` is a step, in an episode that is begun where none is."""

    def __init__(self, environment: AsterEnvironment) -> None:
        self._environment = environment

    def is_connected(self) -> bool:
        return True

    async def list_tools(self) -> list[dict[str, Any]]:
        await self._playing()
        return [
            {"name": tool["name"], "description": tool["description"], "inputSchema": dict(tool["parameters"])}
            for tool in self._environment._tools
        ]

    async def call_tool(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        await self._playing()
        check_name("tool", name, [tool["name"] for tool in self._environment._tools])
        observation = await self._environment.step_async(AsterAction(tool=name, arguments=arguments))
        told = [message["content"] for message in observation.messages if message["role"] == "tool"]
        state = {"done": observation.done, "reward": observation.reward, "stop": observation.stop}
        return {"content": [{"type": "text", "text": "\n".join(told)}], "structuredContent": state, "isError": False}

    async def _playing(self) -> None:
        if self._environment._env is None:
            await self._environment.reset_async()


async def _begin(env: ToolEnv, seed: int | None, options: dict[str, Any]) -> Any:
    """Reset, and start the session that the tool would start with its first call.

    What cannot be started is then told before a turn was sampled, and no step waits for a start.
    """
    begun = await env.areset(seed=seed, options=options)
    for tool in env._tools.values():
        if isinstance(tool, PythonTool):
            await tool.start()
    return begun


def _written(env: ToolEnv, action: AsterAction) -> Any:
    """Return an action's token ids."""
    if action.ids is not None:
        # The space's own check names the range; numpy's would not.
        if any(not 0 <= i < 1 << 31 for i in action.ids):
            raise UsageError(f"ids are not allowed below 0 or above {env.tokenizer.vocab_size - 1}.")
        return np.array(action.ids, dtype=np.int32)
    text = action.text
    if action.tool is not None:
        try:
            text = env.dialect.call(action.tool, action.arguments)
        except (ValueError, TypeError) as error:
            raise UsageError(
                f"arguments={sorted(action.arguments)} cannot be written in this dialect. Fix: see 'tools'."
            ) from error
    elif action.answer is not None:
        text = env.dialect.answer(action.answer)
    return np.array(env.tokenizer.encode(str(text).encode("utf-8", "replace").decode()), dtype=np.int32)


def _shown(index: int, task: Task) -> dict[str, Any]:
    """Return what a client may know of a task."""
    return {"id": task.id, "index": index, "prompt": task.prompt, "kind": task.kind}


@contextlib.contextmanager
def _named() -> Iterator[None]:
    """Put the name of its class into the text of an infrastructure failure, which is all that OpenEnv passes on."""
    try:
        yield
    except InfrastructureError as error:
        name = type(error).__name__
        if str(error).startswith(f"{name}: "):
            raise
        raise type(error)(f"{name}: {error}") from error
