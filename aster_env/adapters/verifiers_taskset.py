"""Any environment as a taskset of verifiers, with the harness that plays it; verifiers finds them as ``aster-gym``.

::

    vf-eval aster-gym --env.taskset.env-id ASTER/PythonMath-v0 -m MODEL --client.base-url URL -n 20
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import verifiers.v1 as vf
from openai import AsyncOpenAI
from pydantic import Field

from aster_env.adapters.session import ToolSession, shared_session
from aster_env.types import Trajectory


class AsterConfig(vf.TasksetConfig):
    """Which environment, and its arguments.

    Args:
        env_id: the environment; ``"package:Name-v0"`` imports the package that registers it.
        env_kwargs: its arguments, as JSON: ``tasks``, ``split``, ``max_tool_calls``, …
    """

    env_id: str = "ASTER/PythonMath-v0"
    env_kwargs: dict[str, Any] = Field(default_factory=dict)


class AsterData(vf.TaskData):
    """Which environment's task it is; the reference answers stay with the environment."""

    env_id: str
    env_kwargs: dict[str, Any]


class AsterState(vf.State):
    """How the episode ended, for the reward; None until it has."""

    trajectory: Any = None


class AsterTask(vf.Task[AsterData, AsterState]):
    """One task of an environment, which is its judge."""

    @vf.reward  # type: ignore[untyped-decorator]
    async def reward(self, trace: vf.Trace[AsterState]) -> float:
        """Return the environment's own reward.

        After another harness than ``AsterHarness`` the last reply is judged, as the answer of an episode without calls.
        """
        if trace.state.trajectory is None:
            session = await begin(self.data)
            try:
                await session.aanswer(trace.last_reply)
                trace.state.trajectory = session.trajectory
            finally:
                await session.aclose()
        ended: Trajectory = trace.state.trajectory
        trace.info["aster"] = {"stop": str(ended.stop), "answer": ended.answer, "terms": ended.reward_terms}
        trace.record_metric("tool_calls", ended.tool_calls)
        assert ended.reward is not None  # a failure outside the model was raised before
        return ended.reward


class AsterTaskset(vf.Taskset[AsterTask, AsterConfig]):
    """The tasks of an environment."""

    def load(self) -> Iterator[AsterTask]:
        """Yield them in the environment's order."""
        config = self.config
        session = shared_session(config.env_id, config.env_kwargs)
        for task in session.tasks:
            *system, user = session.prompt(task)
            data = AsterData(
                id=task.id,
                prompt=user["content"],
                system_prompt=system[0]["content"] if system else None,
                env_id=config.env_id,
                env_kwargs=config.env_kwargs,
            )
            yield AsterTask(data, config.task)


class AsterHarness(vf.Harness[vf.HarnessConfig]):
    """Lets the model call the environment's tools until the episode is over.

    The loop runs in this process and the calls in the environment's sandbox, so that it needs no container. What fails
    outside the model is an error of the rollout, and is not scored.
    """

    APPENDS_SYSTEM_PROMPT = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def launch(
        self,
        ctx: vf.ModelContext,
        trace: vf.Trace[AsterState],
        runtime: vf.Runtime,
        endpoint: str,
        secret: str,
        mcp_urls: dict[str, str],
        data: AsterData,
    ) -> vf.ProgramResult:
        """Play the episode; every model call goes through ``endpoint``."""
        session = await begin(data)
        try:
            async with AsyncOpenAI(base_url=endpoint, api_key=secret) as client:
                await _play(session, client, ctx.model, self.resolve_prompt(data))
            trace.state.trajectory = session.trajectory
        finally:
            await session.aclose()
        return vf.ProgramResult(exit_code=0, stdout="", stderr="")


class AsterEnvConfig(vf.SingleAgentEnvConfig):
    """The one agent; its harness needs no runtime of its own, so by default it gets none but a process of this host."""

    agent: vf.AgentConfig = vf.AgentConfig(runtime=vf.SubprocessConfig())


class AsterEnv(vf.SingleAgentEnv, vf.Env[AsterEnvConfig]):
    """One agent plays one episode a task."""


async def begin(data: AsterData) -> ToolSession:
    """Return a session in which the task's episode has begun."""
    session = shared_session(data.env_id, data.env_kwargs)
    await session.astart(session.tasks.get(str(data.id)))
    return session


def load_environment(**config: Any) -> AsterEnv:
    """Return the environment for code that asks a module for it.

    Args:
        **config: of ``AsterConfig``: ``env_id``, ``env_kwargs``.
    """
    taskset = AsterConfig(id="aster-gym", **config)
    return AsterEnv(AsterEnvConfig(taskset=taskset))


async def _play(session: ToolSession, client: Any, model: str, prompt: tuple[Any, Any]) -> None:
    """Let the model call tools until the episode is over."""
    system, user = prompt
    messages: list[Any] = [{"role": "system", "content": system}] * bool(system) + [{"role": "user", "content": user}]
    while session.trajectory is None:
        reply = await client.chat.completions.create(model=model, messages=messages, tools=session.tools)
        said = reply.choices[0].message
        messages.append(said.model_dump(exclude_none=True))
        for call in said.tool_calls or ():
            text = await session.acall(call.function.name, call.function.arguments)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": text})
        if not said.tool_calls:
            messages.append({"role": "user", "content": await session.aanswer(said.content or "")})
