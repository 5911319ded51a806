"""The numbered links of an episode, which the tools ``search`` and ``visit`` share."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from urllib.parse import urljoin, urlsplit

from aster_env.web.base import Link, PageError, shown
from aster_env.web.guard import MAX_URL

_NUMBER = re.compile(r"(?:link\s*)?[#\[(]?\s*(\d{1,9})\s*[\])]?", re.IGNORECASE)
_ADDRESS = re.compile(r"https?://", re.IGNORECASE)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:\S*", re.IGNORECASE)
_HOST = re.compile(r"[\w-]+(\.[\w-]+)+([/?:]\S*)?")
_MOST_LISTED = 10


class Links:
    """What the links of an episode are called: each address has one number, from its first sight to the end."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._seen: dict[tuple[int, str], None] = {}
        self._latest: list[tuple[int, str]] = []
        self._place = ""

    def clear(self) -> None:
        """Forget the episode's links."""
        self._numbers, self._seen, self._latest, self._place = {}, {}, [], ""

    def see(self, links: Iterable[Link], place: str = "") -> list[int]:
        """Return the numbers of what the model is now shown, new ones for addresses that it has not seen.

        Args:
            links: of a page, or of a search's results.
            place: the page's address, from which relative ones count; "" leaves it.
        """
        self._latest = [
            (self._numbers.setdefault(link.url, len(self._numbers) + 1), _plain(link.text)) for link in links
        ]
        self._seen.update(dict.fromkeys(self._latest))
        self._place = place or self._place
        return [number for number, _ in self._latest]

    def has(self, text: str) -> bool:
        """Whether a link that was seen has a text."""
        wanted = _plain(text)
        return any(known == wanted for _, known in self._seen)

    def find(self, target: str | int) -> str:
        """Return the address that a target means.

        A number is a link's. What begins with ``http://`` or ``https://`` is an address, whatever links are called;
        anything else may be the text of a link, of the last page or results first, or an address in short. A link keeps
        every text that it was seen under.

        Raises:
            PageError: it means nothing, or several things.
        """
        if isinstance(target, int):
            return self._of_number(target)
        target = target.strip()
        if not target:
            raise PageError(
                "The target is empty. Give the number of a link, its exact text, or an address with http://."
            )
        if len(target) > MAX_URL:
            raise PageError(f"The target is longer than {MAX_URL} characters.")
        # Runs of blanks would cost the pattern their square.
        if (number := _NUMBER.fullmatch(" ".join(target.split()))) is not None:
            return self._of_number(int(number[1]))
        if _ADDRESS.match(target):
            return target
        if (url := self._of_text(target)) is not None:
            return url
        if target.startswith(("/", "?", "./", "../")) and self._place:
            return _joined(self._place, target)
        if _SCHEME.fullmatch(target) and not _HOST.fullmatch(target):
            return target
        if _HOST.fullmatch(target):
            return f"http://{target}"
        raise PageError(
            f"No link has the text {shown(target)!r}. Give the number of a link, its exact text, or an address with "
            "http://."
        )

    def _of_number(self, number: int) -> str:
        for url, given in self._numbers.items():
            if given == number:
                return url
        most = len(self._numbers)
        known = (
            f"Links have the numbers 1 to {most}." if most else "No link was seen yet: give an address with http://."
        )
        raise PageError(f"There is no link {number}. {known}")

    def _of_text(self, text: str) -> str | None:
        wanted = _plain(text)
        for group in (self._latest, self._seen):
            found = [number for number, known in dict.fromkeys(group) if known == wanted]
            if len(found) > 1:
                listed = ", ".join(map(str, found[:_MOST_LISTED]))
                raise PageError(
                    f"Several links have the text {shown(text)!r}: {listed}{', …' * (len(found) > _MOST_LISTED)}. "
                    "Give the number of one."
                )
            if found:
                return self._of_number(found[0])
        return None


def listed(links: Iterable[Link], numbers: Iterable[int], place: str) -> list[str]:
    """Return a line for each link: its number and text, and its address where the text does not tell it apart."""
    links = list(links)
    count = Counter(_plain(link.text) for link in links)
    lines = []
    for link, number in zip(links, numbers, strict=True):
        text = " ".join(link.text.split())
        alone = text and count[_plain(text)] == 1
        lines.append(f"[{number}] {text if alone else f'{text} ({_short(link.url, place)})'.strip()}")
    return lines


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def _short(url: str, place: str) -> str:
    """Return an address without its host, where that is the page's own."""
    parts, own = urlsplit(url), urlsplit(place)
    if (parts.scheme, parts.netloc) == (own.scheme, own.netloc):
        url = url[len(f"{parts.scheme}://{parts.netloc}") :] or "/"
    return shown(url, 120)


def _joined(place: str, target: str) -> str:
    try:
        return urljoin(place, target)
    except ValueError as error:
        raise PageError(f"{shown(target)!r} is not an address of the web.") from error
