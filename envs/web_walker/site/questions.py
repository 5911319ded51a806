"""Questions about a site: all that its pages answer, by what has to be done to find out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from .markup import place
from .model import Museum, Province, Question, Town
from .pages import MUSEUMS, NEWS, PEOPLE, page_of
from .province import CENSUS, YEARS

Found = Iterator[tuple[str, tuple[str, ...], str, tuple[str, ...], tuple[str, ...]]]
"""Question, answers, kind, path behind the home page, evidence."""
_PLAIN = str.maketrans("áéíöü", "aeiou")


def questions(province: Province, url: str) -> dict[str, tuple[Question, ...]]:
    """Return every question, by family.

    Args:
        province: what the site tells of.
        url: of its home page.
    """
    start = f"The web site of the province of {province.name} is {url}"
    made = {}
    for family, find in FAMILIES.items():
        made[family] = tuple(
            Question(family, f"{start}. {text}", answers, kind, ("/", *path), evidence)
            for text, answers, kind, path, evidence in find(province)
        )
    return made


def _names(name: str) -> tuple[str, ...]:
    """Return a name, and how it is written without its accents."""
    return tuple(dict.fromkeys((name, name.translate(_PLAIN))))


def _to_town(town: Town) -> tuple[str, ...]:
    return "/districts/", f"/districts/{town.district.slug}", f"/towns/{town.slug}/"


def _to_museum(province: Province, museum: Museum) -> tuple[str, ...]:
    return *_to_entry("/museums/", page_of(province.museums, museum, MUSEUMS)), f"/museums/{museum.slug}"


def _to_entry(path: str, page: int) -> tuple[str, ...]:
    return tuple(dict.fromkeys((path, place(path, page))))


def _links(province: Province) -> Found:
    for town in province.towns:
        where, path = f"{town.name}, a town in the district of {town.district.name}", _to_town(town)
        yield f"Who is the deputy mayor of {where}?", _names(town.deputy), "qa", path, (town.deputy,)
        yield f"On which river does {where}, lie?", (town.river,), "qa", path, (f"river {town.river}",)
        said = f"founded in {town.founded}"
        yield f"In which year was {where}, founded?", (str(town.founded),), "math", path, (said,)
    for department in province.departments:
        head = department.head
        assert head is not None
        path = ("/departments/", f"/departments/{department.slug}/", f"/people/{head.slug}")
        text = f"the head of the {department.name}"
        joined = f"administration in {head.joined}"
        yield (
            f"In which year did {text} join the administration?",
            (str(head.joined),),
            "math",
            path,
            (head.name, joined),
        )
        yield f"In which town did {text} grow up?", (head.town.name,), "qa", path, (head.name, f"in {head.town.name}")
        river, path = head.town.river, (*path, f"/towns/{head.town.slug}/")
        yield (
            f"On which river lies the town in which {text} grew up?",
            (river,),
            "qa",
            path,
            (head.name, f"river {river}"),
        )
    for museum in province.museums:
        path = (*_to_museum(province, museum), f"/towns/{museum.town.slug}/")
        text, mayor = f"Who is the mayor of the town where the {museum.name} is?", museum.town.mayor
        yield text, _names(mayor), "qa", path, (museum.town.name, mayor)


def _tables(province: Province) -> Found:
    for line in province.lines:
        for n, (start, first) in enumerate(line.stops):
            for stop, last in line.stops[n + 2 : n + 5]:
                text = f"How many minutes does the first boat of ferry line {line.number} need from {start} to {stop}?"
                times = tuple(f"{8 + minute // 60:02}.{minute % 60:02}" for minute in (first, last))
                yield text, (str(last - first),), "math", ("/ferries/", f"/ferries/line-{line.number}"), times
    for town in province.towns:
        path = ("/statistics/", f"/statistics/{town.district.slug}")
        for year, count in zip(CENSUS, town.census, strict=True):
            where = f"the town of {town.name} (district of {town.district.name})"
            text = f"How many inhabitants did {where} have at the census of {year}?"
            yield text, (str(count),), "math", path, (town.name, str(count))


def _paging(province: Province) -> Found:
    for person in province.people:
        path = _to_entry("/people/", page_of(province.people, person, PEOPLE))
        text = f"Which room does the staff directory give for {person.name}?"
        yield text, (person.room,), "qa", path, (person.name, person.room)
        assert person.before is not None
        built_by, museum = person.before.architect, person.before
        text = f"Which architect built the house of the museum that {person.name}, of the staff, worked for before?"
        yield text, _names(built_by), "qa", (*path, f"/people/{person.slug}", f"/museums/{museum.slug}"), (built_by,)
    for museum in province.museums:
        text = f"How many objects does the collection of the {museum.name} hold?"
        yield text, (str(museum.objects),), "math", _to_museum(province, museum), (f"{museum.objects} objects",)
    for news in province.news:
        path = (*_to_entry("/news/", page_of(province.news, news, NEWS)), f"/news/{news.slug}")
        text = f"According to the news “{news.title}” of {news.date},"
        days, cost = f"{news.days} days", f"{news.cost} crowns"
        yield f"{text} how many days is the work to take?", (str(news.days),), "math", path, (days,)
        yield f"{text} at how many crowns is the cost put?", (str(news.cost),), "math", path, (cost,)


def _pdfs(province: Province) -> Found:
    for year in YEARS:
        path = ("/reports/", f"/reports/{year}", f"/files/report-{year}.pdf")
        for department in province.departments:
            spent, posts = department.spent[year], department.posts[year]
            said = f"{department.name}: spent {spent} thousand crowns, {posts} posts"
            text = f"According to the annual report for {year}, how many"
            name = department.name
            yield f"{text} thousand crowns did the {name} spend?", (str(spent),), "math", path, (said,)
            yield f"{text} posts did the {name} have?", (str(posts),), "math", path, (said,)


def _redirects(province: Province) -> Found:
    for town in province.towns:
        if town.former:
            path = ("/towns/", "/towns/former-names", f"/towns/by-former-name/{town.former.lower()}")
            text = f"the town that was formerly called {town.former}"
            yield f"Who is the mayor of {text}?", _names(town.mayor), "qa", path, (town.mayor,)
            said = f"founded in {town.founded}"
            yield f"In which year was {text} founded?", (str(town.founded),), "math", path, (said,)


def _comparisons(province: Province) -> Found:
    for district in province.districts:
        for n, first in enumerate(district.towns):
            for other in district.towns[n + 1 : n + 4]:
                if first.founded == other.founded:
                    continue
                older, younger = sorted((first, other), key=lambda town: (town.founded, town.slug))
                text = (
                    f"How many years before {younger.name} was {older.name} founded? Both are towns in the district of "
                    f"{district.name}."
                )
                path = (*_to_town(older), f"/towns/{younger.slug}/")
                said = tuple(f"founded in {town.founded}" for town in (older, younger))
                yield text, (str(younger.founded - older.founded),), "math", path, said


def _counts(province: Province) -> Found:
    museums = province.museums
    path = tuple(place("/museums/", n) for n in range(1, page_of(museums, museums[-1], MUSEUMS) + 1))
    if len(path) > 4:
        return
    seen = tuple(museum.name for museum in museums)
    for year in range(1840, 2010, 5):
        count = sum(museum.opened < year for museum in museums)
        if not 0 < count < len(museums):
            continue
        text = f"How many museums in the register of museums were opened before {year}?"
        yield text, (str(count),), "math", path, seen


def _versions(province: Province) -> Found:
    for town in province.towns:
        if town.old_mayor:
            now, then = _to_town(town), (*_to_town(town), f"/archive/2019/towns/{town.slug}/")
            who = f"who is the mayor of {town.name} (district of {town.district.name})?"
            fee = f"how many crowns a year does a permit for parking cost in {town.name} ({town.district.name})?"
            yield f"According to the current page, {who}", _names(town.mayor), "qa", now, (town.mayor,)
            yield (
                f"According to the archived page of 2019, {who}",
                _names(town.old_mayor),
                "qa",
                then,
                (town.old_mayor,),
            )
            yield f"According to the current page, {fee}", (str(town.fee),), "math", now, (f"{town.fee} crowns",)
            said = (f"{town.old_fee} crowns",)
            yield f"According to the archived page of 2019, {fee}", (str(town.old_fee),), "math", then, said


def _long(province: Province) -> Found:
    path = ("/law/", "/law/by-laws")
    for section in province.sections:
        text = f"According to the by-laws, how many crowns is the fee of a permit for {section.subject}?"
        said = (f"section {section.number} is {section.fee} crowns",)
        yield text, (str(section.fee),), "math", path, said
        text = f"How many days before has a permit for {section.subject} to be applied for, according to the by-laws?"
        yield text, (str(section.days),), "math", path, (f"at least {section.days} days before",)


FAMILIES: Mapping[str, Callable[[Province], Found]] = {
    "links": _links,
    "table": _tables,
    "paging": _paging,
    "pdf": _pdfs,
    "redirect": _redirects,
    "compare": _comparisons,
    "count": _counts,
    "version": _versions,
    "long": _long,
}
"""Every family of questions by name: from links to follow to a page in many parts."""
