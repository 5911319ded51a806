"""The site's own search: titles count most, then a few words that a page is known by."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict

from aster_env.web.providers.base import Hit

from .model import Site

_WORD = re.compile(r"\w+")
_COMMON = frozenset(
    re.findall(r"\w+", "a an and are at by for from in is it of on or the to was were what when which who with")
)
_PLAIN = str.maketrans("áéíöü", "aeiou")
_TITLE = 3


class SiteSearch:
    """Finds the pages of a site by title and topic; what a page says beyond that is for its readers.

    Args:
        site: what is searched; pages that ask not to be indexed are not found.
    """

    def __init__(self, site: Site) -> None:
        self._hits: list[Hit] = []
        self._found: dict[str, dict[int, float]] = defaultdict(dict)
        self._lengths: list[float] = []
        for path, page in site.pages.items():
            if page.title:
                self._add(Hit(page.title, site.address(path), page.summary), page.text)

    def best(self, query: str, n: int) -> list[Hit]:
        """Return the pages that fit a query best."""
        scores: Counter[int] = Counter()
        for word in set(_words(query)):
            pages = self._found.get(word, {})
            weight = math.log(1 + len(self._hits) / (1 + len(pages)))
            for page, count in pages.items():
                scores[page] += weight * count / (1 + count) / self._lengths[page]  # type: ignore[assignment]
        order = sorted(scores, key=lambda page: (-scores[page], page))
        return [self._hits[page] for page in order[:n]]

    async def search(self, query: str, n: int) -> list[Hit]:
        """Return at most ``n`` pages, the best first."""
        return self.best(query, n)

    async def close(self) -> None:
        """Do nothing: there is nothing to release."""

    def _add(self, hit: Hit, words: str) -> None:
        number = len(self._hits)
        self._hits.append(hit)
        counts = Counter(_words(hit.title) * _TITLE + _words(f"{hit.snippet} {words}"))
        self._lengths.append(1 + math.log(1 + len(counts)) / 8)
        for word, count in counts.items():
            self._found[word][number] = float(count)


def _words(text: str) -> list[str]:
    return [word for word in _WORD.findall(text.lower().translate(_PLAIN)) if word not in _COMMON]
