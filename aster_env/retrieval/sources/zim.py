"""Articles of a ZIM archive (Kiwix), as passages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from aster_env.errors import MissingExtraError, UsageError
from aster_env.retrieval.base import Passage
from aster_env.retrieval.sources.base import Source, cut


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


BLOCKS = _names(
    "address article aside blockquote body br caption center dd details div dl dt figure footer form h1 h2 h3 h4 h5 h6 "
    "header hr li main ol p pre section summary table tbody td th thead tr ul"
)
HEADINGS = _names("h1 h2 h3 h4 h5 h6")
HIDDEN = _names("script style noscript template head table nav footer figure math svg button form select")
VOID = _names("area base br col embed hr img input link meta source track wbr")
FURNITURE = re.compile(
    r"infobox|navbox|reflist|references?\b|editsection|noprint|hatnote|metadata|\btoc\b|thumb|gallery|sidebar|catlinks"
)
TAIL = re.compile(
    r"(?:references|external links|see also|further reading|notes|bibliography|sources|citations|footnotes"
    r"|notes and references)[ :]*",
    re.IGNORECASE,
)
MAX_ARTICLE = 1 << 24
"""Bytes of an article's page; a larger one is left out."""


class _Reader(HTMLParser):
    """Collects the paragraphs of a page, each with whether it is a heading."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[tuple[int, str]] = []
        self._text: list[str] = []
        self._level = 0
        self._skipped, self._depth = "", 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._skipped == "head" and tag == "body":
            self._skipped = ""
        if self._skipped:
            # Only tags of the same name are counted: pages leave others open.
            self._depth += tag == self._skipped
            return
        if tag in BLOCKS:
            self.end_block(int(tag[1]) if tag in HEADINGS else 0)
        marks = " ".join(value or "" for name, value in attrs if name in ("class", "role"))
        furniture = tag not in HEADINGS and tag not in ("html", "body") and FURNITURE.search(marks)
        if tag not in VOID and (tag in HIDDEN or furniture):
            self._skipped, self._depth = tag, 1

    def handle_endtag(self, tag: str) -> None:
        if self._skipped:
            self._depth -= tag == self._skipped
            if self._depth == 0:
                self._skipped = ""
        elif tag in BLOCKS:
            self.end_block(0)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if not self._skipped and tag in BLOCKS:
            self.end_block(0)

    def handle_data(self, data: str) -> None:
        if not self._skipped:
            self._text.append(data)

    def end_block(self, level: int) -> None:
        if text := " ".join("".join(self._text).split()):
            self.blocks.append((self._level, text))
        self._text, self._level = [], level


def html_text(html: str) -> str:
    """Return the running text of a page, a paragraph a line.

    Headings, tables, figures and navigation are left out, and so are sections that list sources (``TAIL``).
    """
    reader = _Reader()
    try:
        reader.feed(html)
        reader.close()
    except AssertionError:
        # The parser's answer to a malformed declaration (`<![`): what comes before it is kept.
        pass
    reader.end_block(0)
    kept, dropped = [], 0
    for level, text in reader.blocks:
        if level:
            if not dropped or level <= dropped:
                dropped = level if TAIL.fullmatch(text) else 0
        elif not dropped:
            kept.append(text)
    return "\n".join(kept)


def read_zim(path: Path, words: int) -> Source:
    """Return the passages of an archive's articles; redirects and the main page are left out.

    Args:
        path: a ``.zim`` file.
        words: of a passage, about; 0 keeps each article whole.

    Raises:
        UsageError: the file is no archive.
        MissingExtraError: libzim is not installed.
    """
    try:
        from libzim.reader import Archive
    except ImportError as error:
        raise MissingExtraError("libzim", "search", "Reading a ZIM archive") from error
    try:
        archive = Archive(path)
        known = {key: archive.get_metadata(key) for key in archive.metadata_keys}
    except (RuntimeError, OSError) as error:
        raise UsageError(f"{str(path)!r} is no ZIM archive: {error}. Fix: download it again.") from error
    about = {key: value.decode("utf-8", "replace").strip() for key, value in known.items() if len(value) < 4096}
    licence = about.get("License") or about.get("Licence") or "unknown"
    name = about.get("Name") or path.stem
    return Source("zim", name, path.name, licence, _attribution(path, about, licence), _passages(path, archive, words))


def _attribution(path: Path, about: dict[str, str], licence: str) -> str:
    wanted = ("Title", "Creator", "Publisher", "Source", "Date", "Language", "Description")
    lines = [f"- {key}: {about[key]}" for key in wanted if about.get(key)]
    return "\n".join(
        [
            "# Attribution",
            "",
            f"The text of this corpus is from the ZIM archive {path.name}, which says of itself:",
            "",
            *lines,
            f"- Licence: {licence}",
            "",
            "Each passage's title is the name of the article it is from. Changed: reduced to running text, split into "
            "passages.",
        ]
    )


def _passages(path: Path, archive: Any, words: int) -> Iterator[Passage]:
    try:
        main = archive.main_entry.get_item().path if archive.has_main_entry else None
        for number in range(archive.all_entry_count):
            # The bindings have no other way through all entries; it goes in the order in which they are stored.
            entry = archive._get_entry_by_id(number)
            if entry.is_redirect:
                continue
            item = entry.get_item()
            if not item.mimetype.startswith("text/html") or item.path == main or item.size > MAX_ARTICLE:
                continue
            text = html_text(bytes(item.content).decode("utf-8", "replace"))
            yield from cut(entry.path, entry.title, text, words)
    except (RuntimeError, KeyError) as error:
        raise UsageError(f"{str(path)!r} is damaged: {error}. Fix: download it again.") from error
