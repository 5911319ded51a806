"""The chain refiner: a chain that has become long is written anew, shorter."""

from __future__ import annotations

from collections import Counter

from aster_env.dialects.base import Dialect, split_thought
from aster_env.errors import UsageError
from aster_env.modules.base import BACK, SIDE, Module
from aster_env.rollout import Completion, GenerateRequest, Policy
from aster_env.types import Message

_ASK = (
    "Below are a question and a long chain of reasoning with tool calls and their results. Write the chain again, much "
    "shorter: keep every number, fact and result that is still needed, and leave out detours, repetitions and errors. "
    "Do not go further than the chain goes, and make no calls.\n\nQuestion:\n{question}\n\nChain:\n{chain}"
)


class ChainRefiner(Module):
    """Replaces an episode's chain by a shorter one when it has grown longer than ``over`` tokens.

    The helper rewrites the chain in a conversation beside the episode; all turns are taken back, and the model goes on
    from the shorter chain, in the same turn. That turn is half the helper's, so none of it is trained on; what the
    model samples after it is, under exactly the row that then stands there. Calls that were taken back stay counted,
    and the next result says what became of what they defined. Nothing is done where the new chain is not shorter.

    A reward that looks at turns sees those that stand at the end: Tool-Star's addition for both tools, say, counts the
    calls that come after.

    Args:
        policy: plays the assistant; one that reads ``GenerateRequest.messages`` gets the chain as its own last message.
        dialect: that of the environments.
        helper: writes the new chain; ``policy`` if None.
        over: tokens after the prompt.

    Raises:
        UsageError: ``over`` is not allowed.
    """

    name = "chain_refiner"

    def __init__(self, policy: Policy, dialect: Dialect, helper: Policy | None = None, *, over: int = 8192) -> None:
        super().__init__(policy, dialect, helper)
        if not isinstance(over, int) or over < 1:
            raise UsageError(f"over={over!r} is not allowed. Allowed: tokens, at least 1.")
        self.over = over

    def applies(self, request: GenerateRequest) -> bool:
        """Whether the chain is too long."""
        return len(request.turns) > 2 and len(request.ids) - len(request.turns[0].ids) > self.over

    async def step_in(self, request: GenerateRequest, usage: Counter[str]) -> Completion | None:
        """Return a turn that begins with the chain anew, and goes on from there."""
        prompt = request.turns[0].ids
        length = len(request.ids) - len(prompt)
        question = "\n\n".join(m.content for m in request.messages if m.role == "user")
        chain = "".join(turn.text for turn in request.turns[1:])
        reply = await self.ask(request, _ASK.format(question=question, chain=chain), length - 1, usage)
        text = self.dialect.neutralize(split_thought(reply or "")[0].strip())
        written = tuple(self.dialect.tokenizer.encode(f"{text}\n\n"))
        if not text or len(written) >= length:
            return None
        asked = [m for m in request.messages if m.role in ("system", "user")]
        new = await self.again(
            request,
            (*prompt, *written),
            messages=(*asked, Message("assistant", text)),
            turns=request.turns[:1],
        )
        usage.update(new.usage or {})
        if new.finish != "stop":
            usage[SIDE] += len(new.ids)
            await self.model.release(request.episode)
            return None
        usage[BACK] += length
        return Completion((*written, *new.ids), back=len(request.turns) // 2, module=self.name)
