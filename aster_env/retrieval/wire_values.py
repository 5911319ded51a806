"""What the wire forms are made of: codecs, checks of requests, documents and scores."""

from __future__ import annotations

import hashlib
import json
import math
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from aster_env.errors import MissingExtraError, UsageError, check_name
from aster_env.retrieval.base import Passage

MOST_PASSAGES = 1000
"""For one query; no published client asks for more than 100."""


def msgpack() -> Any:
    """Return the MessagePack codec."""
    try:
        import msgspec
    except ImportError as error:
        raise MissingExtraError("msgspec", "serve", "GEM's wire form") from error
    return msgspec.msgpack


def from_json(body: bytes) -> Any:
    """Read JSON.

    Raises:
        UsageError: it is none.
    """
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"The body is not JSON: {clip(str(error))}. Fix: send one object in UTF-8.") from error


def to_json(value: Any) -> bytes:
    """Write JSON without blanks, as the published servers do."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "replace")


def checked_object(raw: Any, keys: Sequence[str], needed: str) -> dict[str, Any]:
    """Return ``raw`` if it is an object with no other keys than ``keys``, and with ``needed``."""
    if not isinstance(raw, dict) or not all(isinstance(key, str) for key in raw):
        raise UsageError(f"The body is {shown(raw)}. Allowed: an object. Fix: send one with the key {needed!r}.")
    for key in raw:
        check_name("key of the request", clip(key), keys)
    if needed not in raw:
        raise UsageError(f"The request has the keys {sorted(raw)}, and not {needed!r}. Fix: add it.")
    return raw


def texts(raw: Any, key: str) -> tuple[str, ...]:
    """Return the strings of a list, each as UTF-8 can hold it."""
    if not isinstance(raw, list) or not all(isinstance(text, str) for text in raw):
        raise UsageError(f"{key!r} is {shown(raw)}. Allowed: text. Fix: send strings, as this path's form has them.")
    return tuple(valid(text) for text in raw)


def valid(text: str) -> str:
    """Return ``text`` with what UTF-8 cannot hold (half of a surrogate pair) replaced: a model may have written it."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def count_of(raw: Mapping[str, Any], key: str, default: int) -> int:
    """Return how many passages are wanted."""
    value = raw.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST_PASSAGES:
        raise UsageError(f"{key!r} is {shown(value)}. Allowed: 1 to {MOST_PASSAGES}. Fix: ask for as many passages.")
    return value


def flag(raw: Mapping[str, Any], key: str) -> bool:
    """Return a boolean, false where there is none."""
    value = raw.get(key, False)
    if not isinstance(value, bool):
        raise UsageError(f"{key!r} is {shown(value)}. Allowed: true or false. Fix: send one of them.")
    return value


def document_of(passage: Passage) -> dict[str, str]:
    """Return a passage as a document."""
    return {"id": passage.id, "contents": passage.contents}


def score_of(passage: Passage) -> float | None:
    """Return a passage's score, None where it has none that is finite."""
    return float(passage.score) if passage.score is not None and math.isfinite(passage.score) else None


def passage_of(document: Any, score: Any) -> Passage:
    """Read a document and its score.

    Raises:
        ValueError: it has no contents, or the score is no number.
    """
    if not isinstance(document, dict) or not isinstance(document.get("contents"), str):
        raise ValueError(f"a document has no text 'contents': {shown(document)}")
    if score is not None and not _finite(score):
        raise ValueError(f"a score is no finite number: {shown(score)}")
    contents = valid(document["contents"])
    name = document.get("id")
    if not isinstance(name, str | int):
        # Search-R1's BM25 server gives no ids; a passage needs one that is the same every time.
        name = hashlib.sha256(contents.encode()).hexdigest()[:16]
    return Passage.from_contents(valid(str(name)), contents, None if score is None else float(score))


def with_scores(documents: Any, scores: Any) -> list[Passage]:
    """Read documents and, in a second list, their scores."""
    same_length(scores, len(documents))
    return [passage_of(document, score) for document, score in zip(documents, scores, strict=True)]


def list_of(raw: Any, what: str) -> list[Any]:
    """Return ``raw`` if it is a list."""
    if not isinstance(raw, list):
        raise ValueError(f"{what} is no list: {shown(raw)}")
    return raw


def same_length(raw: Sequence[Any], count: int) -> None:
    """Check that there are ``count`` items."""
    if len(raw) != count:
        raise ValueError(f"it has {len(raw)} items where {count} belong: {shown(raw)}")


def shown(value: Any) -> str:
    """Return a value for a message, cut."""
    return clip(reprlib.repr(value))


def clip(text: str) -> str:
    """Return a text for a message, cut."""
    return text if len(text) <= 120 else text[:120] + "…"


def _finite(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        # An integer that no float can hold.
        return False
