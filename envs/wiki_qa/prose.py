"""How the encyclopedia says what is true: sentences in several wordings, dates in several forms."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence

from .names import Draw
from .world import Entity

PART = {
    **dict.fromkeys(("born_in", "born_on", "died_on", "friend"), 0),
    **dict.fromkeys(("school", "spouse", "died_in", "children"), 1),
    "works": 2,
}
"""In which part of an article a fact stands; 0, the introduction, if it is not named here."""
VERBS = {
    "novel": ("wrote", "written"),
    "play": ("wrote", "written"),
    "film": ("directed", "directed"),
    "opera": ("composed", "composed"),
    "ballad": ("wrote", "written"),
}
"""How a sort of work is made: ``wrote``, ``written``."""
MAKERS = {"novel": "author", "play": "author", "film": "director", "opera": "composer", "ballad": "author"}
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

CHAINS: dict[str, dict[str, tuple[str, ...]]] = {
    "person": {
        "born_in": ("Where was {x} born?", "What is the birthplace of {x}?"),
        "born_on": ("On what date was {x} born?", "What is the date of birth of {x}?"),
        "died_in": ("Where did {x} die?", "In which town did {x} die?"),
        "school": ("Where did {x} study?", "At which school did {x} study?"),
        "spouse": ("Who was the {mate} of {x}?", "To whom was {x} married?"),
        "born_in.country": ("In which country was {x} born?", "Which country is the birthplace of {x} in?"),
        "born_in.river": (
            "On which river is the birthplace of {x}?",
            "Which river runs through the birthplace of {x}?",
        ),
        "died_in.country": ("In which country did {x} die?",),
        "school.founder": ("Who founded the school where {x} studied?",),
        "school.seat": ("In which town is the school where {x} studied?",),
        "spouse.born_in": ("Where was the {mate} of {x} born?",),
        "spouse.born_on": ("On what date was the {mate} of {x} born?",),
    },
    "work": {
        "creator": ("Who {did} {x}?", "Who is the {maker} of {x}?"),
        "year": ("In which year did {x} come out?", "When did {x} come out?"),
        "setting": ("Where is {x} set?", "In which town is {x} set?"),
        "creator.born_in": ("Where was the {maker} of {x} born?",),
        "creator.born_on": ("On what date was the {maker} of {x} born?",),
        "creator.died_in": ("Where did the {maker} of {x} die?",),
        "creator.school": ("Where did the {maker} of {x} study?",),
        "creator.spouse": ("To whom was the {maker} of {x} married?",),
        "setting.country": ("In which country is {x} set?",),
        "setting.river": ("On which river is the town where {x} is set?",),
        "creator.born_in.country": ("In which country was the {maker} of {x} born?",),
        "creator.school.founder": ("Who founded the school where the {maker} of {x} studied?",),
    },
    "organisation": {
        "founder": ("Who founded {x}?", "Who was the founder of {x}?"),
        "founded": ("In which year was {x} founded?", "When was {x} founded?"),
        "seat": ("Where is the seat of {x}?", "In which town is {x}?"),
        "founder.born_in": ("Where was the founder of {x} born?",),
        "founder.born_on": ("On what date was the founder of {x} born?",),
        "founder.spouse": ("To whom was the founder of {x} married?",),
        "seat.country": ("In which country is the seat of {x}?",),
        "seat.river": ("On which river is the town where {x} has its seat?",),
        "founder.born_in.river": ("On which river is the birthplace of the founder of {x}?",),
    },
    "town": {
        "country": ("In which country is {x}?", "Which country does {x} belong to?"),
        "river": ("On which river is {x}?", "Which river runs through {x}?"),
        "founded": ("In which year was {x} founded?", "When was {x} founded?"),
        "country.capital": ("What is the capital of the country that {x} belongs to?",),
        "country.currency": ("What is the currency of the country that {x} belongs to?",),
    },
    "country": {
        "capital": ("What is the capital of {x}?",),
        "currency": ("What is the currency of {x}?",),
        "capital.river": ("On which river is the capital of {x}?",),
        "capital.founded": ("In which year was the capital of {x} founded?",),
    },
}
"""What may be asked of an entity: relations to follow from it, and wordings."""
FIRST = {
    ("person", "born_on"): ("Who was born first, {a} or {b}?", "Who was born earlier: {a} or {b}?"),
    ("person", "died_on"): ("Who died first, {a} or {b}?", "Who died earlier: {a} or {b}?"),
    ("work", "year"): ("Which came out first, {a} or {b}?", "Which is older: {a} or {b}?"),
    ("organisation", "founded"): ("Which was founded first, {a} or {b}?", "Which is older: {a} or {b}?"),
    ("town", "founded"): ("Which was founded first, {a} or {b}?", "Which is the older town: {a} or {b}?"),
}
"""Comparisons whose answer is the entity with the smaller value."""
SAME = {
    ("person", "born_in"): ("Were {a} and {b} born in the same town?",),
    ("work", "creator"): ("Are {a} and {b} by the same person?",),
    ("town", "country"): ("Are {a} and {b} in the same country?",),
    ("town", "river"): ("Are {a} and {b} on the same river?",),
}
"""Comparisons whose answer is yes or no."""

_MONTHS = "January February March April May June July August September October November December"
MONTHS = tuple(_MONTHS.split())

_BORN = (
    "{She} was born in {town} on {date}.",
    "{She} was born on {date} in {town}.",
    "Born in {town} on {date}, {she} died in {end}.",
    "{Her} birthplace is {town}, and {her} date of birth is {date}.",
)
_WORK = (
    "{name} is a {sort} by {creator}. It came out in {year}. It is set in {setting}.",
    "{name} is a {sort} {made} by {creator}. It is set in {setting} and came out in {year}.",
    "{name} is a {sort} of {year}. It was {made} by {creator}. The story is set in {setting}.",
    "{name} is a {sort} set in {setting}. {creator} {did} it, and it came out in {year}.",
)
_WORK_ENDS = (
    "Early readers found it slow.",
    "It was never popular in its own time.",
    "A second version, much shorter, is lost.",
    "Its ending was changed twice.",
    "",
)
_FIRM = (
    "{name} is {a} {sort} in {seat}. It was founded in {year} by {founder}.",
    "{name} is {a} {sort}. {founder} founded it in {year}. Its seat is {seat}.",
    "{name}, {a} {sort} with its seat in {seat}, was founded by {founder} in {year}.",
    "{name} was founded in {year}. Its founder was {founder}. The {sort} has its seat in {seat}.",
)
_TOWN = (
    "{name} is a town in {country}. It lies on the river {river}. {name} was founded in {year}.",
    "{name} is a town on the river {river} in {country}. It was founded in {year}.",
    "{name}, founded in {year}, is a town in {country}. The river {river} runs through {name}.",
    "{name} is a town in {country} that was founded in {year}. It lies on the river {river}.",
)
_TOWN_ENDS = (
    "A market is held there twice a month.",
    "Most of its houses are built of grey stone.",
    "Its old walls are still standing.",
    "Many who live there work in the mills.",
    "",
)
_COUNTRY = (
    "{name} is a country. Its capital is {capital}. Its currency is the {currency}.",
    "{name} is a country whose capital is {capital}. Payments in {name} are made in the {currency}, its currency.",
    "The capital of {name}, a country, is {capital}. The currency is the {currency}.",
)
_SCHOOL = ("{She} studied at {it}.", "{Her} studies were at {it}.", "As a student {she} was at {it}.")
_SPOUSE = ("{She} was married to {it}.", "{She} married {it}.", "{Her} {mate} was {it}.")
_DIED = ("{She} died in {it}.", "{Her} last years were spent in {it}, where {she} died.", "{It} was where {she} died.")
_FRIEND = ("{She} often wrote to {it}.", "{She} was a friend of {it}.", "{She} once quarrelled with {it}.", "")
_ALIAS = {
    "person": ("{alias} is a pen name of {name}.", "{alias}: a name under which {name} was also known."),
    "town": ("{alias} is the former name of {name}.", "{alias} is what {name} was called until it was renamed."),
    "organisation": ("{alias} is the former name of {name}.", "{alias} was renamed, and is now {name}."),
}


def date_forms(date: datetime.date) -> tuple[str, ...]:
    """Return a date as people write it: ``12 March 1843``, ``March 12, 1843``, ``1843-03-12``."""
    month = MONTHS[date.month - 1]
    return f"{date.day} {month} {date.year}", f"{month} {date.day}, {date.year}", date.isoformat()


def capital(text: str) -> str:
    """Return the text with its first letter a capital."""
    return text[:1].upper() + text[1:]


def joined(items: Sequence[str]) -> str:
    """Return ``a, b and c``."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def article(entity: Entity, seed: int) -> Iterator[str]:
    """Return the parts of an entity's article, one to three passages; the same ones every time.

    Args:
        entity: of a world.
        seed: of that world.
    """
    draw = Draw(f"prose {seed} {entity.id}")
    if entity.kind == "person":
        yield _intro(entity, draw)
        yield _life(entity, draw)
        if entity.facts.get("works"):
            yield _list(entity, draw)
    else:
        yield _TELL[entity.kind](entity, draw)


