"""The lesson of search: what its rows, its tokenizer, its expert and its controls are said to be."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections import Counter

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from aster_env.dialects import make_dialect
from aster_env.envs.wiki_qa.encyclopedia import generated_corpus
from aster_env.envs.wiki_qa.env import WORLD
from aster_env.envs.wiki_qa.tasks import generated
from aster_env.retrieval import open_retriever
from aster_env.rollout import RolloutRunner
from aster_env.tokenizers import as_tokenizer
from aster_env.types import StopReason
from aster_train.examples import IGNORED
from aster_train.tiny import arithmetic, search
from aster_train.tiny.controls import ElsewhereRetriever, EmptyRetriever
from aster_train.tiny.report import markdown, picture
from aster_train.tiny.searcher import MIXTURE, Searcher

PASSAGES = 1000
CONFIG = yaml.safe_load(search.LESSON.config.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tokenizer():
    return search.make_search_tokenizer(itertools.islice(search.texts(), 3000))


@pytest.fixture(scope="module")
def dialect(tokenizer):
    return make_dialect("hermes", as_tokenizer(tokenizer))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASTER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield str(generated_corpus(0, PASSAGES))


@pytest.fixture(scope="module")
def play(tokenizer, corpus):
    """Return what plays the expert in the demo's environment, in a small world."""

    def play(shares, count, **changed):
        kwargs = {**CONFIG["env_kwargs"], "world": {"seed": 0, "passages": PASSAGES}}
        kwargs["task_options"] = {**kwargs["task_options"], "size": count}
        kwargs |= changed
        with RolloutRunner(CONFIG["env"], max_concurrent=8, env_kwargs={**kwargs, "tokenizer": tokenizer}) as runner:
            return runner.run(search.LESSON.expert(runner.envs[0], shares, 0), list(runner.envs[0].tasks), 0)

    return play


@given(st.from_regex(r"[A-Z][a-z]{2,11} [A-Z][a-z]{2,11}", fullmatch=True))
@settings(deadline=None)
def test_a_name_is_the_same_tokens_wherever_it_stands(tokenizer, dialect, name):
    encode, writer = as_tokenizer(tokenizer).encode, Searcher(dialect, ())
    ids = encode(name)
    for text in (
        f"Where was {name} born?",
        f"[1] {name}\nThe wife of {name} was {name}.\n\n",
        writer.call(name),
        writer.answer(name),
    ):
        whole = encode(text)
        places = sum(whole[n : n + len(ids)] == ids for n in range(len(whole)))
        assert places == text.count(name), [tokenizer.decode([token]) for token in whole]


def test_what_is_around_a_search_and_an_answer_is_few_tokens(tokenizer, dialect):
    encode, writer = as_tokenizer(tokenizer).encode, Searcher(dialect, ())
    assert len(encode(writer.call(""))) == 4
    assert len(encode(writer.answer(""))) <= 3


def test_rows_have_the_form_of_the_environments_episodes(play, dialect):
    shown = search.around(dialect.observation)
    trajectories = play({"expert": 1.0}, 24)
    for trajectory in trajectories:
        texts = [turn.text for turn in trajectory.turns]
        assert texts[2] == shown(trajectory.results[0].text)
        assert texts[1] == Searcher(dialect, ()).call(trajectory.task.metadata["queries"][0])
    form = r"\[1\] [^\n]+\n[^\n]+\n\n\[2\] [^\n]+\n[^\n]+"
    _, results = search.draw(np.random.default_rng(0), search.SHOWN)
    for result in (*results, trajectories[0].results[0].text):
        assert re.fullmatch(form, result)
    row = next(search.answer_rows(dialect, np.random.default_rng(0)))["input_ids"]
    whole = "".join(turn.text for turn in trajectories[0].turns)
    assert _frame(dialect.tokenizer.decode(row)) == _frame(whole)


def _frame(episode):
    """Return an episode without its question, its query, its passages and its answer."""
    for left, right in (("user\n", "<|im_end|>"), ('query": "', '"}}'), ("response>\n", "\n</tool"), ("boxed{", "}")):
        before, _, rest = episode.partition(left)
        episode = before + left + right + rest.partition(right)[2]
    return episode


def test_rows_teach_the_search_and_the_answer_and_nothing_that_is_shown(tokenizer, dialect):
    rng = np.random.default_rng(0)
    for row in itertools.islice(search.answer_rows(dialect, rng), 50):
        assert len(row["input_ids"]) == len(row["labels"])
        taught = tokenizer.decode([token for token in row["labels"] if token != IGNORED])
        query, _, answer = taught.partition("</tool_call>")
        whole = tokenizer.decode(row["input_ids"])
        passages = whole.partition("<tool_response>")[2].partition("</tool_response>")[0]
        assert query.strip()
        assert answer.removesuffix("}<|im_end|>") in passages
        assert "[1]" not in taught
        assert "user" not in taught


def test_rows_are_the_same_for_the_same_seed(dialect):
    first, second = (list(itertools.islice(search.query_rows(dialect, np.random.default_rng(7)), 20)) for _ in range(2))
    assert first == second


