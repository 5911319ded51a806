"""What goes over the wire: actions, observations and state, as OpenEnv declares them."""

from __future__ import annotations

from typing import Annotated, Any

from openenv.core.env_server.types import Action, Observation, State
from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

FORMS = ("text", "ids", "tool", "answer")


def _encodable(value: Any) -> Any:
    """Return a text without lone surrogates, which no answer that repeats it could hold."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(_encodable)]


class AsterAction(Action):
    """One assistant turn: exactly one of ``text``, ``ids``, ``tool`` and ``answer``."""

    text: Text | None = Field(None, description="The turn as the model wrote it, in the environment's dialect.")
    ids: list[int] | None = Field(None, description="The turn as the token ids that the model sampled.")
    tool: Text | None = Field(None, description="The name of a tool to call; the turn is written for it.")
    arguments: dict[str, Any] = Field(default_factory=dict, description="The arguments of the tool.")
    answer: Text | None = Field(None, description="The final answer; the turn is written for it.")

    @model_validator(mode="after")
    def _one_form(self) -> AsterAction:
        # A ValueError could not be sent back: OpenEnv puts it into the reply as it is.
        given = [name for name in FORMS if getattr(self, name) is not None]
        if len(given) != 1:
            raise PydanticCustomError("form", f"Exactly one of {', '.join(FORMS)} is needed, not {len(given)}.")
        if self.arguments and self.tool is None:
            raise PydanticCustomError("arguments", "'arguments' are a tool's. Fix: name it in 'tool'.")
        return self


class AsterObservation(Observation):
    """What a reset or a step appended; ``reward`` is None until the episode ends."""

    text: str = Field("", description="What the environment appended; at a reset, the prompt.")
    ids: list[int] = Field(default_factory=list, description="The same as token ids.")
    messages: list[dict[str, str]] = Field(default_factory=list, description="The chat messages that were added.")
    tools: list[dict[str, Any]] = Field(default_factory=list, description="At a reset: tools in OpenAI's form.")
    stop_strings: list[str] = Field(default_factory=list, description="At a reset: what ends a turn of the model.")
    task_id: str = Field("", description="What is asked.")
    tool_calls: int = Field(0, description="Calls executed so far.")
    tokens_left: int = Field(0, description="Tokens that the episode may still have.")
    stop: str | None = Field(None, description="Why the episode ended; see aster_env.types.StopReason.")
    reward_terms: dict[str, float] = Field(default_factory=dict, description="What the reward is made of.")


class AsterState(State):
    """Where the session's episode is; ``task_id`` is None before the first reset."""

    task_id: str | None = None
    tool_calls: int = 0
    tokens: int = 0
    tokens_left: int = 0
    stop: str | None = None
    reward: float | None = None
