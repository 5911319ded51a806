"""The embedded model: half a million parameters, made in place."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM


def make_model(vocab_size: int, seed: int = 0, **changes: Any) -> Qwen3ForCausalLM:
    """Return a randomly initialised Qwen3 model of about 0.5 million parameters, in fp32.

    Args:
        vocab_size: of the tokenizer.
        seed: of the initial weights.
        **changes: other values for ``Qwen3Config``.
    """
    settings: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "intermediate_size": 256,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
        "rope_theta": 10_000.0,
        "attention_dropout": 0.0,
        "use_cache": False,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(Qwen3Config(**{**settings, **changes}))
