"""What the web room hands on: pages, and the two ways of not having one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Protocol

from aster_env.errors import AsterError

Kind = Literal["html", "pdf", "text"]

_UNSEEN = re.compile(
    "[\x00-\x20\x7f-\xa0\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\U000e0000-\U000e0fff]+"
)


class PageError(AsterError):
    """A page cannot be had, for a reason of the page or of its address; the text is for the model to read.

    Args:
        text: what went wrong, in a sentence.
        lasting: whether asking again would give the same, so that it may be recorded.
    """

    def __init__(self, text: str, lasting: bool = True) -> None:
        super().__init__(text)
        self.lasting = lasting


@dataclass(frozen=True, slots=True)
class Link:
    """A link of a page: its absolute address (http or https), and its words."""

    url: str
    text: str


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a server sent.

    Args:
        url: the address it came from, after redirects.
        status: the HTTP status, always 2xx.
        content_type: the header, as sent; "" where there is none.
        body: the bytes, without content coding.
        truncated: whether the body goes on.
    """

    url: str
    status: int
    content_type: str
    body: bytes
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """A page to read.

    Args:
        url: the address it came from, after redirects.
        title: on one line; may be empty.
        text: plain, without control characters.
        links: in the order of the page, each address once.
        status: the HTTP status.
        kind: what it was made from.
        truncated: whether text, links or body were cut.
        seconds: wall time of the extraction.
    """

    url: str
    title: str
    text: str
    links: tuple[Link, ...]
    status: int
    kind: Kind
    truncated: bool
    seconds: float


class Source(Protocol):
    """Where pages come from: a ``Fetcher``, a ``Recorder``, or a browser whose traffic is behind a ``Guard``."""

    async def get(self, url: str) -> Fetched:
        """Return what is at an address.

        Raises:
            PageError: the page cannot be had.
            WebError: the machinery failed.
        """
        ...

    async def close(self) -> None:
        """Release everything."""
        ...


def shown(text: str, most: int = 200) -> str:
    """Return foreign text for a message: on one line, without what cannot be seen, and cut."""
    line = _UNSEEN.sub(" ", text[: 2 * most]).strip()
    return line if len(line) <= most and len(text) <= 2 * most else f"{line[:most]}…"