def alias_text(entity: Entity, alias: str, seed: int) -> str:
    """Return the passage that says whom an alias stands for."""
    wording = Draw(f"alias {seed} {entity.id}").pick(_ALIAS[entity.kind])
    return wording.format(alias=alias, name=entity.mention)


def namesakes_text(people: Sequence[Entity]) -> str:
    """Return the passage that tells people with one name apart."""
    return f"{people[0].name} may be: {joined([person.mention for person in people])}."


def _intro(person: Entity, draw: Draw) -> str:
    facts, she = person.facts, "she" if person.she else "he"
    born, died = draw.pick(date_forms(facts["born_on"])[:2]), facts["died_on"]
    words = {"she": she, "She": capital(she), "her": "her" if person.she else "his"}
    words |= {"Her": capital(words["her"]), "town": facts["born_in"].name, "date": born, "end": str(died.year)}
    wording = draw.pick(_BORN)
    first = draw.pick(("{name} was {a} {sort}.", "{name} was {a} {sort} who died in {end}."))
    if wording is not _BORN[2]:
        first = "{name} ({years}) was {a} {sort}." if draw.chance(0.3) else first
        after = "" if "{end}" in first or "{years}" in first else f"{words['She']} died in {died.year}."
    else:
        first, after = "{name} was {a} {sort}.", ""
    years = f"{facts['born_on'].year}-{died.year}"
    said = first.format(name=person.name, a=_a(person.sort), sort=person.sort, end=died.year, years=years)
    friend = draw.pick(_FRIEND).format(**words, it=facts["friend"].mention) if "friend" in facts else ""
    return " ".join(part for part in (said, wording.format(**words), after, friend) if part)


