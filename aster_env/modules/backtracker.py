"""The tool-use backtracker: a call that failed is taken back, and sampled again from a little before it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from aster_env.dialects.base import ANSWER, THINK, Dialect
from aster_env.modules.base import BACK, SIDE, Module, failed_call
from aster_env.rollout import Completion, GenerateRequest, Policy
from aster_env.tokenizers import Tokenizer


class Backtracker(Module):
    """Takes back the first call of an episode that was executed and failed, and samples again.

    The turn is cut at the line before the call's; what stands before stays, token by token, and the model goes on from
    there. So the turn in the row is one that the model sampled, each token under exactly the ids before it: it is
    trained like any other, with its log-probabilities. That the first try failed is a choice between samples, which the
    loss does not know of.

    The call that is taken back stays counted, and what its code did before it failed stays done: the next result says
    so. A model that samples greedily writes the same turn again; then nothing is taken back, and the failure stays.

    Args:
        policy: plays the assistant.
        dialect: that of the environments.
        helper: not used.
        whole_turns: take back whole turns: for a policy that reads ``GenerateRequest.messages``, which cannot go on in
            the middle of one.
    """

    name = "backtracker"

    def __init__(
        self, policy: Policy, dialect: Dialect, helper: Policy | None = None, *, whole_turns: bool = False
    ) -> None:
        super().__init__(policy, dialect, helper)
        self.whole_turns = whole_turns

    def applies(self, request: GenerateRequest) -> bool:
        """Whether the last call was executed and failed."""
        return failed_call(request.turns) is not None

    async def step_in(self, request: GenerateRequest, usage: Counter[str]) -> Completion | None:
        """Return the turn of the failed call anew, from the cut on."""
        said, result = request.turns[-2:]
        before = request.ids[: len(request.ids) - len(said.ids) - len(result.ids)]
        # What another module wrote is not the model's to go on from.
        kept = 0 if self.whole_turns or said.module else self._cut(said.ids, said.text)
        start = [replace(said, ids=said.ids[:kept], calls=(), text="", logprobs=None)] if kept else []
        new = await self.again(
            request,
            (*before, *said.ids[:kept]),
            messages=tuple(request.messages[:-2]),
            turns=(*request.turns[:-2], *start),
        )
        usage.update(new.usage or {})
        ids = (*said.ids[:kept], *new.ids)
        if new.finish != "stop" or ids == said.ids:
            usage[SIDE] += len(new.ids)
            await self.model.release(request.episode)
            return None
        usage[BACK] += len(said.ids) - kept + len(result.ids)
        logprobs = None
        if new.logprobs is not None and (said.logprobs is not None or not kept):
            logprobs = (*(said.logprobs or ())[:kept], *new.logprobs)
        return Completion(ids, logprobs, back=1)

    def _cut(self, ids: Sequence[int], text: str) -> int:
        """Return how many ids of a turn come before the line before the call's."""
        calls = [action.start for action in self.dialect.actions(text) if action.kind not in (THINK, ANSWER)]
        line = text.rfind("\n", 0, calls[-1]) if calls else -1
        cut = text.rfind("\n", 0, line) + 1 if line >= 0 else 0
        return prefix_length(ids, text[:cut], self.dialect.tokenizer)


def prefix_length(ids: Sequence[int], prefix: str, tokenizer: Tokenizer) -> int:
    """Return the most ids whose text is within ``prefix``, the beginning of the text of all.

    A token that reaches over its end is not among them.
    """
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(tokenizer.decode(ids[:middle])) <= len(prefix) else (low, middle - 1)
    # Half of a character decodes to a mark that the whole text does not have.
    while low and not prefix.startswith(tokenizer.decode(ids[:low])):
        low -= 1
    return low
