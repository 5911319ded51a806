"""Search in a corpus behind one protocol: on this machine, or behind a service."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from aster_env.errors import UsageError, check_name
from aster_env.retrieval.base import Passage, Retriever
from aster_env.retrieval.corpus import Corpus, CorpusInfo, write_corpus

__all__ = ["RETRIEVERS", "Corpus", "CorpusInfo", "Passage", "Retriever", "open_retriever", "write_corpus"]

RETRIEVERS = {
    "dense": "aster_env.retrieval.dense:DenseRetriever",
    "http": "aster_env.retrieval.client:HttpRetriever",
    "lexical": "aster_env.retrieval.lexical:LexicalRetriever",
}
"""Retrievers by name; imported when they are opened."""


def open_retriever(name: str = "lexical", **options: Any) -> Retriever:
    """Return the retriever called ``name``; close it with ``await retriever.close()``.

    Args:
        name: ``"lexical"``: BM25 over a corpus on this machine (``corpus=FOLDER``).
            ``"dense"``: nearest vectors over a corpus on this machine (``corpus=FOLDER``, ``encoder=…``).
            ``"http"``: a retrieval service (``url=…``, ``wire=…``).
        **options: the retriever's own arguments, see its class.

    Raises:
        UnknownNameError: there is no such retriever, or it has no such option.
        UsageError: an option's value is not allowed, or one is lacking.
        MissingExtraError: a library that it needs is not installed.
    """
    module, _, attribute = RETRIEVERS[check_name("retriever", name, RETRIEVERS)].partition(":")
    made = getattr(importlib.import_module(module), attribute)
    known = inspect.signature(made).parameters
    for option in options:
        check_name(f"option of the retriever {name!r}", option, known)
    lacking = [option for option, of in known.items() if of.default is of.empty and option not in options]
    if lacking:
        raise UsageError(f"The retriever {name!r} lacks {lacking[0]!r}. Fix: {lacking[0]}=….")
    retriever: Retriever = made(**options)
    return retriever
