"""What every module has: the policy inside, once an episode, its counts, and conversations beside the episode."""

from __future__ import annotations

import abc
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from aster_env.dialects.base import Dialect, chat_rows
from aster_env.rollout import Completion, GenerateRequest, Policy
from aster_env.types import Message, ToolCall, Turn

SIDE, BACK = "side_tokens", "back_tokens"


class Module(abc.ABC):
    """A Policy around a Policy that steps in at most once an episode.

    A module that tried and found nothing to offer has had its turn too; the policy goes on as if it were not there.

    Args:
        policy: plays the assistant.
        dialect: that of the environments.
        helper: writes what this module needs; ``policy`` if None.

    Attributes:
        name: under which it counts and marks its turns.
    """

    name: ClassVar[str]

    def __init__(self, policy: Policy, dialect: Dialect, helper: Policy | None = None) -> None:
        self.policy, self.dialect = policy, dialect
        # What a module asks for is answered by a model: another module would take it for a turn of the episode.
        self.model = innermost(policy)
        self.helper = innermost(helper) if helper is not None else self.model
        self._done: set[str] = set()

    @abc.abstractmethod
    def applies(self, request: GenerateRequest) -> bool:
        """Whether there is something to do."""

    @abc.abstractmethod
    async def step_in(self, request: GenerateRequest, usage: Counter[str]) -> Completion | None:
        """Return a turn in place of the policy's, or None.

        Args:
            request: what the policy was asked.
            usage: to be added to: what was sampled for it.
        """

    async def generate(self, request: GenerateRequest) -> Completion:
        """Sample one turn, or step in.

        Raises:
            PolicyError: the model could not be reached; the episode is masked, not scored.
        """
        usage: Counter[str] = Counter()
        completion = None
        if request.episode not in self._done and self.applies(request):
            self._done.add(request.episode)
            completion = await self.step_in(request, usage)
            if completion is not None:
                usage[self.name] += 1
        if completion is None:
            completion = await self.policy.generate(request)
        usage.update(completion.usage or {})
        return replace(completion, usage=dict(usage)) if usage else completion

    async def release(self, episode: str) -> None:
        """Forget an episode; unknown names are ignored."""
        self._done.discard(episode)
        await self.policy.release(episode)

    async def again(self, request: GenerateRequest, ids: Sequence[int], **changes: object) -> Completion:
        """Sample a turn of the episode under fewer ids than the policy has seen, with another seed.

        Args:
            request: what the policy was asked.
            ids: the context instead; the tokens that it leaves free may be sampled.
            **changes: other fields of the request: ``messages``, ``turns``.
        """
        free = request.max_new_tokens + len(request.ids) - len(ids)
        # The cache holds another continuation of this episode, and the same seed would sample the same one.
        await self.model.release(request.episode)
        changed = {"ids": tuple(ids), "max_new_tokens": free, "seed": (request.seed ^ 0x5BD1E995) % 2**31, **changes}
        return await self.model.generate(replace(request, **changed))  # type: ignore[arg-type]

    async def ask(self, request: GenerateRequest, text: str, most: int, usage: Counter[str]) -> str | None:
        """Return what the helper says to a text in a conversation of its own, or None if that does not fit.

        The conversation has at most as many tokens as the episode, so that it fits every model that the episode fits.

        Args:
            request: what the policy was asked.
            text: what the helper reads.
            most: tokens of the reply.
            usage: counts the reply.
        """
        tokenizer, said = self.dialect.tokenizer, [Message("user", self.dialect.neutralize(text))]
        prompt = tokenizer.chat(chat_rows(said), ())
        if prompt is None:
            prompt = f"<|im_start|>user\n{said[0].content}<|im_end|>\n<|im_start|>assistant\n"
        ids = tuple(tokenizer.encode(prompt))
        room = min(most, len(request.ids) + request.max_new_tokens - len(ids))
        if room < 1:
            return None
        name = f"{request.episode}#{self.name}"
        asked = GenerateRequest(ids, room, (), name, request.seed, said)
        try:
            reply = await self.helper.generate(asked)
        finally:
            await self.helper.release(name)
        usage[SIDE] += len(reply.ids)
        # "tokens" is by how many the episode grew, and it did not.
        usage.update({key: count for key, count in (reply.usage or {}).items() if key != "tokens"})
        if reply.finish != "stop":
            return None
        return tokenizer.decode(reply.ids).partition(tokenizer.end_text)[0]


def innermost(policy: Policy) -> Policy:
    """Return the policy inside all modules."""
    while isinstance(policy, Module):
        policy = policy.policy
    return policy


def failed_call(turns: Sequence[Turn]) -> tuple[Turn, ToolCall, str] | None:
    """Return the last turn of the model's, its call and the result, if that was executed and failed."""
    if len(turns) < 3 or not turns[-1].results or turns[-1].results[-1].ok:
        return None
    said = turns[-2]
    if not said.calls or said.calls[0].problem is not None:
        return None
    return said, said.calls[0], turns[-1].results[-1].text


def schemas_of(request: GenerateRequest) -> Mapping[str, Mapping[str, object]]:
    """Return the schemas of the tools by name, as a dialect takes them."""
    return {tool["function"]["name"]: tool["function"] for tool in request.tools}
