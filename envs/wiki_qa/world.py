"""A seeded, self-consistent world that does not exist: countries, towns, people, organisations and works."""

from __future__ import annotations

import datetime
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from aster_env.errors import UsageError

from .names import LANGUAGES, Draw, Language, Names

MIN_PASSAGES, MAX_PASSAGES = 300, 1_000_000
CREATORS = {"novelist": "novel", "playwright": "play", "director": "film", "composer": "opera", "poet": "ballad"}
"""Who makes works, and of which sort."""
OTHERS = ("painter", "botanist", "architect", "explorer", "astronomer", "engineer", "physician", "geologist", "judge")
SCHOOLS = ("Academy", "College", "Institute")
FIRMS = ("Foundry", "Press", "Museum", "Bank", "Shipyard", "Observatory", "Brewery", "Society")
_NOUNS = (
    "Lantern Orchard Bridge Winter Letter Crossing Silence Garden Mirror Widow Feast Harbour Clock Window Shepherd "
    "Prisoner Miller Tower Ferry Promise Shadow Well Road Storm Daughter Guest Candle Raven Thief Voyage"
)
NOUNS = tuple(_NOUNS.split())
COINS = ("crown", "mark", "thaler", "ducat", "penny", "star", "florin", "shell", "lion", "groat")


@dataclass(slots=True, eq=False)
class Entity:
    """Somebody or something that has an article.

    Args:
        id: unique in its world.
        kind: ``country``, ``town``, ``person``, ``organisation`` or ``work``.
        sort: the occupation of a person; ``novel``, ``Museum``, …; else the kind.
        name: as texts write it; two people may share one.
        unseen: whether it belongs to the part of the world that only the split ``"unseen"`` asks about.
        title: of its article, unique: the name, with the occupation in brackets where two people share it.
        aliases: other names; the article does not say them, passages of their own do.
        facts: what is true of it, by relation: an Entity, a year, a date, a string, or a tuple of those.
        she: whether texts say "she".
    """

    id: str
    kind: str
    sort: str
    name: str
    unseen: bool
    title: str = ""
    aliases: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    she: bool = False

    def __repr__(self) -> str:
        return f"Entity({self.title!r}, {self.sort})"

    @property
    def mention(self) -> str:
        """How a sentence names it beyond doubt."""
        return self.name if self.title == self.name else f"the {self.sort} {self.name}"


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """The whole of it; lists are in a fixed order.

    Args:
        seed: what it was made from.
        passages: about how many passages tell it.
        entities: all of them, by kind.
    """

    seed: int
    passages: int
    entities: dict[str, list[Entity]]

    def __iter__(self) -> Any:
        return (entity for group in self.entities.values() for entity in group)


@lru_cache(maxsize=4)
def make_world(seed: int = 0, passages: int = 20_000) -> World:
    """Return the world of a seed; the same one every time, so treat it as read-only.

    Args:
        seed: other names and facts.
        passages: about how many passages tell it (within 5 of 100).

    Raises:
        UsageError: the number is not allowed.
    """
    if not isinstance(passages, int) or not MIN_PASSAGES <= passages <= MAX_PASSAGES:
        raise UsageError(
            f"passages={passages!r} is not allowed. Allowed: {MIN_PASSAGES} to {MAX_PASSAGES}. "
            "Fix: 20_000 is the usual size, 1_000 a small one."
        )
    if not isinstance(seed, int):
        raise UsageError(f"seed={seed!r} is not allowed. Allowed: an integer. Fix: 0 is the usual world.")
    maker = _Maker(seed, passages)
    maker.make_places()
    maker.make_people()
    maker.make_organisations()
    maker.settle_lives()
    maker.make_works()
    maker.give_aliases()
    return World(seed, passages, maker.made)


