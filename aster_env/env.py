"""ToolEnv: a multi-turn tool-use episode as a Gymnasium environment over token ids."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from aster_env import loops
from aster_env.actions import Action, read_action, read_turn
from aster_env.dialects import make_dialect
from aster_env.dialects.base import Parsed
from aster_env.dialects.render import closing, observation_turn
from aster_env.episode import Episode, Measure
from aster_env.errors import InfrastructureError, UsageError, check_name
from aster_env.limits import Limits
from aster_env.prompts import Prompts
from aster_env.rewards.base import Reward
from aster_env.spaces import turn_space
from aster_env.tasks import TaskSet, choose_task
from aster_env.tokenizers import as_tokenizer
from aster_env.tools.base import Tool, run_call
from aster_env.types import Message, StopReason, Task, Trajectory, Turn

Observation = NDArray[np.int32] | str
Step = tuple[Observation, float, bool, bool, dict[str, Any]]


class ToolEnv(gym.Env[Any, Any]):
    """One episode = one task; one step = one assistant turn.

    ``reset`` returns the prompt's ids; ``step`` takes the ids a model sampled and returns the ids the environment
    appended to them (an empty array at the end). The concatenation of the first observation, every action and every
    observation is the training row. ``info`` holds, for what the step appended:

    - ``mask``: int8 array over the action's and then the observation's ids, 1 where the model sampled;
    - ``text``, ``messages``: the observation's text, and the chat messages added (action, then result);
    - ``tool_calls``, ``tokens``, ``tokens_left``: counts for the episode so far; ``task_id``; after ``reset`` also
      ``tools``, in OpenAI's form;
    - ``stop``: None, or at the end a ``StopReason``; then also ``trajectory``, ``reward_terms``, ``shaping``, and
      ``error`` after an infrastructure failure.

    Subclasses give the tools (``open_tools``). The asynchronous forms ``areset``, ``astep`` and ``aclose`` run on
    the caller's event loop; the blocking ones of Gymnasium on one background loop. An environment stays on the loop
    that it was first used on.

    Args:
        tasks: what is asked.
        reward: scores the finished episode.
        instruction: appended to each task's prompt.
        system: content of a system message, if any.
        tokenizer: see ``aster_env.tokenizers.as_tokenizer``.
        dialect: ``"hermes"`` or ``"tags"``.
        limits: what an episode may use.
        view: ``"tokens"``, or ``"text"`` for the same episode in ``str``.

    Attributes:
        measures: what an episode that was scored is measured by, for ``shaping``; see ``aster_env.shaping``.

    Raises:
        UsageError: an argument is not allowed; the text says what is.
    """

    hang_seconds = 900.0
    """How long a call may take before it counts as one that never comes back: an infrastructure failure."""
    metadata: dict[str, Any] = {"render_modes": ["ansi"]}  # noqa: RUF012 (Gymnasium declares it so)

    def __init__(
        self,
        tasks: TaskSet,
        reward: Reward,
        *,
        instruction: str = "",
        system: str = "",
        tokenizer: Any = None,
        dialect: str = "hermes",
        limits: Limits | None = None,
        view: str = "tokens",
        render_mode: str | None = None,
    ) -> None:
        self.view = check_name("view", view, ("tokens", "text"))
        self.tasks, self.reward, self.instruction, self.system = tasks, reward, instruction, system
        self.tokenizer = as_tokenizer(tokenizer)
        self.dialect = make_dialect(dialect, self.tokenizer)
        self.limits = limits or Limits()
        self.render_mode = render_mode
        spaces = [turn_space(view, self.tokenizer.vocab_size, self.limits.max_tokens) for _ in range(2)]
        self.observation_space, self.action_space = spaces
        self.measures: list[Measure] = []
        self._tools: dict[str, Tool] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._episode: Episode | None = None

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings that end a model's turn; a policy keeps the token that completes one, and samples none after."""
        return self.dialect.stop

    async def open_tools(self) -> Sequence[Tool]:
        """Return the episode's tools; called once, on the environment's loop."""
        raise NotImplementedError

    async def close_tools(self) -> None:
        """Release what ``open_tools`` took besides the tools themselves."""

    def sources(self) -> Mapping[str, str]:
        """Return what the tools read from, for ``Trajectory.sources``; called at an episode's end."""
        return {}

    def refuse_answer(self, trajectory: Trajectory) -> str | None:
        """Return why an answer is not taken yet, or None; a refused one counts as an invalid call."""
        return None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Start an episode; see ``areset``."""
        return self._run(self.areset(seed=seed, options=options))

    def step(self, action: Any) -> Any:
        """Play one assistant turn; see ``astep``."""
        return self._run(self.astep(action))

    def close(self) -> None:
        """End every session and process; calling it twice is harmless."""
        if self._loop is not None and not self._loop.is_closed():
            self._run(self.aclose())

    def render(self) -> Any:
        """Return the episode so far as text (``render_mode="ansi"``)."""
        return "".join(turn.text for turn in self._episode.trajectory.turns) if self._episode else ""

    def check_tasks(self, tasks: Iterable[Task] | None = None) -> None:
        """Check prompts before a run; see ``acheck_tasks``. An environment that was not in use is not after it."""
        unused = self._loop is None
        try:
            self._run(self.acheck_tasks(tasks))
        finally:
            if unused:
                self.close()

    async def acheck_tasks(self, tasks: Iterable[Task] | None = None) -> None:
        """Check the prompts of tasks before a run, without starting a session.

        Args:
            tasks: None: all of the environment's.

        Raises:
            UsageError: a prompt leaves no token to answer with; the text names the tasks and their token counts.
        """
        await self._open()
        self._prompts.check(self.tasks if tasks is None else tasks)

    async def areset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode and return the prompt's ids and ``info``.

        Args:
            seed: seeds the choice of the task; the same seed gives the same task.
            options: ``{"task_id": id}`` or ``{"task": Task}`` to choose the task.

        Raises:
            UsageError: an unknown option or task id, or a prompt that leaves no token to answer with.
        """
        super().reset(seed=seed)
        task = choose_task(self.tasks, options or {}, self.np_random)
        await self._open()
        prompt, messages = self._prompts.turn(task), self._prompts.messages(task)
        await self._release()
        self._episode = Episode.begin(task, prompt, messages, self.limits)
        info = self._episode.info([], prompt.ids, prompt.text, messages)
        info["tools"] = [{"type": "function", "function": schema} for schema in self._prompts.schemas.values()]
        return self._view(prompt.ids, prompt.text), info

    async def astep(self, action: Any) -> Step:
        """Append one assistant turn, run its call, and return what the environment appended.

        Args:
            action: ids the model sampled; or an ``aster_env.rollout.Completion``, which brings log-probabilities;
                or, with ``view="text"``, a string.

        Returns:
            The appended ids (empty at the end), the reward (0.0 until the end), terminated, truncated, ``info``.

        Raises:
            UsageError: the action is not in the action space, or the episode is over.
        """
        turn, parsed = self._append(action)
        episode, ids = self._running(), turn.ids
        said = episode.trajectory.messages[-1:]
        ended = bool(closing(self.dialect, ids)) or turn.text.endswith(self.dialect.stop)
        if episode.tokens > self.limits.max_tokens or not (ended or episode.tokens < self.limits.max_tokens):
            return await self._end(StopReason.MAX_TOKENS, ids, said)
        if not turn.calls:
            episode.trajectory.answer = parsed.answer
            stop = StopReason.VOID_TURN if parsed.answer is None else StopReason.ANSWERED
            return await self._end(stop, ids, said)
        return await self._observe(turn, episode.noted(parsed.note), said)

    def check_action(self, action: Any) -> Action:
        """Return an action as ``step`` would read it, without playing it.

        Raises:
            UsageError: the action is not in the action space, or no episode is running.
        """
        self._running()
        return read_action(action, self.view, self.tokenizer)

    async def aclose(self) -> None:
        """End every session and process; calling it twice is harmless."""
        tools, self._tools, self._loop = self._tools, {}, None
        async with contextlib.AsyncExitStack() as ending:
            # Every one is closed, whichever of the others fails.
            ending.push_async_callback(self.reward.close)
            ending.push_async_callback(self.close_tools)
            for tool in tools.values():
                ending.push_async_callback(tool.close)

    async def abort(self, why: InfrastructureError | StopReason, action: Any = None) -> Trajectory:
        """End the running episode from outside: something failed (a policy's endpoint, say), or a budget is used up.

        Args:
            why: the failure, which is not scored; or the budget, which is.
            action: the turn that was under way, to be kept as it is.

        Raises:
            UsageError: no episode is running.
        """
        trajectory = self._running().trajectory
        if action is not None:
            self._append(action)
        stop, error = (why, None) if isinstance(why, StopReason) else (StopReason.INFRASTRUCTURE, why)
        await self._end(stop, (), [], error)
        return trajectory

    async def _open(self) -> None:
        """Open the tools on the running loop, on which the environment then stays."""
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        if self._loop is not None and not self._loop.is_closed():
            raise UsageError("This environment is in use on another event loop. Fix: close it, or make another.")
        self._tools = {tool.name: tool for tool in await self.open_tools()}
        self._loop = loop
        schemas = {name: tool.schema for name, tool in self._tools.items()}
        self._prompts = Prompts(self.dialect, schemas, self.system, self.instruction, self.limits.max_tokens)

    def _append(self, action: Any) -> tuple[Turn, Parsed]:
        """Append a model's turn, its call read and checked, but not run."""
        episode, schemas, said = self._running(), self._prompts.schemas, self.check_action(action)
        episode.take_back(said.back)
        turn, parsed = read_turn(said, self.dialect, schemas, self._tools)
        answers = not turn.calls and parsed.answer is not None
        turn = episode.admit(turn, self.refuse_answer(episode.trajectory) if answers else None)
        episode.append(turn, [Message("assistant", turn.text.removesuffix(closing(self.dialect, turn.ids)))])
        episode.trajectory.seconds["generation"] += turn.seconds
        return turn, parsed

    async def _observe(self, said: Turn, note: str, messages: list[Message]) -> Step:
        """Run the call of a turn, or refuse it, and append the result."""
        episode, call, ids = self._running(), said.calls[0], said.ids
        if episode.refuses(call):
            return await self._end(StopReason.MAX_TOOL_CALLS, ids, messages)
        started = time.perf_counter()
        try:
            episode.count(call)
            result = await run_call(call, self._tools, self.hang_seconds)
        except InfrastructureError as error:
            return await self._end(StopReason.INFRASTRUCTURE, ids, messages, error)
        seconds = time.perf_counter() - started
        episode.trajectory.seconds["tools"] += seconds
        content = f"{result.text}\n{note}" if note else result.text
        turn = observation_turn(self.dialect, content, closing(self.dialect, ids), (result,), seconds)
        stop = episode.stop_before(turn, self._tools.values())
        if stop is not None:
            return await self._end(stop, ids, messages)
        heard = [Message("tool", content)]
        episode.append(turn, heard)
        info = episode.info(ids, turn.ids, turn.text, messages + heard)
        return self._view(turn.ids, turn.text), 0.0, False, False, info

    async def _end(
        self,
        stop: StopReason,
        ids: tuple[int, ...],
        messages: list[Message],
        error: InfrastructureError | None = None,
    ) -> Step:
        """Score the episode, give the sessions back, and return the last step."""
        trajectory = (episode := self._running()).trajectory
        trajectory.stop, trajectory.sources = stop, dict(self.sources())
        if stop is not StopReason.INFRASTRUCTURE:
            error = await episode.score(self.reward, self.measures, self.dialect)
        try:
            await self._release()
        except InfrastructureError as failure:
            # The episode is over and stays as it ended; its sessions are their pool's to end.
            error = error or failure
        info = episode.info(ids, [], "", messages)
        info |= {name: getattr(trajectory, name) for name in ("stop", "reward_terms", "shaping")}
        info["trajectory"] = trajectory
        if error is not None:
            trajectory.error = f"{type(error).__name__}: {error}"
            info["error"] = error
        cut = trajectory.stop.truncated
        return self._view([], ""), float(trajectory.reward or 0.0), not cut, cut, info

    async def _release(self) -> None:
        """Give the sessions back, so that a finished episode holds none."""
        for tool in self._tools.values():
            await tool.reset()

    def _view(self, ids: Sequence[int], text: str) -> Observation:
        return np.array(ids, dtype=np.int32) if self.view == "tokens" else text

    def _running(self) -> Episode:
        if self._episode is None or self._episode.trajectory.stop is not None:
            raise UsageError("step() was called without a running episode. Fix: call reset() first.")
        return self._episode

    def _run(self, coroutine: Any) -> Any:
        if self._loop is not None and not self._loop.is_closed() and not loops.is_background(self._loop):
            coroutine.close()
            raise UsageError("This environment runs on an event loop of its own. Fix: await areset, astep or aclose.")
        return loops.run(coroutine)
