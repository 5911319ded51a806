"""The colocated engine: requests come and go on their own, turns end where they should, probabilities are kept."""

from __future__ import annotations

import asyncio
import importlib.util
import time

import numpy as np
import pytest
import torch

from aster_env.errors import PolicyError, UsageError
from aster_env.rollout import GenerateRequest, RolloutRunner
from aster_env.tokenizers import as_tokenizer
from aster_env.types import StopReason
from aster_train.engines import prepare_vllm
from aster_train.policies.vllm import VLLMPolicy
from aster_train.tiny.embedded import make_embedded

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
    pytest.mark.filterwarnings("ignore"),  # vLLM's own
]
LENGTH = 256


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = make_embedded(str(tmp_path_factory.mktemp("model")))
    prepare_vllm("float32")
    from vllm import LLM

    llm = LLM(folder, max_model_len=LENGTH, max_num_seqs=8, logprobs_mode="processed_logprobs", dtype="float32",
              enforce_eager=True, seed=0)  # fmt: skip
    tokenizer = as_tokenizer(AutoTokenizer.from_pretrained(folder))
    yield llm, tokenizer, AutoModelForCausalLM.from_pretrained(folder)
    VLLMPolicy(llm, tokenizer).close()


@pytest.fixture
def policy(served):
    return VLLMPolicy(*served[:2], seed=3)


def ask(policy, *requests):
    async def all_of_them():
        return await asyncio.gather(*(policy.generate(one) for one in requests))

    return asyncio.run(all_of_them())


def request(policy, text="What is 1 + 1?", seed=0, most=40, stop=()):
    return GenerateRequest(tuple(policy.tokenizer.encode(text)), most, stop, f"e{seed}", seed)


def test_a_turn_ends_with_the_token_that_completes_a_stop_string_or_at_its_budget(policy):
    stop = ("7", "e>")
    done = ask(policy, *(request(policy, seed=n, most=5 + n, stop=stop) for n in range(40)))
    finishes = [one.finish for one in done]
    assert {"stop", "length"} == set(finishes)
    for n, one in enumerate(done):
        text, before = policy.tokenizer.decode(one.ids), policy.tokenizer.decode(one.ids[:-1])
        assert not any(s in before for s in stop)
        assert not set(one.ids[:-1]) & policy.tokenizer.end_ids
        if one.finish == "stop":
            assert any(s in text for s in stop) or one.ids[-1] in policy.tokenizer.end_ids
        else:
            assert len(one.ids) == 5 + n


def test_a_special_token_can_be_a_stop_string_and_is_kept(policy, served):
    from vllm import SamplingParams

    (special,) = policy.tokenizer.encode("</tool_call>")
    asked = policy._sampling(request(policy, stop=("</tool_call>",)))
    forced = SamplingParams(**{"allowed_token_ids": [special], "stop": asked.stop, "max_tokens": 9, "logprobs": 0,
                               "include_stop_str_in_output": asked.include_stop_str_in_output,
                               "skip_special_tokens": asked.skip_special_tokens})  # fmt: skip
    (output,) = served[0].generate([{"prompt_token_ids": [1, 2]}], forced, use_tqdm=False)
    assert list(output.outputs[0].token_ids) == [special]


def test_log_probabilities_are_those_of_the_model(policy, served):
    model = served[2]
    asked = [request(policy, seed=n, most=60) for n in range(6)]
    for one, done in zip(asked, ask(policy, *asked), strict=True):
        ids = torch.tensor([[*one.ids, *done.ids]])
        with torch.no_grad():
            wanted = model(ids).logits[0, len(one.ids) - 1 : -1].log_softmax(-1)
        wanted = wanted.gather(1, torch.tensor(done.ids)[:, None])[:, 0]
        assert np.abs(wanted.numpy() - np.array(done.logprobs)).max() < 1e-4


