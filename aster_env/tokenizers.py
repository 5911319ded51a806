"""Tokenizers behind one small protocol: a built-in byte-level one, and any ``transformers`` tokenizer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from aster_env.errors import MissingExtraError, UsageError

CHAT_MARKERS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TAG_NAMES = ("think", "tool_call", "tool_response", "python", "search", "result", "answer", "visit")


@runtime_checkable
class Tokenizer(Protocol):
    """Text to token ids and back.

    Attributes:
        vocab_size: ids are in ``[0, vocab_size)``.
        pad_id: an id to fill rows with; it is never attended to.
        end_ids: ids that end a turn; the first of ``end_text`` is the one the environment writes.
        end_text: the text of the usual end-of-turn token.
        specials: text of every special token, and of others that are structure; broken up where it occurs in foreign
            text.
    """

    vocab_size: int
    pad_id: int
    end_ids: frozenset[int]
    end_text: str
    specials: tuple[str, ...]

    def encode(self, text: str) -> list[int]:
        """Return the ids of ``text``; special tokens written in it become their single ids."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids``, special tokens included; bytes that are no UTF-8 become U+FFFD."""
        ...

    def chat(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> str | None:
        """Render messages and the header of the assistant's turn with the chat template, or None without one."""
        ...

    @property
    def template(self) -> str | None:
        """The chat template's source, or None."""
        ...


class ByteTokenizer:
    """One id per UTF-8 byte (0–255), and one per chat marker and tag from 256 on; needs no download."""

    def __init__(self) -> None:
        tags = tuple(f"<{slash}{name}>" for name in TAG_NAMES for slash in ("", "/"))
        self.specials = CHAT_MARKERS + tags
        self._id_of = {text: 256 + n for n, text in enumerate(self.specials)}
        self._bytes_of = [bytes([n]) for n in range(256)] + [text.encode() for text in self.specials]
        self._split = re.compile("(" + "|".join(map(re.escape, self.specials)) + ")")
        self.vocab_size = len(self._bytes_of)
        self.pad_id = self._id_of["<|endoftext|>"]
        self.end_text = "<|im_end|>"
        self.end_ids = frozenset({self._id_of["<|im_end|>"], self._id_of["<|endoftext|>"]})

    def encode(self, text: str) -> list[int]:
        """Return the ids of ``text``; markers and tags become single ids."""
        ids: list[int] = []
        for piece in self._split.split(text):
            if piece in self._id_of:
                ids.append(self._id_of[piece])
            else:
                ids.extend(piece.encode("utf-8", "replace"))
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids``; invalid UTF-8 becomes U+FFFD."""
        return b"".join(self._bytes_of[i] for i in ids).decode("utf-8", "replace")

    def chat(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> str | None:
        """Return None: the byte tokenizer has no template, so the dialect's own form is used."""
        return None

    @property
    def template(self) -> str | None:
        """None."""
        return None


class TransformersTokenizer:
    """Wraps a ``transformers`` tokenizer object.

    Args:
        tokenizer: any ``PreTrainedTokenizerBase``.

    Raises:
        UsageError: it has no end-of-turn token (neither an eos token nor ``<|im_end|>``), or chat templates of which
            none is for general use or for tools.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.inner = tokenizer
        self.vocab_size = len(tokenizer)
        vocabulary: Mapping[str, int] = tokenizer.get_vocab()
        ends = [text for text in ("<|im_end|>", tokenizer.eos_token) if text is not None and text in vocabulary]
        if not ends:
            raise UsageError(
                f"The tokenizer {type(tokenizer).__name__} has neither an eos token nor '<|im_end|>', so no token "
                "can end a turn. Fix: set tokenizer.eos_token."
            )
        self.end_text: str = ends[0]
        self.end_ids = frozenset(vocabulary[text] for text in ends)
        pad = tokenizer.pad_token_id
        self.pad_id: int = vocabulary[ends[-1]] if pad is None else int(pad)
        self.specials = _markers(tokenizer)
        self._template = _only_template(tokenizer.chat_template)

    def encode(self, text: str) -> list[int]:
        """Return the ids of ``text`` without adding any token."""
        ids: list[int] = self.inner.encode(text.encode("utf-8", "replace").decode("utf-8"), add_special_tokens=False)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids``, special tokens included."""
        text: str = self.inner.decode(
            [int(i) for i in ids], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text

    def chat(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> str | None:
        """Render with the tokenizer's chat template, the assistant's header included; None without a template."""
        if self.template is None:
            return None
        text: str = self.inner.apply_chat_template(
            [dict(m) for m in messages],
            tools=[{"type": "function", "function": dict(t)} for t in tools] or None,
            chat_template=self._template,
            tokenize=False,
            add_generation_prompt=True,
        )
        return text

    @property
    def template(self) -> str | None:
        """The chat template's source, or None."""
        return self._template


def _markers(tokenizer: Any) -> tuple[str, ...]:
    """Return the text of each special token, and of each added one that looks like markup.

    Added tokens may also be vocabulary: words, digits, runs of spaces. Breaking these up would spoil ordinary text.
    """
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    markup = [str(token) for token in added if token.special or _looks_like_markup(str(token))]
    return tuple(dict.fromkeys([*tokenizer.all_special_tokens, *markup]))


def _looks_like_markup(text: str) -> bool:
    return any(map(str.isalpha, text)) and not all(c.isalnum() or c.isspace() for c in text)


def _only_template(source: str | Mapping[str, str] | None) -> str | None:
    """Return the one template that renders everything: of several, the one for tools, else the default."""
    if not isinstance(source, Mapping):
        return source
    for name in ("tool_use", "default"):
        if name in source:
            return source[name]
    raise UsageError(
        f"The tokenizer's chat templates are called {', '.join(map(repr, source))}. Allowed: one called 'tool_use' or "
        "'default', or a single template. Fix: set tokenizer.chat_template to the one that is meant."
    )


def as_tokenizer(source: Any = None) -> Tokenizer:
    """Return a Tokenizer from None (bytes), a Tokenizer, a ``transformers`` tokenizer, or a local path or hub name.

    Raises:
        UsageError: the source is none of these, or names a folder that does not exist.
        MissingExtraError: a path was given and ``transformers`` is not installed.
    """
    if source is None or source == "bytes":
        return ByteTokenizer()
    if isinstance(source, str | Path):
        return TransformersTokenizer(_load(str(source)))
    if hasattr(source, "all_special_tokens"):
        return TransformersTokenizer(source)
    if isinstance(source, Tokenizer):
        return source
    raise UsageError(
        f"tokenizer={source!r} is a {type(source).__name__}. Allowed: None or 'bytes' (built in), a folder or hub "
        "name, a transformers tokenizer, or an object that follows aster_env.tokenizers.Tokenizer."
    )


def _load(name: str) -> Any:
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise MissingExtraError("transformers", "train", f"Loading the tokenizer {name!r}") from error
    if name.startswith((".", "/", "~")) and not Path(name).expanduser().is_dir():
        raise UsageError(f"tokenizer={name!r}: there is no such folder. Fix: pass a folder that holds a tokenizer.")
    try:
        return AutoTokenizer.from_pretrained(str(Path(name).expanduser()) if name.startswith("~") else name)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"tokenizer={name!r} could not be loaded: {(str(error) or repr(error)).splitlines()[0]} "
            "Fix: pass a folder that holds a tokenizer, or a hub name while online."
        ) from error
