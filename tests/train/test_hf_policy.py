"""HFPolicy against a plain forward pass and plain generation."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from types import SimpleNamespace

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from aster_env.errors import PolicyError, UsageError
from aster_env.rollout import GenerateRequest
from aster_env.tokenizers import as_tokenizer
from aster_train.policies.cache import BLOCK, BlockCache
from aster_train.policies.hf import HFPolicy
from aster_train.policies.sampling import sample
from aster_train.tiny.model import make_model
from aster_train.tiny.tokenizer import make_tokenizer
from tests.train.support import TEXT

TOKENIZER = as_tokenizer(make_tokenizer([TEXT] * 5, 350))
MODEL = make_model(
    TOKENIZER.vocab_size, 3, hidden_size=32, num_hidden_layers=2, intermediate_size=32, head_dim=8
).eval()


def generate(requests, model=None, **options):
    async def main():
        policy = HFPolicy(model or MODEL, TOKENIZER, **options)
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


def test_the_cache_has_the_type_of_what_is_computed_under_autocast():
    requests = [request("What is 1 + 1?" * 3, n) for n in range(3)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for one, asked in zip(generate(requests), requests, strict=True):
            assert one.logprobs == pytest.approx(logprobs_of(asked.ids, list(one.ids)), abs=0.1)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_logprobs_are_right_with_every_attention_that_is_allowed(attention):
    size = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 32, "head_dim": 8}
    model = make_model(TOKENIZER.vocab_size, 3, **size).eval()
    model.set_attn_implementation(attention)
    requests = [request("x" * (1 + 20 * n), n) for n in range(4)]
    for one, asked in zip(generate(requests, model=model), requests, strict=True):
        assert one.logprobs == pytest.approx(logprobs_of(asked.ids, list(one.ids)), abs=1e-5)


def test_an_attention_without_masks_is_refused():
    model = make_model(50)
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(UsageError, match=r"'flash_attention_2'.*Allowed: 'sdpa', 'eager'"):
        HFPolicy(model, TOKENIZER)


def play(lengths, **options):
    """Return the turns of two-turn episodes with prompts of these lengths, the policy, and its largest cache."""

    async def episode(policy, n, length, sizes):
        ids, turns = TOKENIZER.encode("x") * length, []
        for _ in range(2):
            asked = GenerateRequest(tuple(ids), 40, ("never",), f"e{n}", n)
            turns.append(await policy.generate(asked))
            sizes.append(policy._cache.size)
            ids += [*turns[-1].ids, *TOKENIZER.encode("1") * 30]
        return turns

    async def main():
        policy, sizes = HFPolicy(MODEL, TOKENIZER, **options), []
        turns = await asyncio.gather(*(episode(policy, n, length, sizes) for n, length in enumerate(lengths)))
        return turns, policy, max(sizes)

    return asyncio.run(main())


def test_memory_is_bounded_in_tokens_and_what_waits_for_it_is_sampled_as_if_it_had_not():
    lengths = [5, 300, 5, 90, 5, 5, 60, 5]
    free, _, most = play(lengths)
    tight, policy, bounded = play(lengths, max_cache_tokens=512)
    assert [[t.ids for t in turns] for turns in tight] == [[t.ids for t in turns] for turns in free]
    for one, other in zip(tight, free, strict=True):
        for turn, same in zip(one, other, strict=True):
            assert turn.logprobs == pytest.approx(same.logprobs, abs=1e-4)
    token = 2 * 2 * 2 * 8 * 4  # layers, keys and values, heads, head size, bytes
    assert bounded <= (512 + BLOCK) * token < most
    # A long episode costs the short ones nothing: eight slots of its length would be 3520 tokens.
    assert most < 1800 * token
    assert len(policy._schedule._free) + sum(len(row.blocks) for row in policy._schedule.rows.values()) == 512 // BLOCK


def test_an_episode_longer_than_the_cache_fails_alone():
    async def main():
        policy = HFPolicy(
            MODEL,
            SimpleNamespace(decode=TOKENIZER.decode, end_ids=(), vocab_size=TOKENIZER.vocab_size),
            max_cache_tokens=128,
        )
        asked = [request("x" * 300, 0), request("x", 1, max_new_tokens=400, stop=("never",)), request("x", 2)]
        return await asyncio.wait_for(
            asyncio.gather(*(policy.generate(one) for one in asked), return_exceptions=True), 60
        )

    long, grown, short = asyncio.run(main())
    for error in (long, grown):
        assert isinstance(error, PolicyError)
        assert "raise max_cache_tokens" in str(error)
    assert short.ids


def test_the_cache_grows_by_doubling():
    cache, grown = BlockCache(1000), 0
    size = 0
    for block in range(1, 1001):
        table = torch.tensor([[block]])
        cache.select(table, table * BLOCK, 1, block)
        keys, values = cache.update(torch.full((1, 2, 1, 4), float(block)), torch.ones(1, 2, 1, 4), 0)
        assert keys.flatten().tolist() == [float(block)] * 8
        assert values.sum() == 8
        grown += cache.size > size
        size = cache.size
    assert grown < 15
    assert size == 2 * 1001 * BLOCK * 2 * 4 * 4
    cache.select(torch.tensor([[3]]), torch.tensor([[0]]), 1, 3)
    assert cache.update(torch.zeros(1, 2, 1, 4), torch.zeros(1, 2, 1, 4), 0)[0].flatten().tolist() == [3.0] * 8


def test_requests_without_an_episode_have_nothing_in_common():
    asked = [request(f"What is {n}?", n, episode="") for n in range(4)]
    alone = [generate([one])[0].ids for one in asked]
    assert [one.ids for one in generate(asked)] == alone


@pytest.mark.parametrize(
    "options", [{"temperature": -1}, {"top_p": 0}, {"max_batch": 0}, {"max_cache_tokens": 10}, {"max_batch": "8"}]
)
def test_bad_arguments_are_named(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        HFPolicy(MODEL, TOKENIZER, **options)


def test_a_model_without_full_attention_is_refused():
    model = make_model(50, layer_types=["sliding_attention"] * 3, sliding_window=4, use_sliding_window=True)
    with pytest.raises(UsageError, match="sliding_attention"):
        HFPolicy(model, TOKENIZER)
