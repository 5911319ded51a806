"""Foreign text as inert text: it never becomes a special token, closes a tag or opens a turn."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from aster_env.tokenizers import CHAT_MARKERS, TAG_NAMES, Tokenizer

Trace = tuple[tuple[int, ...], tuple[str, ...]]
"""What structure a text has, in order: the structural ids, and the markers in what its ids decode to."""

_MARKUP = re.compile(r"(<[^<>\s]{1,40}>|\[/?[A-Z_]{2,30}\])")
_GAPS = ("", " ", "?")
_WITHHELD = "?"


class Inert:
    """Breaks up what a tokenizer's model would read as structure.

    Structure is every marker: the special and added tokens of the tokenizer, the chat markers and tags of all dialects,
    and what the chat template writes around messages (``[INST]``, ``USER:``). First each marker in a text is broken by
    a space after its first character. The ids are then checked, for a tokenizer may read a marker in more than its
    letters: in upper case or full-width ones that it normalizes, or across spaces that it drops. Where there still is
    structure, the text is halved until every piece is free of it, and a space or ``?`` stands between two pieces that
    have some together.

    A text without structure stays as it is. An id that ordinary characters have too (an unknown token's, a byte's) is
    no structure.

    Args:
        tokenizer: its ids are checked.
        tags: further markers.
    """

    def __init__(self, tokenizer: Tokenizer, tags: Iterable[str] = ()) -> None:
        self._tokenizer = tokenizer
        names = (f"<{slash}{name}>" for name in TAG_NAMES for slash in ("", "/"))
        written = _template_markers(tokenizer)
        found = {*CHAT_MARKERS, *names, *tags, *tokenizer.specials, *written}
        markers = {marker for marker in found if len(marker) > 1 and not marker.isspace()}
        self.markers = _any_of(markers)
        common = frozenset(tokenizer.encode(_ordinary_text()))
        self._ids = frozenset(i for text in tokenizer.specials for i in self._single(text)) - common
        self._forms = _any_of(self._readable(markers, common))
        self._framed: dict[tuple[str, str], Trace] = {}

    def __call__(self, text: str) -> str:
        """Return a text without structure of its own; lone surrogates become ``?``."""
        clean = text.encode("utf-8", "replace").decode("utf-8")
        clean = self.markers.sub(lambda m: f"{m[0][0]} {m[0][1:]}", clean)
        return clean if self._is_free(clean) else self._halve(clean)

    def between(self, before: str, text: str, after: str) -> str:
        """Return ``before``, the inert text, and ``after``: with the structure that the two have, and no other."""
        frame = before, after
        if frame not in self._framed:
            self._framed[frame] = self._trace(f"{before}x{after}")
        inert = self(text)
        # The edges of a text can spoil what stands beside them, where a tokenizer joins characters over them.
        for start, end in (("", ""), ("", " "), (" ", " "), ("?", "?")):
            whole = f"{before}{start}{inert}{end}{after}"
            if self._trace(whole) == self._framed[frame]:
                return whole
        return f"{before}{_WITHHELD}{after}"

    def _trace(self, text: str) -> Trace:
        ids = self._tokenizer.encode(text)
        read = self._tokenizer.decode(ids)
        return tuple(i for i in ids if i in self._ids), tuple(self._forms.findall(read))

    def _is_free(self, text: str) -> bool:
        return not self.markers.search(text) and self._trace(text) == ((), ())

    def _halve(self, text: str) -> str:
        if self._is_free(text):
            return text
        if len(text) < 2:
            return _WITHHELD
        middle = len(text) // 2
        left, right = self._halve(text[:middle]), self._halve(text[middle:])
        joined = (f"{left}{gap}{right}" for gap in _GAPS)
        return next((whole for whole in joined if self._is_free(whole)), _WITHHELD)

    def _single(self, marker: str) -> list[int]:
        """Return the ids in a marker's encoding that stand for it as a whole."""
        name = _squeezed(marker)
        return [i for i in self._tokenizer.encode(marker) if _squeezed(self._tokenizer.decode([i])) == name]

    def _readable(self, markers: Iterable[str], common: frozenset[int]) -> set[str]:
        """Return the markers as they are, and as they come back from the tokenizer, as far as that tells them apart."""
        unknown = {i for text in self._tokenizer.specials for i in self._single(text)} & common
        forms = set()
        for marker in markers:
            ids = self._tokenizer.encode(marker)
            if not unknown.issuperset(ids):
                forms |= {marker, self._tokenizer.decode(ids).strip()}
        return {form for form in forms if len(form) > 1 and not form.isalnum()}


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    ordered = sorted(texts, key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, ordered)))


def _squeezed(text: str) -> str:
    return "".join(text.split()).casefold()


def _ordinary_text() -> str:
    """Return characters one by one: ASCII, the Latin ones, and some of every plane."""
    points = [*range(9, 0x250), *range(0x1000, 0x110000, 0x1357)]
    return " ".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)


def _template_markers(tokenizer: Tokenizer) -> set[str]:
    """Return what the chat template writes around messages: tags, and lines with a letter and a sign in them."""
    marks = [f"ASTERMARK{letter}" for letter in "ABC"]
    roles = ("user", "assistant", "user")
    rows = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
    try:
        text = tokenizer.chat(rows, ())
    except Exception:  # noqa: BLE001 (templates raise errors of jinja2 and of their own; the tokens are markers anyway)
        return set()
    pieces: Sequence[str] = re.split("ASTERMARK[A-C]|\n", text or "")
    parts = {part.strip() for piece in pieces for part in _MARKUP.split(piece)}
    return {part for part in parts if any(map(str.isalpha, part)) and not part.replace(" ", "").isalnum()}
