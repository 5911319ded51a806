"""The generated encyclopedia: one true world, told in passages, asked about in questions with exactly one answer."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aster_env.envs.wiki_qa.encyclopedia import VERSION, generated_corpus, passages
from aster_env.envs.wiki_qa.names import REAL, Draw
from aster_env.envs.wiki_qa.prose import PART, date_forms, joined
from aster_env.envs.wiki_qa.questions import KINDS
from aster_env.envs.wiki_qa.tasks import generated
from aster_env.envs.wiki_qa.world import CREATORS, SCHOOLS, Entity, make_world
from aster_env.errors import UsageError
from aster_env.retrieval import open_retriever
from aster_env.retrieval.cache import build_once, cache_folder
from aster_env.retrieval.corpus import Corpus
from aster_env.rewards.qa import exact_match

SMALL = {"passages": 2_000}
# Of make_world(0, 300): another digest is another encyclopedia, and needs another VERSION.
DIGESTS = {1: "f44f23c8f71d68a6"}


def digest(world):
    text = "\n".join(f"{each.id}\t{each.title}\t{each.text}" for each in passages(world))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def references(value):
    return [each for each in (value if isinstance(value, tuple) else (value,)) if isinstance(each, Entity)]


def triples(world):
    """Every fact as (subject id, relation, object), apart from how the package looks facts up."""
    for group in world.entities.values():
        for entity in group:
            for relation, value in entity.facts.items():
                for each in value if isinstance(value, tuple) else (value,):
                    yield entity.id, relation, each


def test_a_version_names_one_encyclopedia_on_every_machine():
    code = (
        "from tests.envs.test_encyclopedia import digest, make_world;"
        "from aster_env.envs.wiki_qa.tasks import generated;"
        "print(digest(make_world(0, 300)), *[t.id for t in generated('test', size=20, passages=300)])"
    )
    root = Path(__file__).parents[2]
    said = [
        subprocess.run(
            [sys.executable, "-c", code], cwd=root, env={**os.environ, "PYTHONHASHSEED": seed}, check=True,
            capture_output=True, text=True,
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert said[0] == said[1]
    assert said[0].split()[0] == DIGESTS[VERSION]


@settings(max_examples=8, deadline=None)
@given(st.integers())
def test_every_seeds_world_is_consistent(seed):
    world = make_world(seed, 400)
    for person in world.entities["person"]:
        facts = person.facts
        born, died = facts["born_on"], facts["died_on"]
        assert born < died
        assert facts["born_in"].facts["founded"] < born.year
        assert facts.get("friend") is not person
        if spouse := facts.get("spouse"):
            assert spouse.facts["spouse"] is person
            assert spouse is not person
        if school := facts.get("school"):
            assert school.sort in SCHOOLS
            assert school.facts["founded"] < born.year + 18
        works = facts.get("works", ())
        assert bool(works) == (person.sort in CREATORS)
        assert [work.facts["year"] for work in works] == sorted({work.facts["year"] for work in works})
        assert all(work.facts["creator"] is person and born.year < work.facts["year"] <= died.year for work in works)
    for firm in world.entities["organisation"]:
        founder = firm.facts["founder"].facts
        assert founder["born_on"].year + 20 < firm.facts["founded"] < founder["died_on"].year
    for country in world.entities["country"]:
        assert country.facts["capital"].facts["country"] is country
    assert all(
        each.unseen == entity.unseen for entity in world for v in entity.facts.values() for each in references(v)
    )


def test_names_are_unique_and_none_is_a_real_places():
    world = make_world(0)
    titles = [entity.title for entity in world] + [alias for entity in world for alias in entity.aliases]
    assert len({title.lower() for title in titles}) == len(titles)
    assert not {title.lower() for title in titles} & REAL
    shared = [each for each in world if each.title != each.name]
    assert shared
    for name in {each.name for each in shared}:
        people = [each for each in world if each.name == name]
        assert len(people) == len({each.sort for each in people}) == 2


def test_the_default_world_has_about_20_000_passages_with_ids_of_their_own():
    found = list(passages(make_world()))
    assert 19_000 < len(found) < 21_000
    assert len({each.id for each in found}) == len(found)
    assert max(len(each.text.split()) for each in found) <= 60
    assert not [each for each in found if re.search(r"[{}]|  |\.\.|None|^[a-z]", each.text)]


def test_every_fact_stands_in_the_passage_that_supports_it():
    world = make_world(1, 2_000)
    told = {each.id: f"{each.title} {each.text}" for each in passages(world)}
    unsaid = 0
    for subject, relation, value in triples(world):
        text = told[f"{subject}-{PART.get(relation, 0)}"]
        if isinstance(value, Entity):
            forms = [value.name]
        elif isinstance(value, datetime.date):
            forms = [str(value.year)] if relation == "died_on" else date_forms(value)
        else:
            forms = [str(value)]
        said = any(form in text for form in forms)
        assert said or relation == "friend"
        unsaid += not said
    assert unsaid < 0.1 * len(told)


def test_a_redirect_alone_says_what_an_alias_stands_for():
    world = make_world(0, 2_000)
    told = list(passages(world))
    by_id = {each.id: each for each in told}
    aliased = [entity for entity in world if entity.aliases]
    assert {entity.kind for entity in aliased} == {"person", "town", "organisation"}
    for entity in aliased:
        redirect = by_id[f"{entity.id}-a"]
        assert redirect.title == entity.aliases[0]
        assert entity.mention in redirect.text
        assert not [each for each in told if entity.aliases[0] in each.text and each is not redirect]


def mentioned(world, prompt):
    """The entities that a prompt names, the longest names first, each stretch of text once, in the prompt's order."""
    named = {}
    for entity in world:
        for name in (entity.name, *entity.aliases):
            named.setdefault(name, []).append(entity)
    found = []
    left = prompt
    for name in sorted((name for name in named if name in prompt), key=len, reverse=True):
        match = re.search(rf"(the (\w+) )?(?<!\w){re.escape(name)}(?!\w)", left)
        if match:
            those = [each for each in named[name] if len(named[name]) == 1 or each.sort == match[2]]
            found.append((prompt.index(name), those))
            left = left.replace(name, "#" * len(name))
    return [those for _, those in sorted(found, key=lambda each: each[0])]