class _Maker:
    """Makes a world in steps. Every reference stays within the seen or the unseen part."""

    def __init__(self, seed: int, passages: int) -> None:
        self.draw = Draw(f"world {seed}")
        self.names = Names(self.draw)
        self.size = passages
        self.made: dict[str, list[Entity]] = {
            kind: [] for kind in ("country", "town", "person", "organisation", "work")
        }
        self.languages: dict[str, Language] = {}
        self.given: dict[tuple[int, bool], list[str]] = {}
        self.surnames: dict[int, list[str]] = {}

    def add(self, kind: str, sort: str, name: str, unseen: bool, **facts: Any) -> Entity:
        group = self.made[kind]
        entity = Entity(f"{kind[0]}{len(group)}", kind, sort, name, unseen, title=name, facts=facts)
        group.append(entity)
        return entity

    def those(self, kind: str, unseen: bool) -> list[Entity]:
        return [entity for entity in self.made[kind] if entity.unseen == unseen]

    def make_places(self) -> None:
        draw, names = self.draw, self.names
        count = max(5, self.size // 400)
        for n in range(count):
            language = LANGUAGES[n % len(LANGUAGES)]
            name = names.word(language, language.country)
            country = self.add("country", "country", name, n % 6 == 4)
            country.facts["currency"] = f"{names.word(language, language.she, 1).lower()} {draw.pick(COINS)}"
            self.languages[country.id] = language
        rivers = [
            [names.word(self.languages[c.id], ("", "a", "en", "ir"), 2) for _ in range(4)] for c in self.made["country"]
        ]
        for n in range(max(4 * count, int(self.size * 0.06))):
            country, language = self.made["country"][n % count], self.languages[f"c{n % count}"]
            older = self.made["town"][n - count] if n >= count and draw.chance(0.1) else None
            name = f"{draw.pick(('New', 'Upper', 'Lower', 'Port'))} {older.name}" if older else ""
            if not older or " " in older.name or not names.take(name):
                name = names.word(language, language.town)
            town = self.add("town", "town", name, country.unseen, country=country, founded=draw.between(700, 1500))
            town.facts["river"] = draw.pick(rivers[n % count])
            country.facts.setdefault("capital", town)
        self.towns = {part: self.those("town", part) for part in (False, True)}

    def make_people(self) -> None:
        draw, total = self.draw, int(self.size * 0.255)
        creators = int(total * 0.2)
        for n, language in enumerate(LANGUAGES):
            self.given[n, False] = [self.names.word(language, language.he, 1) for _ in range(40)]
            self.given[n, True] = [self.names.word(language, language.she, 1) for _ in range(40)]
            self.surnames[n] = [self.names.word(language, language.surname) for _ in range(max(20, total // 24))]
        for n in range(total):
            town = draw.pick(self.made["town"])
            occupation = list(CREATORS)[n % len(CREATORS)] if n < creators else draw.pick(OTHERS)
            person = self.add("person", occupation, "", town.unseen, born_in=town)
            earliest = 1860 if occupation == "director" else 1560
            born = _day(draw, draw.between(earliest, 1905))
            died = _day(draw, born.year + draw.between(38, 90))
            person.facts |= {"born_on": born, "died_on": died}
            person.she = draw.chance(0.5)
            self.name_person(person)

    def name_person(self, person: Entity) -> None:
        """Give a new name, or (3 of 100) that of somebody with another occupation."""
        draw, n = self.draw, int(person.facts["born_in"].facts["country"].id[1:]) % len(LANGUAGES)
        if int(person.id[1:]) > 20 and draw.chance(0.03):
            other = self.made["person"][draw.below(int(person.id[1:]))]
            if other.title == other.name and other.sort != person.sort and other.unseen == person.unseen:
                person.name, person.she = other.name, other.she
                for each in (person, other):
                    each.title = f"{each.name} ({each.sort})"
                return
        person.name = person.title = self.full_name(n, person.she)

    def full_name(self, language: int, she: bool) -> str:
        while True:
            name = f"{self.draw.pick(self.given[language, she])} {self.draw.pick(self.surnames[language])}"
            if self.names.take(name):
                return name

    def make_organisations(self) -> None:
        draw = self.draw
        for n in range(int(self.size * 0.07)):
            founder = draw.pick(self.made["person"])
            sort = SCHOOLS[n % len(SCHOOLS)] if n % 4 == 0 else draw.pick(FIRMS)
            language = draw.pick(LANGUAGES)
            name = f"{self.names.word(language, language.surname)} {sort}"
            unseen = founder.unseen
            seat = draw.pick(self.towns[unseen])
            year = founder.facts["born_on"].year + draw.between(24, 37)
            self.add("organisation", sort, name, unseen, founder=founder, founded=year, seat=seat)

    def settle_lives(self) -> None:
        """Give people a place of death, a school, a spouse, children and a friend."""
        draw = self.draw
        for unseen in (False, True):
            people = sorted(self.those("person", unseen), key=lambda person: person.facts["born_on"])
            schools = [each for each in self.those("organisation", unseen) if each.sort in SCHOOLS]
            schools.sort(key=lambda school: school.facts["founded"])
            opened = [school.facts["founded"] for school in schools]
            for n, person in enumerate(people):
                facts, born = person.facts, person.facts["born_on"].year
                facts["died_in"] = draw.pick(self.towns[unseen])
                until = bisect_right(opened, born + 17)
                if until and draw.chance(0.6):
                    facts["school"] = schools[draw.below(until)]
                self.marry(person, people[n + 1 : n + 12])
                children = draw.between(0, 7)
                language = draw.below(len(LANGUAGES))
                pool = draw.shuffled(self.given[language, False] + self.given[language, True])
                facts["children"] = tuple(pool[:children])
                friend = people[max(0, min(len(people) - 1, n + draw.between(-9, 9)))]
                if friend is not person:
                    facts["friend"] = friend

    def marry(self, person: Entity, younger: Iterable[Entity]) -> None:
        if "spouse" in person.facts or not self.draw.chance(0.5):
            return
        limit = person.facts["born_on"].year + 15
        for other in younger:
            if "spouse" not in other.facts and other.she != person.she and other.facts["born_on"].year < limit:
                person.facts["spouse"], other.facts["spouse"] = other, person
                return

    def make_works(self) -> None:
        draw = self.draw
        creators = [person for person in self.made["person"] if person.sort in CREATORS]
        for person in creators:
            settings = [draw.pick(self.towns[person.unseen]) for _ in range(2)]
            first, last = person.facts["born_on"].year + 21, person.facts["died_on"].year
            span = range(first, last + 1)
            years = sorted({draw.pick(span) for _ in range(draw.between(3, 9))})
            works = []
            for year in years:
                name = self.work_name()
                work = self.add("work", CREATORS[person.sort], name, person.unseen, creator=person, year=year)
                work.facts["setting"] = draw.pick(settings)
                works.append(work)
            person.facts["works"] = tuple(works)

    def work_name(self) -> str:
        draw = self.draw
        language = draw.pick(LANGUAGES)
        while True:
            word = self.names.word(language, language.she + language.country)
            name = draw.pick(("The {} of {}", "A {} for {}", "The {} of {}", "The {} from {}")).format(
                draw.pick(NOUNS), word
            )
            if self.names.take(name):
                return name

    def give_aliases(self) -> None:
        """Give pen names, and former names of towns and organisations, to some."""
        draw = self.draw
        for person in self.made["person"]:
            if draw.chance(0.12):
                person.aliases = (self.full_name(draw.below(len(LANGUAGES)), person.she),)
        for town in self.made["town"]:
            if draw.chance(0.12):
                language = self.languages[town.facts["country"].id]
                town.aliases = (self.names.word(language, language.town),)
        for firm in self.made["organisation"]:
            if draw.chance(0.12):
                language = draw.pick(LANGUAGES)
                firm.aliases = (f"{self.names.word(language, language.surname)} {firm.sort}",)


def _day(draw: Draw, year: int) -> datetime.date:
    return datetime.date(year, 1, 1) + datetime.timedelta(draw.below(365))
