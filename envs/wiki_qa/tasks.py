"""Generated questions as a TaskSet: seeded, with splits that share no question."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Protocol, TypeVar

from aster_env.errors import UsageError, check_name
from aster_env.tasks import TaskSet
from aster_env.types import Task

from .encyclopedia import VERSION
from .names import Draw
from .questions import KINDS, Question
from .world import World, make_world

SPLITS = ("train", "test", "unseen")
ENOUGH = 1000
"""After so many draws in a row without a new question, there are none left."""


class Keyed(Protocol):
    """What has a key that is the same for every wording."""

    @property
    def key(self) -> str: ...  # noqa: D102


T = TypeVar("T")
Item = TypeVar("Item", bound=Keyed)


def generated(
    split: str = "train",
    *,
    size: int = 4096,
    seed: int = 0,
    kinds: str | Sequence[str] = ("single", "bridge", "comparison", "counting"),
    world_seed: int = 0,
    passages: int = 20_000,
) -> TaskSet:
    """Return ``size`` questions about the generated encyclopedia.

    A task's ``metadata`` holds ``type`` (its kind), ``relation`` (what is asked for: ``"creator.born_in"``), ``hops``,
    ``split``, ``supporting`` (ids of the passages that prove the answer), ``titles`` (of their articles) and
    ``queries`` (what a perfect searcher sends, in order).

    Args:
        split: ``"train"``, ``"test"`` (other questions about the same world) or ``"unseen"`` (about a part of the
            world that no other question touches). No question is in two splits, whatever the seeds.
        size: how many. A smaller set is the beginning of a larger one.
        seed: other questions of the same split, in another order.
        kinds: one kind or several, taken in turn, without those that have run out: ``"single"`` (one passage answers),
            ``"bridge"`` (two or three articles, one leads to the next), ``"comparison"`` (of two), ``"counting"``.
        world_seed: of the world.
        passages: about how many passages tell the world.

    Raises:
        UsageError: an argument is not allowed, or the world is too small for so many questions.
    """
    check_name("split", split, SPLITS)
    if not isinstance(kinds, str | Sequence):
        raise UsageError(f"kinds={kinds!r} is not allowed. Allowed: {', '.join(KINDS)}, one or several.")
    chosen = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    for kind in chosen:
        check_name("kind of question", kind, KINDS)
    if not chosen or len(set(chosen)) < len(chosen):
        raise UsageError(f"kinds={kinds!r} is not allowed. Allowed: each of {', '.join(KINDS)} at most once.")
    if not isinstance(size, int) or size < 1:
        raise UsageError(f"size={size!r} is not allowed. Allowed: an integer, at least 1.")
    if not isinstance(seed, int):
        raise UsageError(f"seed={seed!r} is not allowed. Allowed: an integer.")
    world = make_world(world_seed, passages)
    unseen, begun = split == "unseen", f"questions {seed}"
    sources = [fresh(KINDS[kind](world, unseen, Draw(f"{begun} {kind}")), split) for kind in chosen]
    tasks = list(islice(in_turn(sources), size))
    if len(tasks) < size:
        raise UsageError(
            f"size={size}, but there are {len(tasks)} questions of {', '.join(chosen)} in the split {split!r}. "
            f"Fix: a smaller size, other kinds, or a larger world (passages={passages})."
        )
    return TaskSet([_task(question, world, split) for question in tasks], f"generated-{split}")


def split_of(key: str) -> str:
    """Assign a question of the seen part, whatever its wording, to train (7 of 8) or test by a hash."""
    return "test" if _digest(key)[0] % 8 == 0 else "train"


def fresh(questions: Iterator[Item], split: str) -> Iterator[Item]:
    """Yield the different questions of a split, until none comes any more.

    Args:
        questions: of the split's part of the world, repeated or without end.
        split: ``"train"``, ``"test"`` or ``"unseen"``.
    """
    seen: set[str] = set()
    idle = 0
    for question in questions:
        mine = split == "unseen" or split_of(question.key) == split
        if mine and question.key not in seen:
            seen.add(question.key)
            yield question
            idle = 0
        elif (idle := idle + 1) > ENOUGH:
            return


def in_turn(sources: Sequence[Iterator[T]]) -> Iterator[T]:
    """Yield one of each source in turn; a source that ends is left out."""
    while sources:
        left = []
        for source in sources:
            if (question := next(source, None)) is not None:
                left.append(source)
                yield question
        sources = left


def _task(question: Question, world: World, split: str) -> Task:
    metadata = {
        "hops": question.hops,
        "type": question.kind,
        "relation": question.relation,
        "supporting": list(question.supporting),
        "titles": list(question.queries),
        "queries": list(question.queries),
        "split": split,
    }
    world_name = f"{VERSION}:{world.seed}:{world.passages}:"
    name = f"{question.kind}-{key_digest(world_name + question.key)}"
    return Task(name, question.prompt, question.answers, "qa", metadata)


def key_digest(key: str) -> str:
    """Return what stands for a question's key in its task's id."""
    return _digest(key).hex()


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


GENERATORS: dict[str, Callable[..., TaskSet]] = {"generated": generated}
"""Generated families of this environment by name."""
