"""Any environment as a task of Inspect AI: data set, solver, and the environment as scorer.

::

    inspect eval aster_env/adapters/inspect_task.py -T env_id=ASTER/PythonMath-v0 --model openai/gpt-5 --limit 20
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio
from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessage, ChatMessageSystem, ChatMessageTool, ChatMessageUser, get_model
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import Generate, Solver, TaskState, solver
from inspect_ai.tool import ToolInfo

from aster_env.adapters.session import ToolSession, shared_session

KEY = "aster"
"""Of a sample's store: how its episode ended."""


@task  # type: ignore[untyped-decorator]
def aster(env_id: str = "ASTER/PythonMath-v0", env_kwargs: Mapping[str, Any] | None = None) -> Task:
    """Return the tasks of an environment, played with its tools and scored by it.

    A failure outside the model (a sandbox, a judge) is an error of the sample, never a score.

    Args:
        env_id: the environment; ``"package:Name-v0"`` imports the package that registers it.
        env_kwargs: its arguments: ``tasks``, ``split``, ``max_tool_calls``, …

    Raises:
        UsageError: the environment cannot be made from these arguments.
    """
    arguments = dict(env_kwargs or {})
    session = shared_session(env_id, arguments)
    samples = [
        Sample(id=asked.id, input=_chat(session.prompt(asked)), target=list(asked.answers)) for asked in session.tasks
    ]
    return Task(
        dataset=MemoryDataset(samples, name=session.tasks.name),
        solver=play(env_id, arguments),
        scorer=environment(env_id, arguments),
        name=env_id.rpartition("/")[2],
    )


@solver  # type: ignore[untyped-decorator]
def play(env_id: str, env_kwargs: Mapping[str, Any]) -> Solver:
    """Let the model call the environment's tools until the episode is over."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        session = shared_session(env_id, env_kwargs)
        try:
            await session.astart(session.tasks.get(str(state.sample_id)))
            tools = [ToolInfo(**tool["function"]) for tool in session.tools]
            while session.trajectory is None:
                state.output = await get_model().generate(state.messages, tools=tools)
                state.messages.append(state.output.message)
                state.messages.extend(await _replies(session, state))
            state.store.set(KEY, _ending(session))
        finally:
            await _close(session)
        return state

    return solve


@scorer(metrics=[mean(), stderr()])  # type: ignore[untyped-decorator]
def environment(env_id: str, env_kwargs: Mapping[str, Any]) -> Scorer:
    """Return the environment's own reward.

    After another solver than ``play`` the model's last output is judged, as the answer of an episode without calls.
    """

    async def score(state: TaskState, target: Target) -> Score:
        ending = state.store.get(KEY)
        if ending is None:
            session = shared_session(env_id, env_kwargs)
            try:
                await session.astart(session.tasks.get(str(state.sample_id)))
                await session.aanswer(state.output.completion)
                ending = _ending(session)
            finally:
                await _close(session)
        return Score(value=ending["reward"], answer=ending["answer"], metadata=ending)

    return score


async def _replies(session: ToolSession, state: TaskState) -> list[ChatMessage]:
    """Play what the model's last message asks for, and return what it is to read."""
    said = state.output.message
    replies: list[ChatMessage] = []
    for call in said.tool_calls or ():
        text = await session.acall(call.function, call.arguments)
        text = f"{call.parse_error}\n{text}" if call.parse_error else text
        replies.append(ChatMessageTool(content=text, tool_call_id=call.id, function=call.function))
    if not replies:
        text = await session.aanswer(state.output.completion)
        replies = [ChatMessageUser(content=text)] if text else []
    return replies


async def _close(session: ToolSession) -> None:
    """End the sessions, also where a limit of Inspect's cancels the sample."""
    with anyio.CancelScope(shield=True):
        await session.aclose()


def _ending(session: ToolSession) -> dict[str, Any]:
    """Return how an episode ended, for Inspect's log."""
    ended = session.trajectory
    assert ended is not None
    assert ended.reward is not None  # a failure outside the model was raised before
    told = {"reward": ended.reward, "stop": str(ended.stop), "answer": ended.answer, "tool_calls": ended.tool_calls}
    return {**told, "terms": ended.reward_terms}


def _chat(messages: list[dict[str, str]]) -> list[ChatMessage]:
    kinds = {"system": ChatMessageSystem, "user": ChatMessageUser}
    return [kinds[message["role"]](content=message["content"]) for message in messages]
