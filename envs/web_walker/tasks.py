"""Questions about generated sites as a TaskSet: seeded, with splits that share no name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from aster_env.errors import UsageError, check_name
from aster_env.tasks import TaskSet
from aster_env.types import Task

from ..wiki_qa.names import Draw
from ..wiki_qa.tasks import in_turn
from .site import Site, build_site
from .site.model import Question
from .site.questions import FAMILIES

VERSION = 1
"""Raise it with any change of the site or its questions: ids of tasks hold it."""


def generated(
    split: str = "train",
    *,
    size: int = 256,
    seed: int = 0,
    families: str | Sequence[str] | None = None,
    site_seed: int = 0,
    pages: int = 300,
) -> TaskSet:
    """Return ``size`` questions about one generated site.

    A task's ``metadata`` holds ``type`` (its family), ``hops`` (pages behind the home page on the golden path),
    ``path`` (the addresses of the golden path, from the home page on; each other page is linked from one before it),
    ``evidence`` (texts on these pages that prove the answer), ``split`` and ``site`` (its ``seed``, ``size`` and
    ``split``).

    Args:
        split: ``"train"`` or ``"test"``: sites of their own, and no name of a place, person or museum in both.
        size: how many. A smaller set is the beginning of a larger one.
        seed: other questions about the same site.
        families: of ``FAMILIES``, one or several, taken in turn, without those that have run out; None: all.
        site_seed: of the site.
        pages: about how many pages the site has.

    Raises:
        UsageError: an argument is not allowed, or the site is too small for so many questions.
    """
    chosen = [families] if isinstance(families, str) else list(FAMILIES if families is None else families)
    for family in chosen:
        check_name("family of questions", family, FAMILIES)
    if not chosen or len(set(chosen)) < len(chosen):
        raise UsageError(f"families={families!r} is not allowed. Allowed: each of {', '.join(FAMILIES)} at most once.")
    for name, value, least in (("size", size, 1), ("seed", seed, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UsageError(f"{name}={value!r} is not allowed. Allowed: an integer, at least {least}.")
    site = build_site(site_seed, pages, split)
    drawn = [Draw(f"questions {seed} {family}").shuffled(site.questions[family]) for family in chosen]
    tasks = [_task(question, site) for question in islice(in_turn([iter(each) for each in drawn]), size)]
    if len(tasks) < size:
        raise UsageError(
            f"size={size}, but the site of {pages} pages answers {len(tasks)} questions of {', '.join(chosen)}. "
            "Fix: a smaller size, other families, or a larger site."
        )
    return TaskSet(tasks, f"generated-{split}")


def _task(question: Question, site: Site) -> Task:
    metadata: dict[str, Any] = {
        "type": question.family,
        "hops": len(question.path) - 1,
        "path": [site.address(path) for path in question.path],
        "evidence": list(question.evidence),
        "split": site.split,
        "site": {"seed": site.seed, "size": site.size, "split": site.split},
    }
    key = f"{VERSION}:{site.seed}:{site.size}:{site.split}:{question.prompt}"
    digest = hashlib.blake2b(key.encode(), digest_size=8).hexdigest()
    return Task(f"{question.family}-{digest}", question.prompt, question.answers, question.kind, metadata)


GENERATORS: dict[str, Callable[..., TaskSet]] = {"generated": generated}
"""Generated families of this environment by name."""
