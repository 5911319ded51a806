"""The first observation of an episode: a task as a prompt, which has to leave tokens to answer with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from aster_env.dialects.base import Dialect, Schemas
from aster_env.dialects.render import prompt_turn
from aster_env.errors import UsageError
from aster_env.types import Message, Task, Turn


@dataclass(frozen=True, slots=True)
class Prompts:
    """Renders tasks.

    Args:
        dialect: renders the conversation.
        schemas: of the tools that the prompt describes.
        system: content of a system message, if any.
        instruction: appended to each task's prompt.
        most: tokens of the whole episode.
    """

    dialect: Dialect
    schemas: Schemas
    system: str
    instruction: str
    most: int

    def messages(self, task: Task) -> list[Message]:
        """Return the conversation that asks ``task``."""
        content = self.dialect.neutralize(task.prompt) + self.instruction
        return [Message("system", self.system)] * bool(self.system) + [Message("user", content)]

    def turn(self, task: Task) -> Turn:
        """Return the first observation.

        Raises:
            UsageError: it leaves no token to answer with.
        """
        turn = prompt_turn(self.dialect, self.messages(task), self.schemas)
        if len(turn.ids) >= self.most:
            raise UsageError(
                f"The prompt of task {task.id!r} has {len(turn.ids)} tokens, and max_tokens is {self.most}. "
                "Fix: raise max_tokens, or leave the task out."
            )
        return turn

    def check(self, tasks: Iterable[Task]) -> None:
        """Raise ``UsageError`` if a task's prompt leaves no token to answer with; the text names the tasks."""
        too_long: list[tuple[int, str]] = []
        for task in tasks:
            text = self.dialect.prompt(self.messages(task), self.schemas)
            # A text has no more tokens than bytes, so that few prompts need the tokenizer here.
            if len(text.encode("utf-8", "replace")) >= self.most:
                length = len(self.dialect.tokenizer.encode(text))
                if length >= self.most:
                    too_long.append((length, task.id))
        if too_long:
            shown = ", ".join(f"{name!r} ({length})" for length, name in sorted(too_long, reverse=True)[:5])
            raise UsageError(
                f"{len(too_long)} prompts leave no token to answer with: max_tokens is {self.most}, and these have "
                f"(tokens): {shown}{', …' if len(too_long) > 5 else ''}. Fix: raise max_tokens, or leave the tasks out."
            )
