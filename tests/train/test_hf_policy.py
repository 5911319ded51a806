"""HFPolicy against a plain forward pass and plain generation."""

from __future__ import annotations

import asyncio
import math
from collections import Counter

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from aster_env.errors import PolicyError, UsageError
from aster_env.rollout import GenerateRequest
from aster_env.tokenizers import as_tokenizer
from aster_train.policies.hf import HFPolicy
from aster_train.policies.sampling import sample
from aster_train.tiny.model import make_model
from aster_train.tiny.tokenizer import make_tokenizer
from tests.train.support import TEXT

TOKENIZER = as_tokenizer(make_tokenizer([TEXT] * 5, 350))
MODEL = make_model(
    TOKENIZER.vocab_size, 3, hidden_size=32, num_hidden_layers=2, intermediate_size=32, head_dim=8
).eval()


def generate(requests, **options):
    async def main():
        policy = HFPolicy(MODEL, TOKENIZER, **options)
        return await asyncio.gather(*(policy.generate(request) for request in requests))

    return asyncio.run(main())


def request(text, n=0, **options):
    return GenerateRequest(TOKENIZER.encode(text), **{"max_new_tokens": 12, "episode": f"e{n}", "seed": n, **options})


@torch.no_grad()
def logprobs_of(context, ids, temperature=1.0):
    logits = MODEL(torch.tensor([[*context, *ids]])).logits[0, len(context) - 1 : -1] / temperature
    return logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0].tolist()


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.text("What is 12+?\n", max_size=60), st.integers(1, 15)), min_size=1, max_size=9),
    st.integers(1, 9),
    st.sampled_from([1.0, 0.7]),
)
def test_logprobs_are_those_of_a_plain_forward_pass_whoever_shares_the_batch(rows, places, temperature):
    requests = [request("x" + text, n, max_new_tokens=most) for n, (text, most) in enumerate(rows)]
    for one, asked in zip(generate(requests, max_batch=places, temperature=temperature), requests, strict=True):
        assert 1 <= len(one.ids) <= asked.max_new_tokens
        assert one.logprobs == pytest.approx(logprobs_of(asked.ids, list(one.ids), temperature), abs=1e-4)


def test_the_sample_does_not_depend_on_the_company():
    requests = [request(f"What is {n} + {n}?", n) for n in range(8)]
    together = generate(requests)
    alone = [generate([one])[0] for one in requests]
    few = generate(requests, max_batch=3)
    assert [c.ids for c in together] == [c.ids for c in alone] == [c.ids for c in few]
    assert len({c.ids for c in together}) > 4


def test_greedy_is_the_argmax_of_plain_forward_passes():
    (one,) = generate([request("What is 1 + 1?")], temperature=0.0)
    ids = TOKENIZER.encode("What is 1 + 1?")
    with torch.no_grad():
        for token in one.ids:
            assert token == int(MODEL(torch.tensor([ids])).logits[0, -1].argmax())
            ids.append(token)


def test_turns_of_an_episode_reuse_the_cache_and_agree_with_a_fresh_policy():
    async def main(fresh):
        policy = HFPolicy(MODEL, TOKENIZER)
        ids, turns = TOKENIZER.encode("What is 1?"), []
        for _ in range(4):
            done = await policy.generate(GenerateRequest(tuple(ids), 8, (), "episode", 5))
            turns.append(done)
            ids += [*done.ids, *TOKENIZER.encode("\n1 + 1\n" * 6)]
            if fresh:
                policy = HFPolicy(MODEL, TOKENIZER)
        return turns, policy.steps

    (kept, _), (again, _) = asyncio.run(main(False)), asyncio.run(main(True))
    assert [t.ids for t in kept] == [t.ids for t in again]
    for one, other in zip(kept, again, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_a_turn_ends_at_a_stop_string_or_an_end_token_and_keeps_it():
    text = "x" * 3
    free = generate([request(text, n, max_new_tokens=200) for n in range(6)])
    for one in free:
        ends = [i for i in one.ids if i in TOKENIZER.end_ids]
        assert ends == ([one.ids[-1]] if one.finish == "stop" else [])
    stop = TOKENIZER.decode(free[0].ids[3:4])
    (stopped,) = generate([request(text, 0, max_new_tokens=200, stop=(stop,))])
    cut = TOKENIZER.decode(stopped.ids)
    assert stop in cut
    assert stop not in TOKENIZER.decode(stopped.ids[:-1])
    assert stopped.ids == free[0].ids[: len(stopped.ids)]


def test_sampling_follows_the_distribution():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).repeat(20000, 1)
    uniform = torch.linspace(0, 1, 20001)[:-1].double()
    ids, logprobs = sample(logits, uniform, 1.0, 1.0)
    expected = logits[0].softmax(-1)
    counts = Counter(ids.tolist())
    for token in range(4):
        assert counts[token] / 20000 == pytest.approx(expected[token].item(), abs=1e-3)
    assert logprobs[0].item() == pytest.approx(math.log(expected[ids[0]]), abs=1e-5)
    nucleus, _ = sample(logits, uniform, 1.0, 0.7)
    assert set(nucleus.tolist()) == {0, 1}


def test_a_model_that_fails_fails_every_waiting_episode_with_its_cause():
    class Broken(torch.nn.Module):
        config, device, dtype = MODEL.config, MODEL.device, MODEL.dtype

        def forward(self, **kwargs):
            raise RuntimeError("out of memory")

    async def main():
        policy = HFPolicy(Broken(), TOKENIZER)
        return await asyncio.gather(*(policy.generate(request("x", n)) for n in range(3)), return_exceptions=True)

    for error in asyncio.run(asyncio.wait_for(main(), 10)):
        assert isinstance(error, PolicyError)
        assert "out of memory" in str(error)


def test_a_cancelled_request_frees_its_place():
    async def main():
        policy = HFPolicy(MODEL, TOKENIZER, max_batch=1)
        first = asyncio.create_task(policy.generate(request("x", 1, max_new_tokens=100_000, stop=("never",))))
        await asyncio.sleep(0.05)
        first.cancel()
        await policy.release("e1")
        return await asyncio.wait_for(policy.generate(request("y", 2)), 10)

    assert asyncio.run(main()).ids


@pytest.mark.parametrize("options", [{"temperature": -1}, {"top_p": 0}, {"max_batch": 0}])
def test_bad_arguments_are_named(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        HFPolicy(MODEL, TOKENIZER, **options)


def test_a_model_without_full_attention_is_refused():
    model = make_model(50, layer_types=["sliding_attention"] * 3, sliding_window=4, use_sliding_window=True)
    with pytest.raises(UsageError, match="sliding_attention"):
        HFPolicy(model, TOKENIZER)
