"""The lesson of ``make demo-search``: questions about a fictional world, answered by searching its encyclopedia."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aster_env.dialects import Dialect
from aster_env.env import ToolEnv
from aster_env.envs.wiki_qa.encyclopedia import generated_corpus, passages
from aster_env.envs.wiki_qa.env import WORLD
from aster_env.envs.wiki_qa.tasks import generated
from aster_env.envs.wiki_qa.world import make_world
from aster_env.retrieval import Passage, Retriever, open_retriever
from aster_env.types import Message, Task
from aster_train.examples import IGNORED
from aster_train.tiny.controls import ElsewhereRetriever, EmptyRetriever
from aster_train.tiny.expert import Expert
from aster_train.tiny.lesson import Lesson, Row, alike, around, make_row
from aster_train.tiny.searcher import CLEAN, MIXTURE, Searcher
from aster_train.tiny.tokenizer import make_tokenizer

KINDS = ("single",)
WORLDS, WORLD_SIZE = range(1, 13), 2000
"""The worlds of the synthetic rows; the task's own is another, so that only reading, not remembering, helps there."""
SHOWN = 2
"""Passages of a search, as ``top_n`` of the configuration has it."""
FRAME = ("user\n", "assistant", '\n{"name": "search", "arguments": {"query": "', '"}}\n', "\\boxed{")
"""What surrounds questions, searches and answers."""
PIECES = (r"\d{1,2}", r"\p{Lu}\p{Ll}*", r" ?\p{Ll}+")
"""Pairs of digits; a name without the space before it, so that it is the same tokens wherever it stands, and can be
copied; other words with it."""

Ask = Callable[[int], list[Task]]
"""Returns tasks about the world of a seed."""


def make_search_tokenizer(texts: Iterable[str], frame: tuple[str, ...] = FRAME) -> Any:
    """Return a tokenizer that writes a name as the same few tokens everywhere."""
    # Each of the frame's pieces is a single token, however many more names the texts hold.
    return make_tokenizer([*texts, *frame * 3000], 1024, "|".join([*map(re.escape, frame), *PIECES]))


def ask_single(seed: int) -> list[Task]:
    """Return a world's questions.

    Of both its parts: the unseen part of any world has names of a language that its other part lacks.
    """
    asked = functools.partial(generated, kinds=KINDS, world_seed=seed, passages=WORLD_SIZE)
    return [*asked("train", size=2400), *asked("unseen", size=600)]


@functools.cache
def other_world(seed: int, ask: Ask) -> tuple[list[Task], dict[str, Passage], dict[str, list[Passage]]]:
    """Return what is asked about a world, its passages by id, and by title."""
    found = {passage.id: passage for passage in passages(make_world(seed, WORLD_SIZE))}
    titled: dict[str, list[Passage]] = {}
    for passage in found.values():
        titled.setdefault(passage.title, []).append(passage)
    return ask(seed), found, titled


def query_rows(dialect: Dialect, rng: np.random.Generator) -> Iterator[Row]:
    """Yield rows in which the name in a question is copied into a search for it."""
    writer, encode = Searcher(dialect, ()), dialect.tokenizer.encode
    asked = around(lambda text: dialect.prompt([Message("user", text)], {}))
    while True:
        task, _ = draw(rng, 1)
        yield make_row(encode(asked(task.prompt)), encode(writer.call(task.metadata["queries"][0])))


def reading_rows(dialect: Dialect, rng: np.random.Generator) -> Iterator[Row]:
    """Yield rows of whole episodes in which each search finds just the passage that was wanted."""
    return alike(_episodes(dialect, rng, 1), rng, 64)


def answer_rows(dialect: Dialect, rng: np.random.Generator) -> Iterator[Row]:
    """Yield rows of whole episodes in which each search finds ``SHOWN`` passages, the wanted one at any place."""
    return alike(_episodes(dialect, rng, SHOWN), rng, 32)


