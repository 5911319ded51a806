"""The sizes that `aster plan` computes, against measured ones: within 10 %."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import json
import os
import sys
import tracemalloc
import weakref
from pathlib import Path

import pytest
import torch
import transformers
import trl.trainer.utils
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from trl.trainer.utils import add_fused_lm_head

from aster_env.kernels import open_pool
from aster_env.rollout import GenerateRequest
from aster_env.types import Task, Trajectory, Turn
from aster_train.planning import activations as plan_activations
from aster_train.planning import memory as plan_memory
from aster_train.planning import sampling as plan_sampling
from aster_train.planning.memory import Training, gradients, optimizer, total, weights
from aster_train.planning.model import FAMILIES, shape_of
from aster_train.planning.sampling import Sampling
from aster_train.policies import cache, hf
from benchmarks.kernels.measure import below, private_mb, pss_mb

ROOT = Path(__file__).parents[2]
SIZES = {"vocab_size": 96, "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4,
         "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 48, "use_cache": False}  # fmt: skip


def close(measured: float, planned: float, share: float = 0.1) -> bool:
    return abs(planned - measured) <= share * measured


def build(family="qwen3", training=None, **changes):
    """Return a random model as the trainer would hold it, and its shape."""
    training = training or Training()
    sizes = {**SIZES, **changes}
    if family == "qwen2":
        sizes["hidden_size"] = sizes["num_attention_heads"] * sizes.pop("head_dim")
    config = transformers.AutoConfig.for_model(family, **sizes)
    shape = shape_of("random", config, torch, transformers)
    model = base = transformers.AutoModelForCausalLM.from_config(config).train()
    if training.lora:
        model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", r=training.lora))
        model.enable_input_require_grads()
    if training.mode == "bf16":
        model = model.bfloat16()
    if training.checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    add_fused_lm_head(base, outputs=("log_probs", "entropy"))
    return model, shape


def forward(model, training):
    """Compute log-probabilities as TRL does, of a batch whose episodes differ in length if ``training`` says so."""
    ids = torch.ones(training.micro_batch, training.context, dtype=torch.long)
    mask = torch.ones_like(ids)
    if training.padded:
        mask[0, :5] = 0
    labels = ids.masked_fill(mask == 0, -100)
    with autocast(training):
        return model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True).log_probs


def autocast(training):
    on = training.mode == "autocast"
    return torch.autocast("cpu", torch.bfloat16) if on else contextlib.nullcontext()


def storages(tensors):
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}


def of_model(model):
    tensors = [*model.parameters(), *model.buffers()]
    return storages([*tensors, *(t.grad for t in tensors if t.grad is not None)])


class Alive(TorchDispatchMode):
    """The bytes of the storages that were made under it and still are; the most there ever were."""

    def __init__(self, before):
        super().__init__()
        self.before, self.sizes, self.now, self.most = before, {}, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self.add(tensor.untyped_storage())
        self.most = max(self.most, self.now)
        return made

    def add(self, storage):
        if storage._cdata not in self.sizes and storage.data_ptr() not in self.before:
            self.sizes[storage._cdata] = storage.nbytes()
            self.now += storage.nbytes()
            weakref.finalize(storage, self.drop, storage._cdata)

    def drop(self, key):
        self.now -= self.sizes.pop(key, 0)


def measure_saved(model, training):
    """Return the bytes of all that autograd saves, each storage once, the parameters not counted."""
    own, seen = of_model(model), {}

    def pack(tensor):
        seen.update(storages([tensor]))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = forward(model, training)
    assert kept.requires_grad
    return sum(size for pointer, size in seen.items() if pointer not in own)


MODES = {"fp32": {"bf16": False}, "autocast": {}, "bf16": {"zero": 3}}


@pytest.mark.parametrize("shape", [(1, 384), pytest.param((3, 128), marks=pytest.mark.slow)], ids=["1x384", "3x128"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["all", "checkpoints"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", FAMILIES)
def test_saved_activations_are_as_planned(family, mode, checkpointing, shape):
    for padded in (False, True):
        training = Training(
            checkpointing=checkpointing, micro_batch=shape[0], context=shape[1], padded=padded, **MODES[mode]
        )
        model, dimensions = build(family, training)
        measured = measure_saved(model, training)
        assert close(measured, plan_activations.saved(dimensions, training), 0.02), (measured, padded)


@pytest.mark.parametrize("mode", MODES)
def test_saved_activations_of_adapters_are_as_planned(mode):
    for checkpointing, padded in itertools.product((False, True), (False, True)):
        training = Training(
            lora=8, checkpointing=checkpointing, micro_batch=2, context=256, padded=padded, **MODES[mode]
        )
        model, shape = build("qwen3", training)
        assert close(measure_saved(model, training), plan_activations.saved(shape, training)), (checkpointing, padded)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["all", "checkpoints"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("lora", [0, 8], ids=["full", "lora"])
def test_the_most_that_an_update_holds_is_as_planned(mode, checkpointing, lora, monkeypatch):
    # Without Triton the head folds a tile of logits with several copies of it: a small one, to see the layers.
    monkeypatch.setattr(trl.trainer.utils, "_CHUNKED_LOGPROB_CHUNK_SIZE", 32)
    for module in (plan_memory, plan_activations):
        monkeypatch.setattr(module, "TILE", (4096, 32))
    training = Training(lora=lora, checkpointing=checkpointing, micro_batch=2, context=512, **MODES[mode])
    model, shape = build("qwen3", training, num_hidden_layers=8)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    with Alive(of_model(model)) as alive:
        forward(model, training).sum().backward()
    planned = total(plan_activations.kept(shape, training))
    planned += max(one.bytes for one in plan_activations.working(shape, training))
    assert close(alive.most, planned), alive.most / planned


def test_weights_gradients_and_moments_are_as_planned():
    for training in (Training(context=16), Training(context=16, lora=8)):
        model, shape = build("qwen3", training, hidden_size=256, num_hidden_layers=8, vocab_size=4096)
        parameters = list(model.parameters())
        assert sum(p.numel() for p in parameters) > 4_000_000
        assert close(sum(storages(parameters).values()), weights(shape, training).bytes, 0.01)
        made = torch.optim.AdamW([p for p in parameters if p.requires_grad], fused=True)
        forward(model, training).sum().backward()
        made.step()
        found = sum(storages(p.grad for p in parameters if p.grad is not None).values())
        assert close(found, gradients(shape, training).bytes, 0.01)
        state = [value for one in made.state.values() for value in one.values()]
        assert close(sum(storages(state).values()), optimizer(shape, training).bytes, 0.01)


class Letters:
    """A tokenizer of one-letter words, none of which ends a turn."""

    end_ids = frozenset()
    vocab_size = SIZES["vocab_size"]

    def decode(self, ids):
        return "x" * len(ids)


@pytest.mark.parametrize("heads", [2, 6], ids=["grouped", "all heads"])
@pytest.mark.parametrize("mode", MODES)
def test_the_cache_and_a_decoding_step_are_as_planned(mode, heads):
    rows, length = 6, 640
    training = Training(checkpointing=False, context=length, **MODES[mode])
    model, shape = build("qwen3", training, num_key_value_heads=heads)
    # As accelerate prepares it.
    inner = model.forward

    def outer(*args, **kwargs):
        with autocast(training):
            return inner(*args, **kwargs)

    model.forward = outer
    policy = hf.HFPolicy(model, Letters(), max_batch=rows, max_cache_tokens=rows * length)

    def play(lengths, count):
        async def main():
            asked = (GenerateRequest([1] * size, count, (), f"e{n}", n) for n, size in enumerate(lengths))
            await asyncio.gather(*(policy.generate(one) for one in asked))

        asyncio.run(main())

    play([length - 4] * rows, 1)
    sampling = Sampling(0.0, False, rows, rows, rows * length)
    (held,) = [one for one in plan_sampling.policy_lines(shape, training, sampling) if one.name == "cache"]
    assert close(policy._cache.size, held.bytes)
    known = {**of_model(model), **storages(policy._cache._stores.values())}
    with Alive(known) as alive:
        play([length - 2] * rows, 2)
    step = plan_sampling.policy_steps(shape, training, sampling)[0]
    assert close(alive.most, step.bytes), alive.most / step.bytes


def test_constants_of_the_policy_are_its_own():
    assert plan_sampling.BLOCK == cache.BLOCK
    assert plan_sampling.CHUNK == hf._CHUNK
    assert hf.OPTIONS["max_cache_tokens"] == 65536
    assert plan_memory.TILE[1] == trl.trainer.utils._CHUNKED_LOGPROB_CHUNK_SIZE


@pytest.mark.vllm
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed")
@pytest.mark.filterwarnings("ignore")
def test_an_episode_in_the_engine_is_what_vllm_says():
    from vllm.v1.kv_cache_interface import FullAttentionSpec

    _, shape = build()
    spec = FullAttentionSpec(
        block_size=plan_sampling.PAGE, num_kv_heads=shape.kv_heads, head_size=shape.head_dim, dtype=torch.bfloat16
    )
    for context in (16, 1000, 32768):
        pages = -(-context // spec.block_size)
        planned = plan_sampling.engine_episode(shape, context).bytes
        assert planned == shape.layers * pages * spec.page_size_bytes


def test_a_trajectory_is_as_planned():
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        size, turns = 2000, []
        for n in range(10):
            ids = tuple(int(str(1000 + i + size * n)) for i in range(size))
            turns.append(Turn("model", ids, "abcd" * size, tuple(-1 / (i + 2 + n) for i in range(size))))
        played = Trajectory(Task("t", "p", ("a",)), turns)
        row = (played.ids, played.mask, played.logprobs)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert close((after - before) / len(row[0]), plan_sampling.TOKEN)


def test_the_sessions_of_the_plan_are_those_of_the_benchmark():
    found = json.loads((ROOT / "benchmarks" / "results" / "kernels.json").read_text(encoding="utf-8"))
    private, many = found["cold fork"]["private_mb"], found["many"]
    assert close(private * 1e6, plan_sampling.SESSION)
    assert close(many["pss_mb"] * 1e6, many["live"] * plan_sampling.SESSION + plan_sampling.SERVER, 0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="the pool that is measured needs Linux")
def test_idle_sessions_are_as_planned():
    async def main():
        others = set(next(iter(below(os.getpid())), ()))  # processes of other tests
        async with open_pool("zygote", spares=0, shards=1) as pool:
            kernels = [await pool.start() for _ in range(24)]
            for kernel in kernels:
                assert (await kernel.execute("1 + 1")).value == "2"
            (keeper,) = set(below(os.getpid())[0]) - others
            generations = [[keeper], *below(keeper)]
            rows = [(private_mb(pid), pss_mb(pid)) for pid in generations[2]]
            others = [pss_mb(pid) for pid in itertools.chain(*generations[:2])]
        return len(kernels), rows, others

    live, rows, others = asyncio.run(main())
    if os.geteuid() and (any(None in row for row in rows) or None in others):
        pytest.skip("the memory of another user's processes may not be read here")
    assert len(rows) == live
    # The median: a session that ran on another processor now and then has a page more.
    assert close(sorted(private for private, _ in rows)[live // 2] * 1e6, plan_sampling.SESSION)
    everything = (sum(pss for _, pss in rows) + sum(others)) * 1e6
    assert close(everything, live * plan_sampling.SESSION + plan_sampling.SERVER), everything
