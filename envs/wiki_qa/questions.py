"""Questions about the generated world, with what is known of them: answers, supporting passages, ideal searches."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .names import Draw
from .prose import CHAINS, FIRST, MAKERS, NUMBERS, PART, SAME, VERBS, date_forms
from .world import Entity, World


@dataclass(frozen=True, slots=True)
class Question:
    """A question and what is known of it.

    Args:
        kind: ``single``, ``bridge``, ``comparison`` or ``counting``.
        relation: what is asked, ``"creator.born_in"``; after ``alias.``, ``first.``, ``same.`` or ``count.``.
        key: the same for every wording.
        prompt: as a person would ask it.
        answers: the true answer and other ways to say it.
        supporting: ids of the passages that prove the answer, in the order of reasoning.
        queries: what a perfect searcher sends, in order: the titles of the supporting passages.
        hops: how many searches build on each other.
    """

    kind: str
    relation: str
    key: str
    prompt: str
    answers: tuple[str, ...]
    supporting: tuple[str, ...]
    queries: tuple[str, ...]
    hops: int = 1


def answers_of(value: Any) -> tuple[str, ...]:
    """Return the ways to say a fact's value, the usual one first."""
    if isinstance(value, Entity):
        titled = () if value.title == value.name else (value.title,)
        return (value.name, *titled, *value.aliases)
    if isinstance(value, datetime.date):
        return date_forms(value)
    return (str(value),)


def support(entity: Entity, relation: str) -> str:
    """Return the id of the passage that states this fact of an entity."""
    return f"{entity.id}-{PART.get(relation, 0)}"


def single(world: World, unseen: bool, draw: Draw) -> Iterator[Question]:
    """Yield every question that one passage answers, in an order of ``draw``."""
    for entity, path in _starts(world, unseen, draw, lambda path: "." not in path):
        yield _chain("single", entity, path, "")


def bridge(world: World, unseen: bool, draw: Draw) -> Iterator[Question]:
    """Yield every question whose answer needs two or three articles one after the other, in an order of ``draw``."""
    starts = _starts(world, unseen, draw, lambda path: "." in path)
    aliased = _starts(world, unseen, draw, lambda path: "." not in path, aliased=True)
    # One of eight asks for somebody or something by an alias, while there are such.
    for n, (entity, path) in enumerate(starts):
        if n % 8 == 7 and aliased:
            renamed, relation = aliased.pop()
            yield _chain("bridge", renamed, relation, renamed.aliases[0])
        yield _chain("bridge", entity, path, "")


def _starts(
    world: World, unseen: bool, draw: Draw, wanted: Callable[[str], bool], aliased: bool = False
) -> list[tuple[Entity, str]]:
    """Return the entities and the paths that lead from them to a value."""
    paths = {kind: [(path, path.split(".")) for path in chains if wanted(path)] for kind, chains in CHAINS.items()}
    found = []
    for entity in world:
        if entity.unseen == unseen and (entity.aliases or not aliased):
            found += [(entity, path) for path, relations in paths[entity.kind] if follow(entity, relations)]
    return draw.shuffled(found)


def follow(entity: Entity, relations: Sequence[str]) -> list[Any]:
    """Return what stands at each step of a path; an empty list if the path breaks off or comes back."""
    values: list[Any] = [entity]
    for relation in relations:
        value = values[-1].facts.get(relation)
        if value is None or value in values:
            return []
        values.append(value)
    return values


def _chain(kind: str, entity: Entity, path: str, alias: str) -> Question:
    relations = path.split(".")
    values = follow(entity, relations)
    name = f"alias.{path}" if alias else path
    key = f"{kind}:{name}:{entity.id}"
    words = {"x": alias or entity.mention, "mate": "husband" if entity.she else "wife"}
    if entity.kind == "work":
        words |= {"did": VERBS[entity.sort][0], "maker": MAKERS[entity.sort]}
    prompt = Draw(key).pick(CHAINS[entity.kind][path]).format(**words)
    supporting = tuple(support(each, relation) for each, relation in zip(values, relations, strict=False))
    queries = tuple(each.title for each in values[:-1])
    if alias:
        supporting, queries = (f"{entity.id}-a", *supporting), (alias, *queries)
    return Question(kind, name, key, prompt, answers_of(values[-1]), supporting, queries, len(queries))


def comparison(world: World, unseen: bool, draw: Draw) -> Iterator[Question]:
    """Yield questions about two entities without end; three of four are answered by a name, the others by yes or no."""
    groups = {kind: [each for each in group if each.unseen == unseen] for kind, group in world.entities.items()}
    firsts, sames = ([pair for pair in table if len(groups[pair[0]]) > 1] for table in (FIRST, SAME))
    alike: dict[tuple[str, str, Any], list[Entity]] = {}
    for kind, relation in sames:
        for each in groups[kind]:
            alike.setdefault((kind, relation, each.facts[relation]), []).append(each)
    for each in world:
        if each.unseen == unseen:
            alike.setdefault((each.kind, "sort", each.sort if each.kind == "work" else ""), []).append(each)
    while True:
        if draw.chance(0.75):
            kind, relation = draw.pick(firsts)
            a = draw.pick(groups[kind])
            # Works are compared with works of their sort.
            b = draw.pick(alike[kind, "sort", a.sort if kind == "work" else ""])
            question = _first(a, b, relation)
        else:
            kind, relation = draw.pick(sames)
            a = draw.pick(groups[kind])
            others = alike[kind, relation, a.facts[relation]] if draw.chance(0.5) else groups[kind]
            question = _same(a, draw.pick(others), relation)
        if question:
            yield question


