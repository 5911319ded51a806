"""What a generated site is made of: the province it tells of, and its pages as they are served."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

SPLITS = ("train", "test")


@dataclass(frozen=True, slots=True)
class Served:
    """An answer of the server.

    Args:
        status: HTTP's.
        content_type: the header; "" for none.
        body: the bytes.
        location: where a redirect leads.
        title: of a page that the site's search knows; "" for others.
        text: what it is found by.
        summary: what the search shows of it.
    """

    status: int = 200
    content_type: str = "text/html; charset=utf-8"
    body: bytes = b""
    location: str = ""
    title: str = ""
    text: str = ""
    summary: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """A question that the site answers.

    Args:
        family: what has to be done: ``links``, ``table``, ``paging``, ``pdf``, ``redirect``, ``compare``, ``count``,
            ``version`` or ``long``.
        prompt: it names the site's address.
        answers: reference answers.
        kind: ``qa`` or ``math``.
        path: the golden path, as paths of the site; the first is the home page, and each other one is linked from one
            before it.
        evidence: texts on these pages that prove the answer.
    """

    family: str
    prompt: str
    answers: tuple[str, ...]
    kind: str
    path: tuple[str, ...]
    evidence: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """A site; treat it as read-only.

    Args:
        seed: what it was made from.
        size: about how many pages it has.
        split: no name of one split's sites is in the other's.
        host: of its addresses; it exists nowhere else.
        pages: what is served, by path and query.
        questions: all that are asked about it, by family.
        digest: SHA-256 of all that is served.
    """

    seed: int
    size: int
    split: str
    host: str
    pages: Mapping[str, Served]
    questions: Mapping[str, tuple[Question, ...]]
    digest: str

    @property
    def url(self) -> str:
        """The address of the home page."""
        return f"http://{self.host}/"

    def address(self, path: str) -> str:
        """Return a path's address."""
        return f"http://{self.host}{path}"


@dataclass(slots=True, eq=False)
class Person:
    """Somebody who works for the province, or for a town."""

    name: str
    slug: str
    job: str
    joined: int
    room: str
    town: Town
    department: Department | None = None
    before: Museum | None = None


@dataclass(slots=True, eq=False)
class Town:
    """A town, its present page, and what an older edition of the page said."""

    name: str
    slug: str
    district: District
    founded: int
    river: str
    hours: str
    fee: int
    census: tuple[int, ...]
    mayor: str = ""
    deputy: str = ""
    former: str = ""
    old_mayor: str = ""
    old_fee: int = 0
    museums: list[Museum] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class District:
    """A part of the province."""

    name: str
    slug: str
    area: int
    towns: list[Town] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Department:
    """A part of the administration."""

    name: str
    slug: str
    floor: int
    head: Person | None = None
    staff: list[Person] = field(default_factory=list)
    spent: dict[int, int] = field(default_factory=dict)
    posts: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Museum:
    """A museum."""

    name: str
    slug: str
    town: Town
    opened: int
    architect: str
    objects: int


@dataclass(slots=True, eq=False)
class News:
    """A piece of news."""

    title: str
    slug: str
    date: str
    town: Town
    author: Person
    work: str
    cost: int
    days: int


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """A ferry line: its stops, with the minutes from the first."""

    number: int
    stops: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Section:
    """A section of the by-laws."""

    number: int
    subject: str
    fee: int
    days: int


@dataclass(slots=True, eq=False)
class Province:
    """All that the site tells of; lists are in a fixed order."""

    name: str
    districts: list[District] = field(default_factory=list)
    towns: list[Town] = field(default_factory=list)
    people: list[Person] = field(default_factory=list)
    departments: list[Department] = field(default_factory=list)
    museums: list[Museum] = field(default_factory=list)
    news: list[News] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
