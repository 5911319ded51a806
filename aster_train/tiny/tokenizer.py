"""The embedded model's tokenizer: a small byte-level BPE, trained in place in well under a second."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIALS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<tool_response>",
    "</tool_response>", "<think>", "</think>",
)  # fmt: skip

# The comment names `tools`: the cold start teaches them, so that no prompt has to describe them.
TEMPLATE = (
    "{#- tools are not described -#}"
    "{%- for message in messages -%}"
    "{%- if message.role == 'tool' -%}"
    "<|im_start|>user\n<tool_response>\n{{ message.content }}\n</tool_response><|im_end|>\n"
    "{%- else -%}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|im_start|>assistant\n{%- endif -%}"
)


def make_tokenizer(texts: Iterable[str], vocab_size: int = 768, pieces: str = r"\d{1,2}") -> PreTrainedTokenizerFast:
    """Train a tokenizer on texts.

    Numbers split into pairs of digits from the left, so that a model can copy them pair by pair; merges run over
    spaces, so that the boilerplate of a call is a token or two.

    Args:
        texts: rendered trajectories.
        vocab_size: at most so many tokens.
        pieces: a regular expression of what stands by itself: no token holds a part of it and of its neighbours.
    """
    core = Tokenizer(models.BPE())
    split: Any = pre_tokenizers.Split(Regex(pieces), "isolated")
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    numbers = [" ".join(f"{n:02d}" for n in range(100))] * 1000
    core.train_from_iterator([*texts, *numbers], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