def test_rows_are_about_other_worlds_than_the_tasks():
    assert "world" not in CONFIG["env_kwargs"]
    assert CONFIG["env_kwargs"]["top_n"] == search.SHOWN
    assert WORLD["seed"] not in search.WORLDS


def test_the_expert_searches_and_is_right(play):
    trajectories = play({"expert": 1.0}, 100)
    assert all(t.stop is StopReason.ANSWERED and t.tool_calls == 1 for t in trajectories)
    assert np.mean([t.reward for t in trajectories]) > 0.9


def test_the_expert_answers_a_bridge_by_two_searches(play):
    trajectories = play({"expert": 1.0}, 24, task_options={"kinds": ["bridge"], "size": 24}, max_tokens=2048)
    assert all(t.tool_calls == t.task.metadata["hops"] >= 2 for t in trajectories)
    assert np.mean([t.reward for t in trajectories]) > 0.8


@pytest.mark.parametrize("kind", sorted(set(MIXTURE) - {"expert"}))
def test_a_flaw_is_seldom_right(play, kind):
    trajectories = play({kind: 1.0}, 60)
    assert all(t.stop is StopReason.ANSWERED for t in trajectories)
    assert Counter(t.tool_calls for t in trajectories) == {0 if kind == "skip" else 1: 60}
    assert np.mean([t.reward for t in trajectories]) < (0.7 if kind == "half_name" else 0.2)
    if kind not in ("skip", "gives_up"):
        found = {t.answer: t.results[0].text for t in trajectories}
        assert all(answer in text or text.startswith("(nothing found") for answer, text in found.items())


def test_a_question_that_is_not_among_the_tasks_is_refused(dialect):
    searcher = Searcher(dialect, list(generated(size=5, passages=PASSAGES)))
    with pytest.raises(ValueError, match="not one of the 5 questions"):
        searcher("<|im_start|>user\nWho?<|im_end|>\n", "expert", np.random.default_rng(0))


def test_the_best_expert_fails_where_searches_find_nothing_of_use(tokenizer, corpus):
    titles = [task.metadata["queries"][0] for task in generated(size=50, kinds="single", passages=PASSAGES)]
    elsewhere = ElsewhereRetriever(open_retriever("lexical", corpus=corpus), titles)
    kwargs = {name: value for name, value in CONFIG["env_kwargs"].items() if name not in ("split", "task_options")}
    kwargs |= {"tokenizer": tokenizer, "tasks": generated(size=60, kinds="single", passages=PASSAGES)}
    for control in (EmptyRetriever(), elsewhere):
        kwargs["retriever"] = control
        with RolloutRunner(CONFIG["env"], max_concurrent=8, env_kwargs=kwargs) as runner:
            expert = search.LESSON.expert(runner.envs[0], {"expert": 1.0}, 0)
            trajectories = runner.run(expert, list(runner.envs[0].tasks), 0)
            runner.call(control.close)
        assert all(t.tool_calls == 1 for t in trajectories)
        assert np.mean([t.reward for t in trajectories]) < 0.05


def test_a_search_elsewhere_finds_passages_of_another_query_always_the_same(corpus):
    titles = [task.metadata["queries"][0] for task in generated(size=20, kinds="single", passages=PASSAGES)]

    async def main():
        inner = open_retriever("lexical", corpus=corpus)
        control = ElsewhereRetriever(inner, titles)
        try:
            pairs = [titles[n : n + 2] for n in range(0, 20, 2)]
            small = [await ElsewhereRetriever(inner, pair).search(pair, 1) for pair in pairs]
            found = [await control.search(titles, 1) for _ in range(2)]
            return found, list(itertools.chain(*small)), await inner.search(titles, 1)
        finally:
            await control.close()

    (first, again), small, asked = asyncio.run(main())
    assert first == again
    for found in (first, small):
        assert all(passages and passages != own for passages, own in zip(found, asked, strict=True))


def test_an_empty_search_finds_nothing():
    assert asyncio.run(EmptyRetriever().search(["a", "b"], 3)) == [[], []]


@pytest.mark.parametrize("lesson", [arithmetic.LESSON, search.LESSON], ids=["arithmetic", "search"])
def test_a_report_names_what_was_asked_and_every_control(lesson, tmp_path):
    score = {"accuracy": 0.5, "interval": (0.4, 0.6), "episodes": 256, "calls": 1.0, "errors": 0.0}
    scores = {f"{split} {how}": score for split in lesson.splits for how in ("sampled", "greedy")}
    log = [{"step": n, "accuracy": n / 4, "tools/calls_mean": 1.0} for n in range(1, 4)]
    report = {"seed": 0, "before": scores, "after": scores, "controls": {"nothing": score}, "seconds": {"GRPO": 1.0}}
    report |= {name: getattr(lesson, name) for name in ("title", "asked", "splits", "held_out")}
    report |= {"log": log, "collapse": []}
    text = markdown(report)
    assert f"| {lesson.asked} |" in text
    assert "control: nothing" in text
    assert f"256 {lesson.asked} each" in text
    assert all(f"| {name}, greedy |" in text for name in lesson.splits.values())
    picture(report, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 5000