def lookup(facts, subjects, relation):
    return {value for subject in subjects for value in facts.get((subject.id, relation), ())}


def true_answers(facts, task, entities):
    """All answers that are true in the world, from the prompt's names and the relation asked for."""
    path = task.metadata["relation"].removeprefix("alias.").split(".")
    start, rest = entities[0], entities[1:]
    if path[0] == "first":
        (a,), (b,) = start, rest[0]
        years = [next(iter(lookup(facts, [each], path[1]))) for each in (a, b)]
        return {min((a, b), key=lambda each: years[(a, b).index(each)])} if years[0] != years[1] else set()
    if path[0] == "same":
        values = [lookup(facts, those, path[1]) for those in (start, rest[0])]
        return {"yes" if values[0] & values[1] else "no"}
    if path[0] == "count":
        for relation in path[1:-1]:
            start = lookup(facts, start, relation)
        works = [work for work in lookup(facts, start, "works") if work]
        if path[-1] == "works_before":
            year = int(re.search(r"before (\d+)", task.prompt)[1])
            return {len([work for work in works if min(lookup(facts, [work], "year")) < year])}
        if path[-1] == "works_set":
            return {len([work for work in works if rest[0][0] in lookup(facts, [work], "setting")])}
        return {len(lookup(facts, start, path[-1]))}
    for relation in path:
        start = lookup(facts, start, relation)
    return start


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("split", ["train", "test", "unseen"])
def test_every_question_has_exactly_one_true_answer_in_the_world(kind, split):
    world = make_world(0, 2_000)
    facts = {}
    for subject, relation, value in triples(world):
        facts.setdefault((subject, relation), []).append(value)
    told = {each.id: each for each in passages(world)}
    for task in generated(split, kinds=kind, size=70, **SMALL):
        entities = mentioned(world, task.prompt)
        assert all(len(those) == 1 for those in entities), task
        answers = true_answers(facts, task, entities)
        assert len(answers) == 1, task
        answer = answers.pop()
        said = {answer.name, *answer.aliases} if isinstance(answer, Entity) else {str(answer)}
        if isinstance(answer, datetime.date):
            said = set(date_forms(answer))
        assert said & set(task.answers[:1]), task
        support, titles = ([*task.metadata[name]] for name in ("supporting", "titles"))
        assert [told[each].title for each in support] == titles == task.metadata["queries"]
        if kind in ("single", "bridge"):
            assert any(form in told[support[-1]].text for form in task.answers), task
            assert not any(form in task.prompt for form in task.answers), task


