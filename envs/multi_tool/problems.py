"""Problems that need both tools: numbers of the generated world, to be searched, and what to compute from them.

Every answer is a whole number above 9,999 or has decimals, and the encyclopedia states no such number: searching alone
does not find it, and code alone has nothing to compute from. Code is a help, no necessity: who is good at sums can do
without it, and most easily for ``mean``, the mean of a few years.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from aster_env.envs.wiki_qa.names import Draw
from aster_env.envs.wiki_qa.questions import follow, support
from aster_env.envs.wiki_qa.world import Entity, World

LEAST = 10_000
"""A whole number below this could be a year of the encyclopedia."""
DIRECT = {
    ("town", "founded"): "the year in which {x} was founded",
    ("organisation", "founded"): "the year in which {x} was founded",
    ("work", "year"): "the year in which {x} came out",
    ("person", "born_on"): "the year in which {x} was born",
    ("person", "died_on"): "the year in which {x} died",
}
"""Numbers that one passage states: of which kind of entity, which relation, and how they are asked for."""
THROUGH = {
    ("person", "born_in.founded"): "the year in which the birthplace of {x} was founded",
    ("work", "setting.founded"): "the year in which the town where {x} is set was founded",
    ("organisation", "seat.founded"): "the year in which the town where {x} has its seat was founded",
}
"""Numbers that another article states, which the first one leads to."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem and what is known of it.

    Args:
        operation: a name of ``OPERATIONS``.
        key: the same for every wording.
        prompt: as a person would ask it.
        answer: a whole number, or one with two decimals.
        expression: Python that has the answer as its value; ``datetime`` is imported.
        supporting: ids of the passages that state its numbers.
        queries: what a perfect searcher sends, in order.
    """

    operation: str
    key: str
    prompt: str
    answer: str
    expression: str
    supporting: tuple[str, ...]
    queries: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Number:
    """A year that the encyclopedia states, and where."""

    name: str
    said: str
    value: int
    supporting: tuple[str, ...]
    queries: tuple[str, ...]


def cube(world: World, unseen: bool, draw: Draw) -> Iterator[Problem]:
    """Yield the cube of a number: one search, then one line of code."""
    groups = _groups(world, unseen)
    while True:
        a = _number(groups, draw, through=False)
        yield _problem("cube", (a,), f"What is the cube of {a.said}?", f"{a.value} ** 3")


def product(world: World, unseen: bool, draw: Draw) -> Iterator[Problem]:
    """Yield products of two numbers."""
    for a, b in _pairs(world, unseen, draw):
        yield _problem("product", (a, b), f"What is the product of {a.said} and {b.said}?", f"{a.value} * {b.value}")


def squares(world: World, unseen: bool, draw: Draw) -> Iterator[Problem]:
    """Yield differences of two squares."""
    for a, b in _pairs(world, unseen, draw):
        asked = f"By how much do the square of {a.said} and the square of {b.said} differ?"
        yield _problem("squares", (a, b), asked, f"abs({a.value} ** 2 - {b.value} ** 2)")


def power(world: World, unseen: bool, draw: Draw) -> Iterator[Problem]:
    """Yield modular powers."""
    for a, b in _pairs(world, unseen, draw):
        modulus = Draw(f"modulus {a.name} {b.name}").between(1_000_000, 9_999_999)
        asked = f"Raise {a.said} to the power of {b.said}. What is the remainder after division by {modulus}?"
        yield _problem("power", (a, b), asked, f"pow({a.value}, {b.value}, {modulus})")


def days(world: World, unseen: bool, draw: Draw) -> Iterator[Problem]:
    """Yield the days from one birth to a later one."""
    people = [person for person in world.entities["person"] if person.unseen == unseen]
    while True:
        pair = sorted((draw.pick(people), draw.pick(people)), key=lambda person: person.facts["born_on"])
        dates = [person.facts["born_on"] for person in pair]
        numbers = tuple(_number_of(person, "born_on", DIRECT["person", "born_on"]) for person in pair)
        first, second = pair
        asked = f"How many days after {first.mention} was {second.mention} born, by the Gregorian calendar?"
        yield _problem("days", numbers, asked, f"({_date(dates[1])} - {_date(dates[0])}).days")


def total(world: World, unseen: bool, draw: Draw) -> Iterator[Problem]:
    """Yield sums of the squares of years, over all works of somebody."""
    for person, years, sorts in _lists(world, unseen, draw):
        asked = f"Square the year in which each of the {sorts} by {person.mention} came out. What is the sum?"
        yield _problem("total", (_listed(person),), asked, f"sum(year ** 2 for year in {years})")


def mean(world: World, unseen: bool, draw: Draw) -> Iterator[Problem]:
    """Yield means of years, over all works of somebody, with two decimals."""
    for person, years, sorts in _lists(world, unseen, draw):
        asked = (
            f"In what year, on average, did the {sorts} by {person.mention} come out? Give the mean of the years with "
            "two decimals, a half rounded up."
        )
        # Whole numbers only: 1650.125 as a float, or half to even, would be rounded down.
        expression = f"(200 * sum({years}) + {len(years)}) // {2 * len(years)} / 100"
        if sum(years) % len(years):
            yield _problem("mean", (_listed(person),), asked, expression)


OPERATIONS: dict[str, Callable[[World, bool, Draw], Iterator[Problem]]] = {
    "cube": cube,
    "product": product,
    "squares": squares,
    "power": power,
    "days": days,
    "total": total,
    "mean": mean,
}
"""What is computed, by name: ``operation(world, unseen, draw)`` yields problems, repeated or without end."""


def value_of(expression: str) -> str:
    """Return the answer that an expression of ``Problem`` has."""
    value = eval(expression, {"datetime": datetime})
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def possible(problem: Problem) -> bool:
    """Whether no passage can state the answer."""
    return "." in problem.answer or int(problem.answer) >= LEAST


def _problem(operation: str, numbers: tuple[Number, ...], asked: str, expression: str) -> Problem:
    key = f"both:{operation}:{':'.join(number.name for number in numbers)}"
    supporting = tuple(dict.fromkeys(name for number in numbers for name in number.supporting))
    queries = tuple(dict.fromkeys(query for number in numbers for query in number.queries))
    return Problem(operation, key, asked, value_of(expression), expression, supporting, queries)


def _groups(world: World, unseen: bool) -> dict[str, list[Entity]]:
    return {kind: [each for each in group if each.unseen == unseen] for kind, group in world.entities.items()}


def _pairs(world: World, unseen: bool, draw: Draw) -> Iterator[tuple[Number, Number]]:
    """Yield two different numbers, each pair in one order only, so that its mirror image is in no other split."""
    groups = _groups(world, unseen)
    while True:
        a, b = (_number(groups, draw, through=draw.chance(0.25)) for _ in range(2))
        if a.name != b.name and a.value != b.value:
            low, high = sorted((a, b), key=lambda number: number.name)
            yield (low, high) if Draw(f"order {low.name} {high.name}").chance(0.5) else (high, low)


def _number(groups: dict[str, list[Entity]], draw: Draw, through: bool) -> Number:
    table = THROUGH if through else DIRECT
    kind, path = draw.pick([place for place in table if groups[place[0]]])
    return _number_of(draw.pick(groups[kind]), path, table[kind, path])


def _number_of(entity: Entity, path: str, wording: str) -> Number:
    relations = path.split(".")
    values = follow(entity, relations)
    value: Any = values[-1]
    supporting = tuple(support(each, relation) for each, relation in zip(values, relations, strict=False))
    return Number(
        f"{entity.id}.{path}",
        wording.format(x=entity.mention),
        value if isinstance(value, int) else value.year,
        supporting,
        tuple(each.title for each in values[:-1]),
    )


def _lists(world: World, unseen: bool, draw: Draw) -> Iterator[tuple[Entity, list[int], str]]:
    """Yield everybody with works, the years of these, and what they are."""
    people = [person for person in world.entities["person"] if person.unseen == unseen]
    for person in draw.shuffled([person for person in people if len(person.facts.get("works", ())) > 2]):
        works = person.facts["works"]
        yield person, [work.facts["year"] for work in works], f"{works[0].sort}s"


def _listed(person: Entity) -> Number:
    return Number(f"{person.id}.works", "", 0, (support(person, "works"),), (person.title,))


def _date(date: datetime.date) -> str:
    return f"datetime.date({date.year}, {date.month}, {date.day})"