def _pair(a: Entity, b: Entity, name: str, wordings: Sequence[str], answers: tuple[str, ...]) -> Question:
    relation = name.split(".")[1]
    low, high = sorted((a, b), key=lambda each: int(each.id[1:]))
    key = f"comparison:{name}:{low.id}:{high.id}"
    draw = Draw(key)
    a, b = (low, high) if draw.chance(0.5) else (high, low)
    prompt = draw.pick(wordings).format(a=a.mention, b=b.mention)
    supporting = (support(a, relation), support(b, relation))
    return Question("comparison", name, key, prompt, answers, supporting, (a.title, b.title))


def _first(a: Entity, b: Entity, relation: str) -> Question | None:
    years = [each.facts[relation].year if a.kind == "person" else each.facts[relation] for each in (a, b)]
    # People of one name could not be told apart by an answer.
    if years[0] == years[1] or a.name == b.name:
        return None
    answer = a if years[0] < years[1] else b
    return _pair(a, b, f"first.{relation}", FIRST[a.kind, relation], answers_of(answer))


def _same(a: Entity, b: Entity, relation: str) -> Question | None:
    if a is b:
        return None
    answer = "yes" if a.facts[relation] == b.facts[relation] else "no"
    return _pair(a, b, f"same.{relation}", SAME[a.kind, relation], (answer,))


def counting(world: World, unseen: bool, draw: Draw) -> Iterator[Question]:
    """Yield questions how many there are: children, works, works before a year or set in a town, a maker's children."""
    people = [person for person in draw.shuffled(world.entities["person"]) if person.unseen == unseen]
    makers = [person for person in people if person.facts.get("works")]
    made = [each for each in draw.shuffled(world.entities["work"]) if each.unseen == unseen]
    made += [each for each in draw.shuffled(world.entities["organisation"]) if each.unseen == unseen]
    for n in range(max(len(people), len(made))):
        if n < len(makers):
            yield _count_works(makers[n])
            yield _count_before(makers[n - len(makers) // 3])
            if len((maker := makers[n - len(makers) // 2]).facts["works"]) <= 4:
                yield _count_set(maker)
        if n < len(people) and (children := people[n].facts["children"]):
            yield _count(people[n], "children", "", "How many children did {x} have?", len(children))
        if n < len(made) and (question := _count_through(made[n])):
            yield question


def _count(person: Entity, relation: str, detail: str, wording: str, number: int) -> Question:
    key = f"counting:{relation}:{person.id}:{detail}"
    words = {"x": person.mention, "detail": detail}
    if works := person.facts.get("works"):
        did, made = VERBS[works[0].sort]
        words |= {"sorts": f"{works[0].sort}s", "do": {"wrote": "write"}.get(did, made[:-1]), "made": made}
    supporting = (support(person, relation.split("_")[0]),)
    answers = (str(number), NUMBERS[number])
    return Question("counting", f"count.{relation}", key, wording.format(**words), answers, supporting, (person.title,))


def _count_works(person: Entity) -> Question:
    wordings = ("How many {sorts} did {x} {do}?", "How many {sorts} were {made} by {x}?")
    wording = Draw(f"works {person.id}").pick(wordings)
    return _count(person, "works", "", wording, len(person.facts["works"]))


def _count_before(person: Entity) -> Question:
    years = [work.facts["year"] for work in person.facts["works"]]
    year = Draw(f"before {person.id}").pick(years[1:])
    number = sum(each < year for each in years)
    return _count(person, "works_before", str(year), "How many {sorts} by {x} came out before {detail}?", number)


def _count_set(person: Entity) -> Question:
    works = person.facts["works"]
    town = Draw(f"set {person.id}").pick(works).facts["setting"]
    number = sum(work.facts["setting"] is town for work in works)
    asked = _count(person, "works_set", town.name, "How many {sorts} by {x} are set in {detail}?", number)
    supporting = (*asked.supporting, *(support(work, "setting") for work in works))
    queries = (*asked.queries, *(work.title for work in works))
    return Question(asked.kind, asked.relation, asked.key, asked.prompt, asked.answers, supporting, queries, 2)


def _count_through(made: Entity) -> Question | None:
    """Ask for the children of who made a work or founded an organisation."""
    relation = "creator" if made.kind == "work" else "founder"
    person: Entity = made.facts[relation]
    if not (number := len(person.facts["children"])):
        return None
    maker = MAKERS.get(made.sort, relation)
    asked = _count(person, "children", made.id, f"How many children did the {maker} of {made.name} have?", number)
    supporting, queries = (support(made, relation), *asked.supporting), (made.title, *asked.queries)
    name = f"count.{relation}.children"
    return Question(asked.kind, name, asked.key, asked.prompt, asked.answers, supporting, queries, 2)


KINDS = {"single": single, "bridge": bridge, "comparison": comparison, "counting": counting}
"""Kinds of questions by name: ``kind(world, unseen, draw)`` yields them."""
