"""Models in this process, and a real vLLM server."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
import torch
from transformers import AutoModelForCausalLM

from aster_env.errors import MissingExtraError, UsageError
from aster_env.evaluate.policies import Sampling, open_policy, read_spec
from aster_env.limits import Limits
from aster_env.rollout import play
from aster_env.types import StopReason
from aster_train.tiny.embedded import make_embedded
from tests.evaluate.policies.server import episodes
from tests.support import EchoEnv

needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed")
VLLM = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1",
        "TORCH_COMPILE_DISABLE": "1", "OMP_NUM_THREADS": "2"}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_embedded(str(tmp_path_factory.mktemp("model")))


def test_a_folder_plays_on_real_python_and_repeats_exactly(model):
    spec = read_spec("transformers", model=model, options={"dtype": "float32", "max_batch": 2})
    sampling = Sampling(0.8, 0.9, max_tokens=384, seed=7)
    first, opened = asyncio.run(episodes(spec, sampling, count=2, max_tokens=384))
    again, _ = asyncio.run(episodes(spec, sampling, count=2, max_tokens=384))
    assert first == again
    assert [list(t.model_turns[0].ids) for t in first] != [[], []]
    assert all(logprob <= 0 for t in first for logprob in t.model_turns[0].logprobs)
    assert all(len(t.ids) <= 384 for t in first)
    assert set(opened.described["files"]) >= {"config.json", "model.safetensors"}
    assert (opened.described["dtype"], opened.described["kind"]) == ("float32", "transformers")
    json.dumps(opened.described)
    assert not opened.counts_tokens


def test_the_end_of_the_models_context_is_the_end_of_its_budget(model):
    async def main():
        opened = await open_policy(read_spec("transformers", model=model), Sampling(max_tokens=256))
        env = EchoEnv(tokenizer=opened.tokenizer, limits=Limits(max_tokens=4096))
        trajectory = await play(env, opened.policy, env.tasks[0])
        await env.aclose()
        await opened.close()
        await opened.close()
        return trajectory

    trajectory = asyncio.run(main())
    assert trajectory.error is None
    last = [number for number, sampled in enumerate(trajectory.mask) if sampled][-1]
    assert last < 256


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"model": "/no/such/folder"}, "no such folder"),
        ({"options": {"max_cache_tokens": 16}}, "Fix: at least"),
    ],
)
def test_a_model_that_cannot_be_served_is_refused(model, given, said):
    with pytest.raises(UsageError, match=said):
        asyncio.run(open_policy(read_spec("transformers", **{"model": model, **given}), Sampling(max_tokens=128)))


def test_a_missing_library_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "aster_train.policies.opening", None)
    for kind in ("transformers", "vllm"):
        with pytest.raises(MissingExtraError, match=rf"--policy {kind} needs the package .*aster-gym\[train\]"):
            asyncio.run(open_policy(read_spec(kind, model="m"), Sampling()))


@needs_vllm
@pytest.mark.vllm
@pytest.mark.slow
def test_an_engine_in_this_process_plays(model):
    script = (
        "import asyncio\n"
        "from aster_env.evaluate.policies import Sampling, read_spec\n"
        "from tests.evaluate.policies.server import episodes\n"
        f"spec = read_spec('vllm', model={model!r}, options={{'dtype': 'float32'}})\n"
        "run = lambda: asyncio.run(episodes(spec, Sampling(0.8, max_tokens=384), count=2, max_tokens=384))\n"
        "played, opened = run()\n"
        "assert all(t.error is None and len(t.ids) <= 384 for t in played), [t.error for t in played]\n"
        "assert all(len(t.model_turns[0].logprobs) == len(t.model_turns[0].ids) for t in played)\n"
        "assert opened.described['files'] and opened.described['context'] == 384\n"
    )
    # A process of its own: an engine changes much in the one that it lives in.
    subprocess.run([sys.executable, "-c", script], check=True, timeout=280, env={**os.environ, **VLLM})


@needs_vllm
@pytest.mark.vllm
@pytest.mark.slow
def test_a_real_vllm_server_gives_the_ids_it_sampled(model):
    async def main(url):
        spec = read_spec("completions", model="tiny", url=url, tokenizer=model)
        first, opened = await episodes(spec, Sampling(max_tokens=384, seed=1), count=2, max_tokens=384)
        again, _ = await episodes(spec, Sampling(max_tokens=384, seed=1), count=2, max_tokens=384)
        beyond, _ = await episodes(spec, Sampling(max_tokens=2048), make=EchoEnv, limits=Limits(max_tokens=2048))
        return first, again, beyond, opened

    with serving(model) as url:
        first, again, beyond, opened = asyncio.run(main(url))
    for trajectory in [*first, *beyond]:
        assert trajectory.error is None
        assert trajectory.stop is not StopReason.INFRASTRUCTURE
        for turn in trajectory.model_turns:
            assert len(turn.logprobs) == len(turn.ids)
    assert logprobs_of(model, first[0]) == pytest.approx(first[0].model_turns[0].logprobs, abs=1e-3)
    assert [t.ids for t in first] == [t.ids for t in again]
    assert beyond[0].mask[512:].count(1) == 0
    assert opened.described["endpoint"]["max_model_len"] == 512


def logprobs_of(model, trajectory):
    """Return what the model itself gives the first turn's ids, computed apart from the server."""
    prompt, turn = (list(t.ids) for t in trajectory.turns[:2])
    with torch.inference_mode():
        logits = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)(torch.tensor([prompt + turn])).logits
    rows = logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return rows.gather(1, torch.tensor(turn)[:, None])[:, 0].tolist()


@contextlib.contextmanager
def serving(model):
    """Start `vllm serve` on a folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # What `vllm serve` runs; that command itself is not part of the build for CPUs.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--port", str(port),
               "--host", "127.0.0.1", "--served-model-name", "tiny", "--max-model-len", "512", "--dtype", "float32",
               "--enforce-eager"]  # fmt: skip
    server = subprocess.Popen(command, env={**os.environ, **VLLM}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(900):
            assert server.poll() is None, "vllm serve ended"
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=1):
                break
            time.sleep(0.2)
        yield url
    finally:
        server.terminate()
        server.wait(60)
