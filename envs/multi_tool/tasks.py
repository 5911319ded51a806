"""Generated tasks of three families in one TaskSet: mathematics, questions, and problems that need both tools."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from aster_env.envs.python_math.tasks import generated as generated_math
from aster_env.envs.web_walker.tasks import generated as generated_web
from aster_env.envs.wiki_qa.names import Draw
from aster_env.envs.wiki_qa.questions import KINDS
from aster_env.envs.wiki_qa.tasks import SPLITS, fresh, in_turn, key_digest
from aster_env.envs.wiki_qa.tasks import generated as generated_qa
from aster_env.envs.wiki_qa.world import make_world
from aster_env.errors import UsageError, check_name
from aster_env.tasks import TaskSet
from aster_env.types import Task

from .problems import OPERATIONS, Problem, possible

FAMILIES = ("math", "qa", "both", "web")
ABOUT = ("town", "organisation", "work", "person")
"""Whose years the problems that need both tools ask for."""
MIX: Mapping[str, float] = {"math": 1, "qa": 1, "both": 2}
"""How many tasks of each family there are, as shares of any unit; those of ``"web"`` need the tool ``visit``."""


def generated(
    split: str = "train",
    *,
    size: int = 4096,
    seed: int = 0,
    mix: Mapping[str, float] | None = None,
    level: int = 2,
    kinds: str | Sequence[str] = tuple(KINDS),
    operations: str | Sequence[str] = tuple(OPERATIONS),
    about: str | Sequence[str] = ABOUT,
    world_seed: int = 0,
    passages: int = 20_000,
    site_seed: int = 0,
    pages: int = 300,
) -> TaskSet:
    """Return ``size`` tasks, the families evenly spread; a smaller set is the beginning of a larger one.

    A task's ``metadata`` holds its ``family`` and ``split``, and what its family says of it. Of the family ``"both"``
    these are ``type`` (the operation), ``hops`` (how many searches), ``supporting``, ``titles`` and ``queries`` as in
    ``wiki_qa``, and ``expression``: Python that has the answer as its value. Those of ``"web"`` are ``web_walker``'s.

    Args:
        split: ``"train"``, ``"test"`` (other tasks) or ``"unseen"`` (numbers, and a part of the world, that no other
            split touches; not of the family ``"web"``). No task is in two splits, whatever the seeds.
        size: how many.
        seed: other tasks of the same split.
        mix: the share of each family, of any unit; a family that is left out has none. None: ``MIX``.
        level: of the mathematics, 1 to 5.
        kinds: of the questions, one or several of ``wiki_qa``'s.
        operations: of the problems that need both tools, one or several of ``problems.OPERATIONS``, taken in turn.
        about: whose years these ask for, one or several of ``ABOUT``; ``days``, ``total`` and ``mean`` are of persons.
        world_seed: of the world.
        passages: about how many passages tell the world.
        site_seed: of the generated site.
        pages: about how many pages it has.

    Raises:
        UsageError: an argument is not allowed, or the world is too small for so many tasks.
    """
    check_name("split", split, SPLITS)
    if not isinstance(size, int) or size < 1:
        raise UsageError(f"size={size!r} is not allowed. Allowed: an integer, at least 1.")
    order = _spread(_read_mix(mix), size)
    counts = Counter(order)
    world = {"world_seed": world_seed, "passages": passages}
    makers: dict[str, Callable[[int], TaskSet]] = {
        "math": lambda count: generated_math(split, level=level, size=count, seed=seed),
        "qa": lambda count: generated_qa(split, size=count, seed=seed, kinds=kinds, **world),
        "both": functools.partial(_both, split, seed, operations, about, **world),
        "web": lambda count: generated_web(split, size=count, seed=seed, site_seed=site_seed, pages=pages),
    }
    made = {name: iter(makers[name](count)) for name, count in counts.items()}
    tasks = [_of_family(next(made[name]), name) for name in order]
    return TaskSet(tasks, f"generated-{split}")


def _both(
    split: str,
    seed: int,
    operations: str | Sequence[str],
    about: str | Sequence[str],
    count: int,
    *,
    world_seed: int,
    passages: int,
) -> TaskSet:
    """Return tasks that need both tools."""
    chosen, kinds = _read_names("operations", operations, OPERATIONS), _read_names("about", about, ABOUT)
    if "person" not in kinds and (of_persons := set(chosen) & {"days", "total", "mean"}):
        raise UsageError(f"about={about!r} leaves {', '.join(sorted(of_persons))} nobody. Fix: add 'person'.")
    world = make_world(world_seed, passages)
    world = replace(world, entities={kind: group if kind in kinds else [] for kind, group in world.entities.items()})
    unseen = split == "unseen"
    drawn = [filter(possible, OPERATIONS[name](world, unseen, Draw(f"both {seed} {name}"))) for name in chosen]
    problems = list(islice(in_turn([fresh(source, split) for source in drawn]), count))
    if len(problems) < count:
        raise UsageError(
            f"{count} problems are asked for, but there are {len(problems)} of {', '.join(chosen)} in the split "
            f"{split!r}. Fix: a smaller size, other operations, or a larger world (passages={passages})."
        )
    name = f"{world_seed}:{passages}:"
    return TaskSet([_task(problem, split, name) for problem in problems], f"both-{split}")


def _read_names(argument: str, given: str | Sequence[str], known: Iterable[str]) -> tuple[str, ...]:
    """Return one or several names, each once."""
    names, allowed = (given,) if isinstance(given, str) else tuple(given), tuple(known)
    for name in names:
        check_name(argument, name, allowed)
    if not names or len(set(names)) < len(names):
        raise UsageError(f"{argument}={given!r} is not allowed. Allowed: each of {', '.join(allowed)} once.")
    return names


def _task(problem: Problem, split: str, world: str) -> Task:
    metadata = {
        "type": problem.operation,
        "hops": len(problem.queries),
        "supporting": list(problem.supporting),
        "titles": list(problem.queries),
        "queries": list(problem.queries),
        "expression": problem.expression,
        "split": split,
    }
    name = f"{problem.operation}-{key_digest(world + problem.key)}"
    return Task(name, problem.prompt, (problem.answer,), "math", metadata)


def _of_family(task: Task, family: str) -> Task:
    return replace(task, metadata={"family": family, **task.metadata})


def _spread(shares: Mapping[str, float], size: int) -> list[str]:
    """Return a family for each task: always that which is furthest behind its share."""
    given: Counter[str] = Counter()
    order = []
    for n in range(1, size + 1):
        family = max(shares, key=lambda name: shares[name] * n - given[name])
        given[family] += 1
        order.append(family)
    return order


def _read_mix(mix: Any) -> dict[str, float]:
    """Return the share of each family that has one; they add up to 1."""
    if mix is not None and not isinstance(mix, Mapping):
        raise UsageError(f"mix={mix!r} is a {type(mix).__name__}. Allowed: a mapping of families to shares.")
    chosen = MIX if mix is None else mix
    for name, share in chosen.items():
        check_name("family of tasks", name, FAMILIES)
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < math.inf:
            raise UsageError(f"mix[{name!r}]={share!r} is not allowed. Allowed: a number, 0 or above.")
    if not (whole := sum(chosen.values())):
        raise UsageError(f"mix={mix!r} has no tasks. Allowed: a share above 0 for one of {', '.join(FAMILIES)}.")
    return {name: chosen[name] / whole for name in FAMILIES if chosen.get(name)}


GENERATORS: dict[str, Callable[..., TaskSet]] = {"generated": generated}
"""Generated families of this environment by name."""
