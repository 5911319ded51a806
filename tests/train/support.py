"""A model of a few thousand parameters and its tokenizer, saved as any other."""

from __future__ import annotations

import functools
from pathlib import Path

from aster_train.tiny.model import make_model
from aster_train.tiny.tokenizer import make_tokenizer

TEXT = '<tool_call>\n{"name": "python", "arguments": {"code": "x = 1\\nx"}}\n</tool_call> \\boxed{12} What is 1 + 1?\n'


@functools.cache
def tokenizer_of_the_text():
    return make_tokenizer([TEXT] * 5, 350)


def save_model(folder: Path, seed: int = 0) -> str:
    """Save a very small model and its tokenizer; return the folder's name."""
    tokenizer = tokenizer_of_the_text()
    model = make_model(len(tokenizer), seed, hidden_size=32, num_hidden_layers=2, intermediate_size=32, head_dim=8)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
