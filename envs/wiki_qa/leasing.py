"""What an environment searches: a retriever over a corpus, checked when it is chosen, leased when it is needed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aster_env.errors import UsageError, check_name
from aster_env.retrieval import RETRIEVERS, Retriever, open_retriever
from aster_env.retrieval.shared import lease_retriever, release_retriever

from .encyclopedia import generated_corpus

WORLD: Mapping[str, int] = {"seed": 0, "passages": 20_000}
"""The generated encyclopedia, unless another is asked for."""
_building = threading.Lock()


class Library:
    """A retriever and the corpus it searches; the environments of a loop share what they choose alike.

    Args:
        retriever: ``"lexical"``, ``"dense"``, ``"http"``, or a Retriever, which stays open.
        corpus: ``"generated"``, or a corpus' folder; None: the generated one, where the retriever needs one.
        options: for ``open_retriever``, beside the corpus.
        world: of the generated encyclopedia: ``seed``, ``passages``.

    Raises:
        UsageError: an argument is not allowed.

    Attributes:
        corpus: ``"generated"``, a folder, or None where the retriever brings its own.
        about: what the generated questions are about, as their generator takes it.
    """

    def __init__(
        self, retriever: str | Retriever, corpus: str | Path | None, options: Mapping[str, Any] | None, world: Any
    ) -> None:
        self._choice, self.corpus, self._options = _read_retriever(retriever, corpus, options)
        self._world = _read_world(world)
        self.about = {"world_seed": self._world["seed"], "passages": self._world["passages"]}

    async def lease(self) -> Retriever:
        """Return the retriever, its corpus written first if it is generated; give it back with ``release``."""
        if not isinstance(self._choice, str):
            return self._choice
        options = dict(self._options)
        if self.corpus == "generated":
            options["corpus"] = str(await asyncio.to_thread(_generated, self._world))
        elif self.corpus is not None:
            options["corpus"] = self.corpus
        return lease_retriever(self._choice, **options)

    async def release(self, retriever: Retriever) -> None:
        """Give a leased retriever back; one that was passed in stays open."""
        if isinstance(self._choice, str):
            await release_retriever(retriever)


def _generated(world: Mapping[str, int]) -> Path:
    with _building:
        return generated_corpus(world["seed"], world["passages"])


def _read_world(given: Any) -> dict[str, int]:
    if given is not None and not isinstance(given, Mapping):
        raise UsageError(f"world={given!r} is a {type(given).__name__}. Allowed: a mapping of seed and passages.")
    world = {**WORLD, **(given or {})}
    for name, value in world.items():
        check_name("option of the generated encyclopedia", name, WORLD)
        if not isinstance(value, int) or isinstance(value, bool) or value < (1 if name == "passages" else 0):
            raise UsageError(f"world[{name!r}]={value!r} is not allowed. Allowed: a whole number.")
    return world


def _read_retriever(
    choice: Any, corpus: Any, options: Mapping[str, Any] | None
) -> tuple[str | Retriever, str | None, dict[str, Any]]:
    """Return the retriever, the corpus it searches on this machine, and its other options, checked."""
    if options is not None and not isinstance(options, Mapping):
        raise UsageError(f"retriever_options={options!r} is a {type(options).__name__}. Allowed: a mapping of options.")
    given = dict(options or {})
    if not isinstance(choice, str):
        if not isinstance(choice, Retriever):
            raise UsageError(f"retriever={choice!r} is a {type(choice).__name__}. Allowed: a name, or a Retriever.")
        if corpus is not None or given:
            raise UsageError(
                "corpus and retriever_options do not apply to a Retriever that is made already. Fix: leave them out."
            )
        return choice, None, {}
    check_name("retriever", choice, RETRIEVERS)
    if "corpus" in given:
        raise UsageError("retriever_options['corpus'] is not allowed. Fix: pass the folder as corpus.")
    if choice == "http":
        if corpus is not None:
            raise UsageError(f"corpus={corpus!r} does not apply to a retrieval service. Fix: leave it out.")
        open_retriever(choice, **given)
        return choice, None, given
    corpus = "generated" if corpus is None else str(corpus)
    if corpus == "generated" and choice == "dense":
        raise UsageError(
            "The generated encyclopedia has a lexical index alone. Fix: retriever='lexical'; or write it to a folder "
            "(aster_env.envs.wiki_qa.encyclopedia.generated_corpus), add vectors (`aster index build --kind dense`), "
            "and pass a DenseRetriever of it as retriever."
        )
    if corpus != "generated":
        open_retriever(choice, corpus=corpus, **given)
    return choice, corpus, given
