"""The code debugger: failing code and its error become corrected code."""

from __future__ import annotations

import re
from collections import Counter

from aster_env.dialects.base import split_thought
from aster_env.modules.base import Module, failed_call, schemas_of
from aster_env.rollout import Completion, GenerateRequest

_FENCE = re.compile(r"```[^\n]*\n(.*?)```", re.DOTALL)
_ASK = (
    "This Python code fails.\n\n```python\n{code}\n```\n\nWhat came of it:\n\n{error}\n\nWrite the corrected code, "
    "complete, in one ```python block, and nothing else."
)


class CodeDebugger(Module):
    """Calls ``python`` with corrected code after the first code of an episode that failed.

    The helper sees the code and the error alone, in a conversation beside the episode. Its code comes into the episode
    as a call of the assistant's, which counts as any call does. It was written under another context than the row's,
    so it has no log-probabilities there and is not trained on. Nothing is done where the reply holds no code, the same
    code again, or code that the dialect cannot write.
    """

    name = "code_debugger"
    max_tokens = 2048
    """Tokens of the helper's reply."""

    def applies(self, request: GenerateRequest) -> bool:
        """Whether the last call ran code that failed."""
        found = failed_call(request.turns)
        return found is not None and found[1].name == "python"

    async def step_in(self, request: GenerateRequest, usage: Counter[str]) -> Completion | None:
        """Return a turn that calls corrected code."""
        found = failed_call(request.turns)
        assert found is not None
        code = str(found[1].arguments["code"])
        reply = await self.ask(request, _ASK.format(code=code, error=found[2]), self.max_tokens, usage)
        fixed = read_code(reply or "")
        if not fixed or fixed.strip() == code.strip():
            return None
        text = self.dialect.call("python", {"code": fixed})
        read = self.dialect.parse(text, schemas_of(request)).call
        ids = tuple(self.dialect.tokenizer.encode(text))
        if read is None or read.problem is not None or read.arguments.get("code") != fixed:
            return None
        if len(ids) >= request.max_new_tokens:
            return None
        return Completion(ids, module=self.name)


def read_code(reply: str) -> str:
    """Return the last block of code in a reply, or "" if there is none."""
    blocks = _FENCE.findall(split_thought(reply)[0])
    return str(blocks[-1]).strip("\n") if blocks else ""
