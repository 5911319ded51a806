"""What modules leave in a training row: only what the model sampled under exactly that row."""

from __future__ import annotations

import asyncio
import math

import torch

from aster_env.modules import Backtracker, CodeDebugger
from aster_env.rollout import Completion, play
from aster_env.tokenizers import as_tokenizer
from aster_train.policies.hf import HFPolicy
from aster_train.tasks import training_row
from aster_train.tiny.model import make_model
from tests.modules.support import EchoEnv, run
from tests.train.support import tokenizer_of_the_text

CALL = '<tool_call>\n{"name": "python", "arguments": {"code": "bad"}}\n</tool_call>'
TOKENIZER = as_tokenizer(tokenizer_of_the_text())
MODEL = make_model(TOKENIZER.vocab_size, 3, hidden_size=32, num_hidden_layers=2, intermediate_size=32, head_dim=8)


@torch.no_grad()
def logprobs_under(context, ids):
    logits = MODEL.eval()(torch.tensor([[*context, *ids]])).logits[0, len(context) - 1 : -1]
    return tuple(logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0].tolist())


class FirstFails:
    """A real model whose first turn is put into its mouth, with the probabilities that it gives to it."""

    def __init__(self, inner):
        self.inner, self.asked = inner, 0

    async def generate(self, request):
        self.asked += 1
        if self.asked == 1:
            ids = tuple(TOKENIZER.encode("One line.\nAnother.\n" + CALL))
            return Completion(ids, logprobs_under(request.ids, ids))
        if "This Python code fails" in TOKENIZER.decode(request.ids):
            return Completion(tuple(TOKENIZER.encode("```python\ngood\n```")), None)
        return await self.inner.generate(request)

    async def release(self, episode):
        await self.inner.release(episode)


def played(module):
    env = EchoEnv(run, tokenizer=TOKENIZER)
    env.limits = type(env.limits)(max_tokens=700)

    async def main():
        policy = module(FirstFails(HFPolicy(MODEL, TOKENIZER)), env.dialect)
        try:
            return await play(env, policy, env.tasks[0], seed=3)
        finally:
            await env.aclose()

    return asyncio.run(main())


def check(row):
    """Compare the row's probabilities with one forward pass over the whole of it, as the loss does."""
    ids = [*row["prompt_ids"], *row["completion_ids"]]
    start = len(row["prompt_ids"])
    given = logprobs_under(ids[:start], ids[start:])
    for trained, sampled, computed in zip(row["env_mask"], row["logprobs"], given, strict=True):
        assert not math.isnan(sampled)
        if trained:
            assert abs(sampled - computed) < 1e-3


def test_a_turn_that_was_sampled_again_has_the_probabilities_of_a_forward_pass_over_the_row():
    trajectory = played(Backtracker)
    assert trajectory.usage["backtracker"] == 1
    assert trajectory.turns[1].text.startswith("One line.\n")
    row = training_row(trajectory, 0)
    assert all(row["env_mask"][: len(trajectory.turns[1].ids)])
    check(row)


def test_what_a_debugger_wrote_is_masked_in_the_row():
    trajectory = played(CodeDebugger)
    row = training_row(trajectory, 0)
    written = trajectory.model_turns[1]
    assert written.module == "code_debugger"
    masked = [i for i, trained in zip(row["completion_ids"], row["env_mask"], strict=True) if not trained]
    assert [i for turn in trajectory.turns[2:5] for i in turn.ids] == masked[
        : sum(len(t.ids) for t in trajectory.turns[2:5])
    ]
    check(row)


def test_a_configuration_names_modules(tmp_path):
    from trl import GRPOConfig

    from aster_train.config import GRPOSettings, read_settings

    file = tmp_path / "run.yaml"
    file.write_text(f"model: embedded\nmodules: [backtracker]\ntrain: {{output_dir: {tmp_path}}}\n")
    assert list(read_settings(GRPOSettings, ["--config", str(file)], "", GRPOConfig).modules) == ["backtracker"]