def test_no_question_is_in_two_splits_whatever_the_seeds():
    asked = {
        split: {task.prompt for seed in (0, 1) for task in generated(split, size=1_000, seed=seed, **SMALL)}
        for split in ("train", "test", "unseen")
    }
    assert not asked["train"] & asked["test"]
    assert not (asked["train"] | asked["test"]) & asked["unseen"]
    assert len(asked["train"]) > 1_500


def test_the_unseen_split_is_about_entities_that_no_other_question_touches():
    world = make_world(0, 2_000)
    touched = {}
    for split in ("train", "test", "unseen"):
        tasks = generated(split, size=800, **SMALL)
        touched[split] = {name.split("-")[0] for task in tasks for name in task.metadata["supporting"]}
        touched[split] |= {e.id for task in tasks for those in mentioned(world, task.prompt) for e in those}
        ids = {entity.name: entity.id for entity in world if entity.title == entity.name}
        touched[split] |= {ids[task.answers[0]] for task in tasks if task.answers[0] in ids}
    assert not touched["unseen"] & (touched["train"] | touched["test"])


def test_a_smaller_set_begins_a_larger_one_and_other_seeds_ask_other_questions():
    large = [task.id for task in generated(size=400, **SMALL)]
    assert [task.id for task in generated(size=37, **SMALL)] == large[:37]
    other = {task.id for task in generated(size=400, seed=1, **SMALL)}
    assert len(other & set(large)) < 200
    assert len({task.prompt for task in generated(size=400, **SMALL)}) == 400


def test_all_kinds_take_turns_and_one_that_runs_out_is_left_out():
    tasks = generated("test", size=2_000, **SMALL)
    assert [task.metadata["type"] for task in tasks[:8]] == [*KINDS, *KINDS]
    counts = Counter(task.metadata["type"] for task in tasks)
    assert counts["counting"] < 500 < counts["comparison"]


def test_single_questions_are_short():
    tasks = generated(kinds="single", size=4_096)
    assert max(len(task.prompt.split()) for task in tasks) <= 20
    assert all(task.metadata["hops"] == len(task.metadata["queries"]) == 1 for task in tasks)


def test_gold_scores_1_and_who_does_not_search_scores_near_0():
    common = Counter(task.answers[0] for task in generated("train", size=4_096)).most_common(1)[0][0]
    tasks = generated("test", size=2_000)
    assert all(exact_match(task.answers, answer) == 1 for task in tasks for answer in task.answers)
    assert sum(exact_match(task.answers, common) for task in tasks) < 0.08 * len(tasks)
    order = Draw("guess").shuffled([task.answers[0] for task in tasks])
    assert sum(exact_match(task.answers, guess) for task, guess in zip(tasks, order, strict=True)) < 0.05 * len(tasks)
    limits = {"single": 0.01, "bridge": 0.03, "comparison": 0.2, "counting": 0.25}
    for kind, limit in limits.items():
        answers = Counter(task.answers[0] for task in tasks if task.metadata["type"] == kind)
        assert answers.most_common(1)[0][1] < limit * answers.total(), kind


def test_the_first_name_of_a_comparison_is_right_half_of_the_time():
    tasks = [task for task in generated(kinds="comparison", size=1_500) if task.metadata["relation"][:5] == "first"]
    # For namesakes the title has an occupation in brackets, which the answer has not.
    first = sum(task.metadata["queries"][0].split(" (")[0] == task.answers[0] for task in tasks)
    assert 0.45 < first / len(tasks) < 0.55


