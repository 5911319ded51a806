"""Pages whose main text is known: the public benchmark's folder, the generated site, documentation.

The public benchmark is a checkout of scrapinghub/article-extraction-benchmark: ``ground-truth.json`` maps the id of a
page to its ``articleBody``, and ``html/ID.html.gz`` is the page.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lxml.html

from aster_env.envs.web_walker.site import build_site
from aster_env.errors import UsageError

PROSE = 0.8
"""An article has at least this share of its words in paragraphs, and at least ``WORDS`` of them."""
WORDS = 40

# fmt: off
_BLOCKS = {
    "address", "article", "aside", "blockquote", "br", "caption", "dd", "div", "dl", "dt", "fieldset", "figcaption",
    "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "legend", "li", "main", "nav", "ol",
    "option", "p", "pre", "section", "summary", "table", "tbody", "td", "tfoot", "th", "thead", "tr", "ul",
}
# fmt: on
_UNREAD = ("script", "style", "noscript", "template", "button", "svg")
_ANCHORS = ("headerlink", "anchor", "toc-backref")


@dataclass(frozen=True, slots=True)
class Sample:
    """A page with its main text, without the headline."""

    name: str
    body: bytes
    content_type: str
    truth: str


def public(folder: Path) -> list[Sample]:
    """Return the pages of a folder in the public benchmark's layout.

    Raises:
        UsageError: it is none.
    """
    truths, html = folder / "ground-truth.json", folder / "html"
    if not truths.is_file() or not html.is_dir():
        raise UsageError(
            f"{str(folder)!r} is no folder of pages: it lacks ground-truth.json or html/. Fix: a checkout of "
            "scrapinghub/article-extraction-benchmark."
        )
    found = json.loads(truths.read_text(encoding="utf-8"))
    samples = []
    for name, row in sorted(found.items()):
        body = gzip.decompress((html / f"{name}.html.gz").read_bytes())
        samples.append(Sample(name, body, "text/html; charset=utf-8", row.get("articleBody", "")))
    return samples


def generated(size: int, seed: int = 0) -> list[Sample]:
    """Return the article pages of a generated site, in all the encodings that it serves."""
    from aster_env.web.worker import decode

    samples = []
    for path, page in build_site(seed, size).pages.items():
        if page.status != 200 or not page.content_type.startswith("text/html"):
            continue
        tree = lxml.html.fromstring(decode(page.body, page.content_type))
        articles = tree.xpath("//article")
        if len(articles) == 1 and is_prose(articles[0]):
            samples.append(Sample(path, page.body, page.content_type, main_text(articles[0])))
    return samples


def documentation(folder: Path, most: int) -> list[Sample]:
    """Return pages of documentation in HTML that say where their main text is.

    What says so (``<main>``, ``<article>``, the role and the id) is made a plain ``<div>`` in the page, so that no
    extractor can look it up.

    Args:
        folder: with ``.html`` files at any depth.
        most: pages, taken at even distances.

    Raises:
        UsageError: there is none.
    """
    found = []
    for path in sorted(folder.rglob("*.html")):
        name = re.sub(r"[^\w.-]", "_", str(path.relative_to(folder)))
        if not path.is_symlink() and (sample := _document(name, path.read_bytes())) is not None:
            found.append(sample)
    step = max(1.0, len(found) / most)
    if not found:
        raise UsageError(f"{str(folder)!r} has no page of prose with one <main>. Fix: a folder of such HTML files.")
    return [found[int(n * step)] for n in range(min(most, len(found)))]


def _document(name: str, body: bytes) -> Sample | None:
    try:
        tree = lxml.html.document_fromstring(body.decode("utf-8"))
    except (ValueError, lxml.etree.ParserError):
        return None
    marked = tree.xpath("//main | //*[@role='main']")
    if len(marked) != 1 or not is_prose(marked[0]):
        return None
    truth = main_text(marked[0])
    for element in tree.xpath("//main | //article | //*[@role='main']"):
        element.tag = "div"
        for attribute in ("role", "id", "class", "itemprop"):
            element.attrib.pop(attribute, None)
    html = lxml.html.tostring(tree, encoding="utf-8", doctype="<!DOCTYPE html>")
    return Sample(name, html, "text/html; charset=utf-8", truth)


def is_prose(element: Any) -> bool:
    """Whether an element is mostly paragraphs, and long enough to be an article."""
    words = len(main_text(element).split())
    prose = sum(len(text_of(paragraph).split()) for paragraph in element.xpath(".//p"))
    return words >= WORDS and prose >= PROSE * words


def main_text(element: Any) -> str:
    """Return an element's text without its first headline."""
    headline = next(iter(element.xpath(".//h1")), None)
    return text_of(element, headline)


def text_of(element: Any, without: Any = None) -> str:
    """Return an element's text, its blocks apart."""
    return re.sub(r"[ \t]*\n\s*", "\n", "".join(_pieces(element, without))).strip()


def _pieces(element: Any, without: Any) -> Iterator[str]:
    tag = element.tag if isinstance(element.tag, str) else "script"
    shown = tag not in _UNREAD and element is not without and not _is_anchor(element)
    block = tag in _BLOCKS
    if shown:
        yield "\n" * block + (element.text or "")
        for child in element:
            yield from _pieces(child, without)
            yield child.tail or ""
    yield "\n" * block


def _is_anchor(element: Any) -> bool:
    return element.tag == "a" and element.get("class") in _ANCHORS and len(element.text_content()) <= 1
