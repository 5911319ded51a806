"""ToolSession: an environment as an agent with a loop of its own sees it: messages, tools, calls, an answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from aster_env.env import ToolEnv
from aster_env.errors import InfrastructureError, UsageError
from aster_env.limits import BYTES_A_TOKEN
from aster_env.making import make_envs
from aster_env.prompts import Prompts
from aster_env.rollout import Completion
from aster_env.tasks import TaskSet, share_tasks
from aster_env.tools.base import check_call
from aster_env.types import StopReason, Task, ToolCall, Trajectory

_tasks: dict[tuple[str, str], TaskSet] = {}
"""Of ``shared_session``: by environment and arguments."""


class ToolSession:
    r"""Episodes, one after another, for an agent that brings its own model and its own loop.

    ::

        with ToolSession("ASTER/PythonMath-v0") as session:
            session.start(session.tasks[0])
            session.call("python", {"code": "print(6 * 7)"})  # "42"
            session.answer(r"It is \boxed{42}.")
            session.trajectory.reward

    The environment sets the limits and is the judge: every call and every answer is a turn of its episode, written in
    its dialect. What fails outside the agent (a sandbox, a judge) is raised as an ``InfrastructureError``; such an
    episode has no reward. Each method has an asynchronous form, for an event loop of the caller's: an environment
    stays with the first of the two that it was used by. Calls made at once, from threads say, are played in turn.

    An agent's tokens are not known here. Where no tokenizer is named, an episode may have ``BYTES_A_TOKEN`` bytes for
    each of its ``max_tokens``, so that the agent's own limit comes first. An environment that is passed keeps its own.

    Args:
        env: an environment id, or an environment that is not in use; closed with the session either way.
        **env_kwargs: passed to ``gymnasium.make``.

    Raises:
        UsageError: the environment cannot be made from these arguments.
    """

    def __init__(self, env: str | ToolEnv, **env_kwargs: Any) -> None:
        if not isinstance(env, str) and env_kwargs:
            raise UsageError(f"{', '.join(env_kwargs)}: an environment that is made has its arguments. Fix: leave out.")
        self.env = make_envs(env, 1, env_kwargs)[0] if isinstance(env, str) else env
        if isinstance(env, str) and env_kwargs.get("tokenizer") is None:
            self.env.limits = replace(self.env.limits, max_tokens=BYTES_A_TOKEN * self.env.limits.max_tokens)
        self.messages: list[dict[str, str]] = []
        self.tools: list[dict[str, Any]] = []
        self.trajectory: Trajectory | None = None
        self._schemas: dict[str, Any] = {}
        self._failure: InfrastructureError | None = None
        self._turn = asyncio.Lock()

    @property
    def tasks(self) -> TaskSet:
        """What the environment asks."""
        return self.env.tasks

    def prompt(self, task: Task) -> list[dict[str, str]]:
        """Return the chat messages that ask ``task``, without starting an episode."""
        env = self.env
        said = Prompts(env.dialect, {}, env.system, env.instruction, env.limits.max_tokens).messages(task)
        return [{"role": message.role, "content": message.content} for message in said]

    async def astart(self, task: Task) -> None:
        """Start an episode; what it asks is in ``messages``, what can be called in ``tools`` (OpenAI's form).

        Raises:
            UsageError: the prompt leaves no token to answer with.
        """
        _, info = await self.env.areset(options={"task": task})
        self.messages, self.trajectory, self._failure = self.prompt(task), None, None
        self.tools = info["tools"]
        self._schemas = {tool["function"]["name"]: tool["function"] for tool in self.tools}

    async def acall(self, name: str, arguments: Mapping[str, Any] | str) -> str:
        """Run a call and return what the agent is to read.

        A call that cannot be executed is one of the agent's mistakes, which the text tells. A call that ends the
        episode, or comes after its end, has a text that says so; ``trajectory`` is set then.

        Args:
            name: of the tool.
            arguments: by name, or as the JSON text in which a model wrote them.

        Raises:
            InfrastructureError: the tool itself could not work.
        """
        call = _read_call(name, arguments)
        text = self._write(call) if call.problem is None else None
        if text is not None:
            return await self._play(text)
        problem = check_call(call, self.env._tools).problem or (
            f"This call to {name!r} cannot be written in the dialect {self.env.dialect.name!r}."
        )
        # A closing tag alone is an invalid call in every dialect, and so counts as one.
        said = await self._play(self.env.dialect.stop[0])
        return said if self.trajectory else f"Error: {problem}"

    async def aanswer(self, text: str) -> str:
        r"""Give the agent's last word, in which the environment looks for the answer, and end the episode.

        A text in which there is none (no ``\boxed{…}``) ends the episode as a void turn; so does an empty one, for an
        agent that gives up.

        Returns:
            "" as a rule; a text for the agent if the environment does not take an answer yet.

        Raises:
            InfrastructureError: a judge could not work, or an earlier call had already failed so.
        """
        parsed = self.env.dialect.parse(text, self._schemas)
        said = await self._play(text if parsed.call is None else self.env.dialect.neutralize(text))
        return "" if self.trajectory else said

    async def aclose(self) -> None:
        """Close the environment; calling it twice is harmless."""
        await self.env.aclose()

    def start(self, task: Task) -> None:
        """Start an episode; see ``astart``."""
        self._run(self.astart(task))

    def call(self, name: str, arguments: Mapping[str, Any] | str) -> str:
        """Run a call and return what the agent is to read; see ``acall``."""
        return str(self._run(self.acall(name, arguments)))

    def answer(self, text: str) -> str:
        """Give the agent's last word; see ``aanswer``."""
        return str(self._run(self.aanswer(text)))

    def final(self, value: Any) -> str:
        """Give an answer that is only the value, for the dialect to write, unless it is written so; see ``aanswer``."""
        dialect, text = self.env.dialect, str(value)
        return self.answer(dialect.answer(text) if dialect.parse(text, {}).answer is None else text)

    def check(self) -> None:
        """Raise what failed outside the agent, for frameworks that hand a tool's exceptions to their model."""
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Close the environment; calling it twice is harmless."""
        self.env.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, call: ToolCall) -> str | None:
        """Return the call as a model would write it, or None if the environment would read something else."""
        dialect = self.env.dialect
        try:
            text = dialect.call(call.name, call.arguments)
        except ValueError:
            return None
        parsed = dialect.parse(text, self._schemas).call
        same = parsed is not None and parsed.name == call.name and _stripped(parsed) == _stripped(call)
        return text if same else None

    async def _play(self, text: str) -> str:
        """Play one turn and return what the environment says to it."""
        async with self._turn:
            self.check()
            if self.trajectory is None:
                turn = Completion(tuple(self.env.tokenizer.encode(text)))
                _, _, terminated, truncated, info = await self.env.astep(turn)
                if not (terminated or truncated):
                    return str(info["messages"][-1].content)
                self.trajectory = info["trajectory"]
                if self.trajectory.stop is StopReason.INFRASTRUCTURE:
                    self._failure = info["error"]
                    self.check()
            return f"The episode is over: {self.trajectory.stop}."

    def _run(self, coroutine: Any) -> Any:
        return self.env._run(coroutine)


def shared_session(env_id: str, env_kwargs: Mapping[str, Any]) -> ToolSession:
    """Return a new session; the tasks of all with these arguments are read or generated once.

    Args:
        env_id: the environment.
        env_kwargs: passed to ``gymnasium.make``; what JSON can hold, as the evaluation libraries write it to their
            logs.

    Raises:
        UsageError: the environment cannot be made from these arguments.
    """
    try:
        key = env_id, json.dumps(dict(env_kwargs), sort_keys=True)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"env_kwargs={env_kwargs!r} is not allowed ({error}). Allowed: an object of what JSON can hold. Fix: name "
            "tasks by a preset or a file, not as an object."
        ) from error
    if key not in _tasks:
        session = ToolSession(env_id, **env_kwargs)
        _tasks[key] = session.tasks
        return session
    return ToolSession(env_id, **share_tasks(env_kwargs, _tasks[key]))


def _read_call(name: str, arguments: Mapping[str, Any] | str) -> ToolCall:
    """Return a call, with ``problem`` set where its arguments are not a JSON object."""
    if not isinstance(arguments, str):
        return ToolCall(name, arguments)
    try:
        # strict=False lets raw newlines stand inside strings: models often write code so, and the intent is clear.
        read = json.loads(arguments, strict=False) if arguments.strip() else {}
    except (ValueError, RecursionError) as error:
        return ToolCall(name, {}, f"The arguments of {name!r} are not valid JSON ({str(error)[:120]}).")
    if not isinstance(read, dict):
        return ToolCall(name, {}, f"The arguments of {name!r} must be a JSON object, not a {type(read).__name__}.")
    return ToolCall(name, read)


def _stripped(call: ToolCall) -> dict[str, Any]:
    """Return a call's arguments without the blank space around texts, which some dialects do not keep."""
    return {key: value.strip() if isinstance(value, str) else value for key, value in call.arguments.items()}