@pytest.mark.parametrize(
    ("options", "wrong", "fix"),
    [
        ({"split": "dev"}, "'dev'", "'unseen'"),
        ({"kinds": "double"}, "'double'", "'single'"),
        ({"kinds": ()}, "()", "single"),
        ({"kinds": ("single", "single")}, "'single', 'single'", "at most once"),
        ({"size": 0}, "0", "at least 1"),
        ({"size": 2.5}, "2.5", "integer"),
        ({"seed": "a"}, "'a'", "integer"),
        ({"world_seed": 0.5}, "0.5", "integer"),
        ({"passages": 10}, "10", "300"),
        ({"size": 10_000, "kinds": "counting", "passages": 300}, "10000", "larger world"),
    ],
)
def test_a_wrong_argument_is_named_with_the_fix(options, wrong, fix):
    with pytest.raises(UsageError) as caught:
        generated(**options)
    assert wrong in str(caught.value)
    assert fix in str(caught.value)


@given(st.dates(datetime.date(1500, 1, 1)))
def test_every_form_of_a_date_is_that_date(date):
    long, american, iso = date_forms(date)
    assert datetime.datetime.strptime(long, "%d %B %Y").date() == date
    assert datetime.datetime.strptime(american, "%B %d, %Y").date() == date
    assert datetime.date.fromisoformat(iso) == date


@given(st.lists(st.text("ab", min_size=1), min_size=1))
def test_a_list_in_words_holds_every_item(items):
    assert re.split(", | and ", joined(items)) == items


def test_searching_for_the_titles_finds_what_proves_the_answers(tmp_path):
    make_world.cache_clear()
    started = time.monotonic()
    folder = generated_corpus(folder=tmp_path / "corpus")
    assert time.monotonic() - started < 60

    async def measure():
        retriever = open_retriever("lexical", corpus=str(folder))
        recall, asked = {}, 0
        for kind in KINDS:
            tasks = generated("test", kinds=kind, size=200)
            found = wanted = 0
            for task in tasks:
                hits = await retriever.search([*task.metadata["queries"], task.prompt], 5)
                ids = {each.id for those in hits[:-1] for each in those}
                found += len(ids & set(task.metadata["supporting"]))
                wanted += len(set(task.metadata["supporting"]))
                asked += task.metadata["supporting"][0] in {each.id for each in hits[-1]}
            recall[kind] = found / wanted
        await retriever.close()
        return recall, asked / (200 * len(KINDS))

    recall, asked = asyncio.run(measure())
    assert min(recall.values()) >= 0.95, recall
    assert asked > 0.9


def test_several_processes_may_build_the_corpus_at_once(tmp_path):
    code = "from aster_env.envs.wiki_qa.encyclopedia import generated_corpus; print(generated_corpus(3, 600))"
    environment = {**os.environ, "ASTER_CACHE": str(tmp_path / "cache")}
    builders = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    said = {builder.communicate(timeout=120)[0].strip() for builder in builders}
    assert [builder.returncode for builder in builders] == [0, 0, 0]
    (folder,) = said
    assert [each.name for each in (tmp_path / "cache" / "corpora").iterdir()] == [Path(folder).name]
    corpus = Corpus(folder)
    corpus.verify()
    assert corpus.info.licence == "CC0-1.0"
    assert list(corpus) == list(passages(make_world(3, 600)))


def test_who_loses_the_race_uses_the_winners_result(tmp_path):
    def build(staging):
        (tmp_path / "made").mkdir()
        (tmp_path / "made" / "winner").touch()
        staging.mkdir()
        (staging / "loser").touch()

    folder = build_once(tmp_path / "made", build)
    assert [each.name for each in folder.iterdir()] == ["winner"]
    assert list(tmp_path.iterdir()) == [folder]


def test_a_failed_build_leaves_nothing_behind(tmp_path):
    def build(staging):
        staging.mkdir()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        build_once(tmp_path / "made", build)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_another_corpus_is_refused_and_an_empty_one_is_filled(tmp_path):
    folder = generated_corpus(0, 300, tmp_path)
    assert Corpus(folder).info.name == "generated encyclopedia (seed 0, 300 passages)"
    assert generated_corpus(0, 300, tmp_path) == folder
    with pytest.raises(UsageError, match="another folder"):
        generated_corpus(1, 300, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="ASTER_CACHE"):
        generated_corpus(0, 300, tmp_path / "file" / "below")


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ASTER_CACHE", "")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "aster"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_folder() == tmp_path / "x" / "aster"
    monkeypatch.setenv("ASTER_CACHE", "~/own")
    assert cache_folder() == tmp_path / "own"