def test_the_same_seeds_give_the_same_turns_whoever_else_is_there(policy):
    alone = [ask(policy, request(policy, seed=n))[0].ids for n in range(4)]
    together = ask(policy, *(request(policy, seed=n) for n in (9, 3, 2, 1, 0, 8)))
    assert [together[n].ids for n in (4, 3, 2, 1)] == alone
    assert len(set(alone)) == 4


def test_a_prompt_that_is_read_in_pieces_gives_the_same_turn(policy, monkeypatch):
    asked = [request(policy, "What is 1 + 1? " * (4 + n), seed=n) for n in range(4)]
    whole = ask(policy, *asked)
    policy.llm.reset_prefix_cache()
    monkeypatch.setattr(policy.engine.engine_core.engine_core.scheduler, "max_num_scheduled_tokens", 24)
    assert len(asked[0].ids) > 24
    assert [one.ids for one in ask(policy, *asked)] == [one.ids for one in whole]


def test_the_seconds_in_which_the_engine_works_are_counted(policy, monkeypatch):
    step = policy.engine.step
    monkeypatch.setattr(policy.engine, "step", lambda: (time.sleep(0.02), step())[1])
    started = time.perf_counter()
    (done,) = ask(policy, request(policy, most=6))
    assert 0.02 * len(done.ids) <= policy.seconds <= time.perf_counter() - started


def test_no_request_waits_for_another(policy):
    async def main():
        long = asyncio.create_task(policy.generate(request(policy, seed=1, most=200)))
        await asyncio.sleep(0)
        for n in range(3):
            await policy.generate(request(policy, seed=10 + n, most=4))
        assert not long.done()
        return await long

    assert len(asyncio.run(main()).ids) == 200


def test_a_cancelled_request_leaves_the_engine(policy):
    async def main():
        task = asyncio.create_task(policy.generate(request(policy, most=200)))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not policy.engine.has_unfinished_requests()
        return await policy.generate(request(policy, most=3))

    assert len(asyncio.run(main()).ids) == 3


def test_a_failing_engine_is_an_infrastructure_failure_of_every_episode(policy, monkeypatch):
    def fail():
        raise RuntimeError("out of memory")

    monkeypatch.setattr(policy.engine, "step", fail)

    async def main():
        asked = (policy.generate(request(policy, seed=n)) for n in range(3))
        return await asyncio.gather(*asked, return_exceptions=True)

    failures = asyncio.run(main())
    assert all(isinstance(one, PolicyError) and "out of memory" in str(one) for one in failures)
    monkeypatch.undo()
    assert not policy.engine.has_unfinished_requests()


def test_a_request_that_does_not_fit_is_refused(policy):
    with pytest.raises(PolicyError, match="does not fit the engine's context of 256"):
        ask(policy, request(policy, most=LENGTH))
    assert ask(policy, request(policy, most=0))[0].ids == ()


def test_an_engine_that_reports_other_probabilities_is_refused(served, monkeypatch):
    monkeypatch.setattr(served[0].llm_engine.model_config, "logprobs_mode", "raw_logprobs")
    with pytest.raises(UsageError, match="processed_logprobs"):
        VLLMPolicy(*served[:2])


def test_episodes_are_played_with_their_budget(policy):
    settings = {"tasks": "generated", "task_options": {"level": 1, "size": 8}, "instruction": "", "max_tokens": 120}
    settings["tokenizer"] = policy.tokenizer
    with RolloutRunner("ASTER/PythonMath-v0", max_concurrent=8, env_kwargs=settings) as runner:
        played = runner.run(policy, list(runner.envs[0].tasks), 5)
        again = runner.run(policy, list(runner.envs[0].tasks), 5)
    assert [t.ids for t in played] == [t.ids for t in again]
    assert all(t.stop is not StopReason.INFRASTRUCTURE for t in played)
    assert all(len(t.ids) <= 120 for t in played)
    assert all(len(t.logprobs) == len(t.ids) for t in played)
