"""The generated encyclopedia: the world's passages, and a corpus of them with its index, built once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from aster_env.errors import UsageError
from aster_env.retrieval.base import Passage
from aster_env.retrieval.cache import build_once, cache_folder
from aster_env.retrieval.corpus import Corpus, CorpusInfo, write_corpus

from .prose import alias_text, article, namesakes_text
from .world import Entity, World, make_world

VERSION = 1
"""Raise it with any change of the world or its prose: built corpora are found by it."""


def passages(world: World) -> Iterator[Passage]:
    """Return the encyclopedia of a world, in a fixed order.

    Ids are the entity's and the part of its article (``"p12-0"`` is the introduction); a redirect has ``"p12-a"``, a
    page that tells namesakes apart ``"p12-n"``.
    """
    same: dict[str, list[Entity]] = {}
    for entity in world:
        for part, text in enumerate(article(entity, world.seed)):
            yield Passage(f"{entity.id}-{part}", entity.title, text)
        for alias in entity.aliases:
            yield Passage(f"{entity.id}-a", alias, alias_text(entity, alias, world.seed))
        if entity.title != entity.name:
            same.setdefault(entity.name, []).append(entity)
    for name, people in same.items():
        yield Passage(f"{people[0].id}-n", f"{name} (name)", namesakes_text(people))


def generated_corpus(seed: int = 0, passages: int = 20_000, folder: str | Path | None = None) -> Path:
    """Return the folder of the generated encyclopedia and its lexical index; the first call builds them.

    It takes seconds for 20,000 passages, so keep it off an event loop. Several processes may call it at once.

    Args:
        seed: of the world.
        passages: about how many.
        folder: where it lies; a folder of the cache (``aster_env.retrieval.cache.cache_folder``) if None.

    Raises:
        UsageError: an argument is not allowed, or ``folder`` holds something else.
    """
    from aster_env.retrieval import lexical_index

    world = make_world(seed, passages)
    info = _info(world)
    key = f"generated-v{VERSION}-lexical{lexical_index.VERSION}-seed{seed}-{passages}"
    target = cache_folder() / "corpora" / key if folder is None else Path(folder).expanduser()
    if target.is_dir() and not any(target.iterdir()):
        target.rmdir()
    build_once(target, lambda staging: _build(staging, world, info))
    found = Corpus(target).info
    if (found.name, found.source) != (info.name, info.source):
        raise UsageError(
            f"{str(target)!r} holds the corpus {found.name!r} ({found.source}), not {info.name!r} ({info.source}). "
            "Fix: another folder, or remove it first."
        )
    return target


def _build(folder: Path, world: World, info: CorpusInfo) -> None:
    from aster_env.retrieval.lexical import build_lexical

    build_lexical(write_corpus(folder, passages(world), info))


def _info(world: World) -> CorpusInfo:
    name = f"generated encyclopedia (seed {world.seed}, {world.passages:,} passages)"
    return CorpusInfo(name, "aster", "CC0-1.0")