def _episodes(dialect: Dialect, rng: np.random.Generator, shown: int) -> Iterator[Row]:
    """Yield rows of whole episodes: every search, what it finds, and the answer, copied from there."""
    writer, encode = Searcher(dialect, ()), dialect.tokenizer.encode
    asked = around(lambda text: dialect.prompt([Message("user", text)], {}))
    observed = around(dialect.observation)
    while True:
        task, results = draw(rng, shown)
        ids = encode(asked(task.prompt))
        labels = [IGNORED] * len(ids)
        value = next(answer for answer in task.answers if answer in results[-1])
        for query, result in zip(task.metadata["queries"], results, strict=True):
            call, seen = make_row([], encode(writer.call(query))), encode(observed(result))
            ids += call["input_ids"] + seen
            labels += call["labels"] + [IGNORED] * len(seen)
        last = make_row([], encode(writer.answer(value)))
        yield {"input_ids": ids + last["input_ids"], "labels": labels + last["labels"]}


def draw(rng: np.random.Generator, shown: int, ask: Ask = ask_single) -> tuple[Task, list[str]]:
    """Return a question of another world, and the results of its ideal searches: ``shown`` passages each."""
    tasks, found, titled = other_world(WORLDS[int(rng.integers(len(WORLDS)))], ask)
    task = tasks[int(rng.integers(len(tasks)))]
    results = []
    for name in task.metadata["supporting"]:
        passage = found[name]
        others = [each for each in titled[passage.title] if each.id != name]
        listed = [passage, *others][:shown]
        while len(listed) < shown:
            listed.append(found[tasks[int(rng.integers(len(tasks)))].metadata["supporting"][0]])
        order = rng.permutation(shown)
        results.append("\n\n".join(f"[{n}] {listed[i].title}\n{listed[i].text}" for n, i in enumerate(order, 1)))
    return task, results


def texts(ask: Ask = ask_single) -> Iterator[str]:
    """Yield what is asked about three worlds, and their passages."""
    for seed in WORLDS[:3]:
        tasks, found, _ = other_world(seed, ask)
        yield from (task.prompt for task in tasks)
        yield from (f"[1] {passage.title}\n{passage.text}\n\n" for passage in found.values())


def _expert(env: ToolEnv, shares: Mapping[str, float], seed: int) -> Expert:
    return Expert(env.tokenizer, shares, seed, Searcher(env.dialect, env.tasks))


def find_controls(env_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the controls of what searches find; see ``Lesson``."""
    world = {**WORLD, **env_kwargs.get("world", {})}

    def elsewhere() -> Retriever:
        asked = generated("train", kinds=KINDS, size=512, world_seed=world["seed"], passages=world["passages"])
        titles = [task.metadata["queries"][0] for task in asked]
        return ElsewhereRetriever(open_retriever("lexical", corpus=str(generated_corpus(**world))), titles)

    return {
        "searches find nothing": lambda: {"retriever": EmptyRetriever()},
        "searches find other passages": lambda: {"retriever": elsewhere()},
    }


LESSON = Lesson(
    title="Demo of search",
    asked="questions",
    config=Path(__file__).parents[1] / "configs" / "tiny_wiki.yaml",
    splits={"test": "other questions", "unseen": "unseen entities"},
    held_out="unseen",
    expert=_expert,
    clean=CLEAN,
    mixture=MIXTURE,
    tokenizer=make_search_tokenizer,
    texts=texts,
    rows={"queries": query_rows, "reading": reading_rows, "answers": answer_rows},
    read={"queries": (300, 64), "reading": (450, 64), "answers": (150, 32)},
    episodes=(600, 1200),
    rounds=((120, 2e-3), (100, 1.5e-3)),
    batch=24,
    mixture_steps=80,
    mixture_rows=400,
    solved_well=0.9,
    controls=find_controls,
)
"""Search in ``ASTER/WikiQA-v0``."""
