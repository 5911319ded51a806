"""The four forms in which published clients ask a retrieval service, read and written for both ends.

======== ============== ===================================================== ==================================
form     path           request                                               answer
======== ============== ===================================================== ==================================
toolstar /batch_search  ``{"query": [...], "top_n": 10, "return_score": f}``  ``[[doc, …], …]``, or that and
                                                                              ``[[score, …], …]`` in a list
toolstar /search        the same with one string                              ``[doc, …]``, or ``[docs, scores]``
search-r1 /retrieve     ``{"queries": [...], "topk": 3, "return_scores": f}`` ``{"result": [[{"document": doc,
                                                                              "score": x}, …], …]}``
skyrl    /retrieve      that of search-r1                                     that of search-r1
gem      /retrieve      that of search-r1, in MessagePack                     that of search-r1, in MessagePack
======== ============== ===================================================== ==================================

A ``doc`` is ``{"id": …, "contents": …}``. Without scores, the second form's answer holds the documents themselves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aster_env.errors import UsageError
from aster_env.retrieval.base import Passage
from aster_env.retrieval.wire_values import (
    checked_object,
    clip,
    count_of,
    document_of,
    flag,
    from_json,
    list_of,
    msgpack,
    passage_of,
    same_length,
    score_of,
    shown,
    texts,
    to_json,
    with_scores,
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks.

    Args:
        queries: without what UTF-8 cannot hold.
        n: passages wanted for each.
        scores: whether the answer holds them.
    """

    queries: tuple[str, ...]
    n: int
    scores: bool


class Wire:
    """One form: ``encode`` and ``parse`` are the client's half, ``decode`` and ``render`` the server's."""

    name = ""
    path = ""
    media_type = "application/json"
    headers: Mapping[str, str] = {"content-type": "application/json"}

    def encode(self, queries: Sequence[str], n: int) -> bytes:
        """Return the body of a request for ``n`` passages of each query, with scores."""
        raise NotImplementedError

    def decode(self, body: bytes) -> Asked:
        """Read the body of a request.

        Raises:
            UsageError: it is not of this form; the text says what is.
        """
        raise NotImplementedError

    def render(self, asked: Asked, found: Sequence[Sequence[Passage]]) -> bytes:
        """Return the body of the answer; ``found`` has an item for each query."""
        raise NotImplementedError

    def parse(self, body: bytes, count: int) -> list[list[Passage]]:
        """Read the body of an answer to ``count`` queries with scores; one without them is read too.

        Raises:
            ValueError: it is not of this form.
        """
        raise NotImplementedError


class ToolStar(Wire):
    """Tool-Star's and FlashRAG's form, several queries in a request."""

    name, path = "toolstar", "/batch_search"
    _keys = ("query", "top_n", "return_score")

    def encode(self, queries: Sequence[str], n: int) -> bytes:
        """See ``Wire``."""
        return json.dumps({"query": list(queries), "top_n": n, "return_score": True}).encode()

    def decode(self, body: bytes) -> Asked:
        """See ``Wire``."""
        raw = checked_object(from_json(body), self._keys, "query")
        return Asked(self._queries(raw["query"]), count_of(raw, "top_n", 10), flag(raw, "return_score"))

    def render(self, asked: Asked, found: Sequence[Sequence[Passage]]) -> bytes:
        """See ``Wire``."""
        documents = [[document_of(passage) for passage in passages] for passages in found]
        scores = [[score_of(passage) for passage in passages] for passages in found]
        return to_json(self._whole([documents, scores] if asked.scores else [documents], asked))

    def parse(self, body: bytes, count: int) -> list[list[Passage]]:
        """See ``Wire``."""
        raw = list_of(from_json(body), "the answer")
        scored = len(raw) == 2 and all(
            isinstance(item, list) for half in raw if isinstance(half, list) for item in half
        )
        if scored and all(isinstance(half, list) and len(half) == count for half in raw):
            return [with_scores(documents, scores) for documents, scores in zip(*raw, strict=True)]
        same_length(raw, count)
        return [[passage_of(item, None) for item in list_of(documents, "a result")] for documents in raw]

    def _queries(self, raw: Any) -> tuple[str, ...]:
        return texts(raw, "query")

    def _whole(self, parts: list[Any], asked: Asked) -> Any:
        return parts if asked.scores else parts[0]