def _life(person: Entity, draw: Draw) -> str:
    facts, she = person.facts, "she" if person.she else "he"
    words = {"she": she, "She": capital(she), "her": "her" if person.she else "his"}
    words |= {"Her": capital(words["her"]), "mate": "husband" if person.she else "wife"}
    names = facts["children"]
    if names:
        count = "one child" if len(names) == 1 else "children"
        children = draw.pick(("{} had {}: {}.", "{} was the parent of {}: {}.")).format(
            person.name, count, joined(names)
        )
    else:
        children = f"{person.name} had no children."
    parts = [children]
    for relation, wordings in (("school", _SCHOOL), ("spouse", _SPOUSE), ("died_in", _DIED)):
        if relation in facts:
            it = facts[relation].mention
            parts.append(draw.pick(wordings).format(**words, it=it, It=capital(it)))
    return " ".join(parts)


def _list(person: Entity, draw: Draw) -> str:
    works = person.facts["works"]
    said = joined([f"{work.name} ({work.facts['year']})" for work in works])
    plural = works[0].sort + "s"
    return draw.pick(("The {} of {} are: {}.", "All {} by {}: {}.")).format(plural, person.mention, said)


def _work(work: Entity, draw: Draw) -> str:
    facts, (did, made) = work.facts, VERBS[work.sort]
    wording = draw.pick(_WORK)
    creator = facts["creator"].mention
    said = wording.format(
        name=work.name,
        sort=work.sort,
        did=did,
        made=made,
        creator=capital(creator) if wording is _WORK[3] else creator,
        year=facts["year"],
        setting=facts["setting"].name,
    )
    return f"{said} {draw.pick(_WORK_ENDS)}".rstrip()


def _firm(firm: Entity, draw: Draw) -> str:
    facts, sort, wording = firm.facts, firm.sort.lower(), draw.pick(_FIRM)
    founder = facts["founder"].mention
    return wording.format(
        name=firm.name,
        a=_a(sort),
        sort=sort,
        year=facts["founded"],
        seat=facts["seat"].name,
        founder=capital(founder) if wording is _FIRM[1] else founder,
    )


def _town(town: Entity, draw: Draw) -> str:
    facts = town.facts
    said = draw.pick(_TOWN).format(
        name=town.name, country=facts["country"].name, river=facts["river"], year=facts["founded"]
    )
    return f"{said} {draw.pick(_TOWN_ENDS)}".rstrip()


def _country(country: Entity, draw: Draw) -> str:
    facts = country.facts
    return draw.pick(_COUNTRY).format(name=country.name, capital=facts["capital"].name, currency=facts["currency"])


def _a(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


_TELL = {"work": _work, "organisation": _firm, "town": _town, "country": _country}
