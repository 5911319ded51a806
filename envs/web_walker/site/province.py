"""A seeded province that does not exist: districts, towns, people, departments, museums, news, ferries, by-laws."""

from __future__ import annotations

import datetime
import hashlib

from ...wiki_qa.names import LANGUAGES, Draw, Names
from .model import Department, District, Line, Museum, News, Person, Province, Section, Town

YEARS = tuple(range(2018, 2025))
"""Of the annual reports."""
CENSUS = (1990, 2000, 2010, 2020)
FIELDS = ("Water", "Roads", "Schools", "Culture", "Forestry", "Finance", "Health", "Housing", "Harbours", "Archives")
JOBS = ("clerk", "inspector", "surveyor", "archivist", "engineer", "adviser", "secretary", "planner", "auditor")
NOUNS = (
    "Clocks",
    "Glass",
    "Salt",
    "Maps",
    "Fishing",
    "Weaving",
    "Bells",
    "Printing",
    "Amber",
    "Ships",
    "Bread",
    "Toys",
)
WORKS = (
    "the repair of the old bridge",
    "the new swimming hall",
    "the clearing of the harbour basin",
    "the roof of the market hall",
    "the new reading room of the library",
    "the lighting of the river walk",
    "the extension of the school",
    "the renewal of the water pipes",
)
_SUBJECTS = (
    "moorings", "market stalls", "street music", "tree felling", "chimney sweeping", "beekeeping", "boat hire",
    "dog licences", "scaffolding", "fireworks", "well drilling", "sand extraction", "night fishing", "fairground rides",
    "café terraces", "grazing rights", "firewood", "film recordings", "bathing huts", "hot-air balloons",
)  # fmt: skip
_PLACES = (
    "on public squares",
    "on the river banks",
    "in nature reserves",
    "in the old towns",
    "near schools",
    "at the harbours",
)
_ACCENTS = {"a": "á", "e": "é", "i": "í", "o": "ö", "u": "ü"}


class SplitNames(Names):
    """Names that only sites of one split have: a word's hash says whose it is."""

    def __init__(self, draw: Draw, split: str) -> None:
        super().__init__(draw)
        self._test = split == "test"

    def take(self, name: str) -> bool:
        """Reserve a name of the split's own; False if it is taken, real or the other split's."""
        test = hashlib.blake2b(name.lower().encode(), digest_size=1).digest()[0] % 4 == 0
        return test == self._test and super().take(name)


def make_province(seed: int, size: int, split: str) -> Province:
    """Return the province of a seed, large enough for a site of about ``size`` pages."""
    return _Maker(seed, size, split).make()


def slug(name: str) -> str:
    """Return a name as it stands in an address."""
    plain = name.lower().translate(str.maketrans("áéíöü ", "aeiou-"))
    return "".join(letter for letter in plain if letter.isalnum() or letter == "-")