class ToolStarSingle(ToolStar):
    """Tool-Star's and FlashRAG's form with one query; the server's half alone."""

    path = "/search"

    def _queries(self, raw: Any) -> tuple[str, ...]:
        (query,) = texts([raw], "query")
        if not query.strip():
            raise UsageError("Query content cannot be empty. Fix: send a query with at least one word.")
        return (query,)

    def _whole(self, parts: list[Any], asked: Asked) -> Any:
        return [part[0] for part in parts] if asked.scores else parts[0][0]


class SearchR1(Wire):
    """Search-R1's form; a step of its trainer in which nobody searches sends an empty list."""

    name, path = "search-r1", "/retrieve"
    _keys = ("queries", "topk", "return_scores")

    def encode(self, queries: Sequence[str], n: int) -> bytes:
        """See ``Wire``."""
        return self._pack({"queries": list(queries), "topk": n, "return_scores": True}, for_client=True)

    def decode(self, body: bytes) -> Asked:
        """See ``Wire``."""
        raw = checked_object(self._unpack(body), self._keys, "queries")
        if raw.get("topk") is None or (raw["topk"] == 0 and raw["topk"] is not False):
            # The published servers take null and 0 for their own default, which their launch scripts set to 3.
            raw["topk"] = 3
        return Asked(texts(raw["queries"], "queries"), count_of(raw, "topk", 3), flag(raw, "return_scores"))

    def render(self, asked: Asked, found: Sequence[Sequence[Passage]]) -> bytes:
        """See ``Wire``."""
        result = [
            [{"document": document_of(p), "score": score_of(p)} if asked.scores else document_of(p) for p in passages]
            for passages in found
        ]
        return self._pack({"result": result}, for_client=False)

    def parse(self, body: bytes, count: int) -> list[list[Passage]]:
        """See ``Wire``."""
        raw = self._unpack(body)
        if not isinstance(raw, dict) or "result" not in raw:
            raise ValueError(f"it has no key 'result': {shown(raw)}")
        rows = list_of(raw["result"], "'result'")
        same_length(rows, count)
        return [[self._item(item) for item in list_of(row, "a result")] for row in rows]

    def _item(self, item: Any) -> Passage:
        if isinstance(item, dict) and "document" in item:
            return passage_of(item["document"], item.get("score"))
        return passage_of(item, None)

    def _pack(self, value: Any, for_client: bool) -> bytes:
        return json.dumps(value).encode() if for_client else to_json(value)

    def _unpack(self, body: bytes) -> Any:
        return from_json(body)


class SkyRL(SearchR1):
    """SkyRL's form: Search-R1's, with a header of its own."""

    name = "skyrl"
    headers: Mapping[str, str] = {"content-type": "application/json", "accept": "application/json"}


class Gem(SearchR1):
    """GEM's form: Search-R1's in MessagePack; its client sends no content type."""

    name = "gem"
    media_type = "application/msgpack"
    headers: Mapping[str, str] = {}

    def _pack(self, value: Any, for_client: bool) -> bytes:
        return bytes(msgpack().encode(value))

    def _unpack(self, body: bytes) -> Any:
        codec = msgpack()
        try:
            return codec.decode(body)
        # A text that is not UTF-8 is a ValueError; nesting without end exhausts the stack.
        except (ValueError, RecursionError) as error:
            raise UsageError(f"The body is not MessagePack: {clip(str(error))}. Fix: send one encoded map.") from error


WIRES: dict[str, Wire] = {wire.name: wire for wire in (ToolStar(), SearchR1(), Gem(), SkyRL())}
"""Forms by name, as a client chooses them."""


def wire_of(path: str, body: bytes) -> Wire:
    """Return the form of a request to ``path``: a MessagePack map begins with a byte that no JSON text begins with."""
    if path == SearchR1.path:
        packed = bool(body) and (0x80 <= body[0] <= 0x8F or body[0] in (0xDE, 0xDF))
        return WIRES["gem" if packed else "search-r1"]
    return _SINGLE if path == ToolStarSingle.path else WIRES["toolstar"]


_SINGLE = ToolStarSingle()
