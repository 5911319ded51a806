"""Tokenizers with awkward properties, made by hand."""

from __future__ import annotations

import functools

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from aster_env.tokenizers import CHAT_MARKERS, TAG_NAMES, ByteTokenizer, TransformersTokenizer
from aster_train.tiny.tokenizer import make_tokenizer

TAGS = [f"<{slash}{name}>" for name in TAG_NAMES for slash in ("", "/")]
MARKUP = ["<s>", "</s>", "[INST]", "[/INST]", "<|eot_id|>", "<|fim_prefix|>", "[TOOL_CALLS]", "[CLS]", "[SEP]", "<unk>"]
MARKERS = [*CHAT_MARKERS, *TAGS, *MARKUP, "<|start_header_id|>", "<|end_header_id|>"]
TEXT = "The tower was built in 1889, think of a tool_call: search the result <a> [b] (c) | / and answer it. im_start "
LLAMA2 = (
    "{%- for m in messages -%}{%- if m.role == 'assistant' -%} {{ m.content }} </s>"
    "{%- else -%}<s>[INST] {{ m.content }} [/INST]{%- endif -%}{%- endfor -%}"
)
LLAMA3 = (
    "{%- for m in messages -%}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content }}<|eot_id|>{%- endfor -%}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)
VICUNA = (
    "{%- for m in messages -%}{%- if m.role == 'assistant' -%}ASSISTANT: {{ m.content }}</s>"
    "{%- else -%}USER: {{ m.content }} {% endif -%}{%- endfor -%}ASSISTANT:"
)


def bpe(pre, decoder, normalizer=None, alphabet=(), **options):
    core = Tokenizer(models.BPE(**options))
    core.pre_tokenizer, core.decoder = pre, decoder
    if normalizer is not None:
        core.normalizer = normalizer
    special = ["<unk>"] if options.get("unk_token") else []
    alphabet = [*alphabet, *(f"<0x{n:02X}>" for n in range(256 * bool(options.get("byte_fallback"))))]
    trainer = trainers.BpeTrainer(
        vocab_size=900, show_progress=False, special_tokens=special, initial_alphabet=list(map(str, alphabet))
    )
    core.train_from_iterator([TEXT] * 4 + MARKERS[:20], trainer)
    return core


def byte_level(normalizer=None):
    pre = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return bpe(pre, decoders.ByteLevel(), normalizer, pre_tokenizers.ByteLevel.alphabet())


def wrap(core, added=(), eos="</s>", template=None, **options):
    inner = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=eos, chat_template=template, clean_up_tokenization_spaces=False, **options
    )
    inner.add_tokens(list(added))
    return TransformersTokenizer(inner)


def not_special():
    added = [
        AddedToken(text, special=False) for text in ("<|fim_prefix|>", "[TOOL_CALLS]", "<tool_call>", "   ", "cov")
    ]
    return wrap(byte_level(), added)


def llama3():
    added = [AddedToken(t, special=True) for t in ("<|start_header_id|>", "<|end_header_id|>", "<|im_start|>")]
    return wrap(byte_level(), added, eos="<|eot_id|>", template=LLAMA3)


def normalized():
    steps = [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase(), normalizers.NFKC()]
    added = [AddedToken(text, normalized=True, special=text[1] == "|") for text in MARKERS if text != "</s>"]
    return wrap(byte_level(normalizers.Sequence(steps)), added, eos=AddedToken("</s>", normalized=True, special=True))


def greedy_edges():
    added = [AddedToken(t, lstrip=True, rstrip=True, special=True) for t in (*TAGS, "[INST]", "[/INST]", "<s>")]
    return wrap(byte_level(), added, template=LLAMA2)


def single_words():
    return wrap(byte_level(), [AddedToken(t, single_word=True, special=True) for t in ("<s>", *TAGS)])


def metaspace():
    decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    pre = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    core = bpe(pre, decoder, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    return wrap(core, [AddedToken("<s>", special=True)], template=LLAMA2, unk_token="<unk>")


def plain_roles():
    return wrap(byte_level(), template=VICUNA)


def words():
    core = Tokenizer(models.WordLevel(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.train_from_iterator([TEXT, *MARKERS], trainers.WordLevelTrainer(special_tokens=["<unk>"], show_progress=False))
    return wrap(core, unk_token="<unk>")


def bert():
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer, core.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    special = ["[UNK]", "[CLS]", "[SEP]"]
    core.train_from_iterator([TEXT], trainers.WordPieceTrainer(special_tokens=special, show_progress=False))
    added = [AddedToken(text, normalized=True, special=False) for text in TAGS]
    return wrap(core, added, eos="[SEP]", unk_token="[UNK]", cls_token="[CLS]")


def without_spaces():
    drops = normalizers.Replace(Regex("[\\s\u200b]+"), "")
    added = [AddedToken(text, normalized=True, special=True) for text in (*TAGS, *CHAT_MARKERS)]
    return wrap(byte_level(drops), added)


MAKERS = {
    "bytes": ByteTokenizer,
    "tiny": lambda: TransformersTokenizer(make_tokenizer([TEXT], 400)),
    **{f.__name__: f for f in (not_special, llama3, normalized, greedy_edges, single_words, metaspace, plain_roles)},
    **{f.__name__: f for f in (words, bert, without_spaces)},
}
tokenizer = functools.lru_cache(lambda name: MAKERS[name]())