class _Maker:
    def __init__(self, seed: int, size: int, split: str) -> None:
        self.draw = Draw(f"site {split} {seed}")
        self.names = SplitNames(self.draw, split)
        self.size = size
        self.languages = LANGUAGES
        language = self.draw.pick(LANGUAGES)
        self.province = Province(self.names.word(language, language.country))
        self.given = [self.names.word(each, each.he + each.she, 1) for each in LANGUAGES for _ in range(20)]
        self.surnames = [self.names.word(each, each.surname) for each in LANGUAGES for _ in range(max(12, size // 24))]
        self.full: set[str] = set()

    def make(self) -> Province:
        self.make_places()
        self.make_museums()
        self.make_people()
        self.make_news()
        self.make_ferries()
        self.make_sections()
        return self.province

    def person(self) -> str:
        """Return a new name, some with an accent that every Western encoding has."""
        draw = self.draw
        while True:
            given, surname = draw.pick(self.given), draw.pick(self.surnames)
            if f"{given} {surname}" not in self.full:
                self.full.add(f"{given} {surname}")
                return f"{given} {_accented(surname, draw)}"

    def make_places(self) -> None:
        draw, names, province = self.draw, self.names, self.province
        count = int(self.size * 0.22)
        for _ in range(max(4, count // 10)):
            language = draw.pick(LANGUAGES)
            name = names.word(language, language.country)
            province.districts.append(District(name, slug(name), draw.between(120, 4800)))
        rivers = [names.word(draw.pick(LANGUAGES), ("a", "en", "ir")) for _ in range(max(8, count // 4))]
        for n in range(count):
            district = province.districts[n % len(province.districts)]
            language = draw.pick(LANGUAGES)
            name = names.word(language, language.town)
            hours = f"{draw.between(7, 9)}.{draw.between(10, 50)} to {draw.between(15, 18)}.{draw.between(10, 50)}"
            people = [draw.between(900, 60_000)]
            for _ in CENSUS[1:]:
                people.append(people[-1] * draw.between(84, 125) // 100 + draw.below(9))
            fee = draw.between(11, 94)
            town = Town(
                name, slug(name), district, draw.between(700, 1500), draw.pick(rivers), hours, fee, tuple(people)
            )
            town.mayor, town.deputy = self.person(), self.person()
            if n % 3 == 1:
                town.former = names.word(language, language.town)
            if n % 3 == 2:
                town.old_mayor, town.old_fee = self.person(), fee - draw.between(1, 9)
            district.towns.append(town)
            province.towns.append(town)

    def make_museums(self) -> None:
        draw, province = self.draw, self.province
        for _ in range(max(6, int(self.size * 0.1))):
            name = f"{self.names.word(draw.pick(LANGUAGES), draw.pick(LANGUAGES).surname)} Museum of {draw.pick(NOUNS)}"
            town = draw.pick(province.towns)
            opened, built_by, objects = draw.between(1820, 2015), self.person(), draw.between(150, 99_000)
            museum = Museum(name, slug(name), town, opened, built_by, objects)
            town.museums.append(museum)
            province.museums.append(museum)

    def make_people(self) -> None:
        draw, province = self.draw, self.province
        for n, name in enumerate(draw.shuffled(FIELDS)):
            department = Department(f"Department of {name}", slug(name), n)
            for year in YEARS:
                department.spent[year] = draw.between(101, 9899)
                department.posts[year] = draw.between(12, 480)
            province.departments.append(department)
        for n in range(max(25, int(self.size * 0.25))):
            department = province.departments[n % len(province.departments)]
            name, head = self.person(), department.head is None
            job = f"head of the {department.name}" if head else draw.pick(JOBS)
            room = f"{draw.pick('ABCDEF')}{draw.between(100, 999)}"
            person = Person(
                name, slug(name), job, draw.between(1984, 2023), room, draw.pick(province.towns), department
            )
            person.before = draw.pick(province.museums)
            department.staff.append(person)
            department.head = department.head or person
            province.people.append(person)
        province.people.sort(key=lambda person: (person.slug.rpartition("-")[2], person.slug))

    def make_news(self) -> None:
        draw, province = self.draw, self.province
        day, titles = datetime.date(2024, 11, 29), set[str]()
        for _ in range(max(10, int(self.size * 0.12))):
            day -= datetime.timedelta(draw.between(1, 6))
            town, work = draw.pick(province.towns), draw.pick(WORKS)
            title = f"{town.name}: {work} begins"
            if title in titles:
                continue
            titles.add(title)
            cost, days = draw.between(21, 998) * 1000 + draw.between(1, 999), draw.between(17, 290)
            where = f"{day:%Y-%m}-{slug(title)}"
            province.news.append(
                News(title, where, f"{day.day} {day:%B %Y}", town, draw.pick(province.people), work, cost, days)
            )

    def make_ferries(self) -> None:
        draw, towns = self.draw, self.province.towns
        for number in range(1, max(4, self.size // 60) + 1):
            stops, minute = [], 0
            for town in draw.shuffled(towns)[:9]:
                stops.append((town.name, minute))
                minute += draw.between(6, 48)
            self.province.lines.append(Line(number, tuple(stops)))

    def make_sections(self) -> None:
        draw = self.draw
        subjects = draw.shuffled([f"{subject} {place}" for subject in _SUBJECTS for place in _PLACES])
        for number, subject in enumerate(subjects[: min(90, self.size // 8)], 1):
            self.province.sections.append(Section(number, subject, draw.between(12, 940), draw.between(5, 120)))


def _accented(name: str, draw: Draw) -> str:
    if not draw.chance(0.4):
        return name
    for n, letter in enumerate(name[1:], 1):
        if letter in _ACCENTS:
            return name[:n] + _ACCENTS[letter] + name[n + 1 :]
    return name
