"""What several tests share: an environment without sessions, and policies that follow a script."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from aster_env.env import ToolEnv
from aster_env.errors import InfrastructureError
from aster_env.rollout import Completion, GenerateRequest
from aster_env.tasks import TaskSet
from aster_env.tools.base import Tool
from aster_env.types import RewardResult, Task, ToolResult, Trajectory


class ExactReward:
    """1 for an answer that is a reference answer to the letter."""

    async def __call__(self, task: Task, trajectory: Trajectory) -> RewardResult:
        value = float(trajectory.answer in task.answers)
        return RewardResult(value, {"correct": value})

    async def close(self) -> None:
        pass


class EchoTool:
    """Gives back what ``respond`` makes of the code."""

    name = "python"
    aliases = ("code_interpreter",)
    schema = {  # noqa: RUF012
        "name": "python",
        "description": "Runs code.",
        "parameters": {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]},
    }

    def __init__(self, respond: Callable[[str], Any]) -> None:
        self.respond = respond
        self.losses = 0
        self.open = False

    async def __call__(self, **arguments: Any) -> ToolResult:
        self.open = True
        value = self.respond(arguments["code"])
        if isinstance(value, InfrastructureError):
            raise value
        if isinstance(value, float):
            await asyncio.sleep(value)
        return value if isinstance(value, ToolResult) else ToolResult(str(value))

    async def reset(self) -> None:
        self.losses = 0
        self.open = False

    async def close(self) -> None:
        self.open = False


class EchoEnv(ToolEnv):
    """A ToolEnv whose only tool is an EchoTool."""

    def __init__(self, respond: Callable[[str], Any] = str, tasks: Sequence[Task] = (), **options: Any) -> None:
        self.tool = EchoTool(respond)
        rows = tasks or [Task(f"t{i}", f"What is {i} + {i}?", (str(2 * i),)) for i in range(5)]
        super().__init__(TaskSet(list(rows)), ExactReward(), **options)

    async def open_tools(self) -> Sequence[Tool]:
        return [self.tool]


class ScriptedPolicy:
    """Plays the turns that ``script(task prompt, turn number)`` writes; ends each as a model would."""

    def __init__(self, env: ToolEnv, script: Callable[[str, int], str]) -> None:
        self.tokenizer, self.stop, self.script = env.tokenizer, env.stop, script
        self.turns: dict[str, int] = {}

    async def generate(self, request: GenerateRequest) -> Completion:
        turn = self.turns.get(request.episode, 0)
        self.turns[request.episode] = turn + 1
        text = self.script(self.tokenizer.decode(request.ids), turn)
        if not text.endswith(self.stop):
            text += self.tokenizer.end_text
        ids = tuple(self.tokenizer.encode(text))
        return Completion(ids, tuple(-0.5 for _ in ids))

    async def release(self, episode: str) -> None:
        self.turns.pop(episode, None)
