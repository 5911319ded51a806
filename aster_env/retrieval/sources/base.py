"""What a source of passages is, and how a whole article becomes passages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from aster_env.retrieval.base import Passage

PASSAGE_WORDS = 100
"""Words of a passage where a source has whole articles, about; as the published Wikipedia corpora have it."""

SENTENCE_END = re.compile(r"""(?<=[.!?])(?:["'”’)\]]{0,3})\s+(?=["'“‘(\[]?[^\W_a-z])""")


@dataclass(frozen=True, slots=True)
class Source:
    """Passages that can be read once, and what is known of them.

    Args:
        format: which reader reads it.
        name: for people; a corpus made of it is called so by default.
        origin: where it is from.
        licence: of the text; ``"unknown"`` where nothing says it.
        attribution: whom to name; may be empty.
        passages: read while they are asked for; errors in the file are raised there.
    """

    format: str
    name: str
    origin: str
    licence: str
    attribution: str
    passages: Iterable[Passage]


def split_passages(text: str, words: int = PASSAGE_WORDS) -> list[str]:
    """Split a text at sentence ends into pieces of about ``words`` words; no word is lost or added.

    A piece has more than ``words`` words only where its last sentence would leave a rest shorter than a quarter of it;
    a sentence that is longer than a piece is cut between words.

    Args:
        text: its white space becomes single blanks.
        words: of a piece; 0 does not split.
    """
    if words < 1:
        return [joined] if (joined := " ".join(text.split())) else []
    pieces: list[list[str]] = []
    for sentence in _sentences(text):
        for start in range(0, len(sentence), words):
            part = sentence[start : start + words]
            if pieces and len(pieces[-1]) + len(part) <= words:
                pieces[-1] += part
            else:
                pieces.append(part)
    if len(pieces) > 1 and len(pieces[-1]) * 4 < words:
        rest = pieces.pop()
        pieces[-1] += rest
    return [" ".join(piece) for piece in pieces]


def cut(name: str, title: str, text: str, words: int) -> Iterator[Passage]:
    """Yield the passages of an article; those of one that is split are called ``NAME#0``, ``NAME#1`` and so on."""
    pieces = split_passages(text, words) or [""]
    for number, piece in enumerate(pieces):
        yield Passage(name if len(pieces) == 1 else f"{name}#{number}", title, piece)


def _sentences(text: str) -> Iterator[list[str]]:
    start = 0
    for end in SENTENCE_END.finditer(text):
        yield text[start : end.end()].split()
        start = end.end()
    if rest := text[start:].split():
        yield rest
