"""The lesson of both tools: what its rows, its expert, its controls and its counts are said to be."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import yaml

from aster_env.dialects import make_dialect
from aster_env.envs.multi_tool.tasks import generated
from aster_env.envs.wiki_qa.encyclopedia import generated_corpus
from aster_env.errors import UsageError
from aster_env.rollout import RolloutRunner
from aster_env.tokenizers import as_tokenizer
from aster_env.types import StopReason
from aster_train.examples import IGNORED
from aster_train.tiny import both, demo, search
from aster_train.tiny.report import markdown
from aster_train.tiny.researcher import MIXTURE, Researcher, year_of

PASSAGES = 1000
CONFIG = yaml.safe_load(both.LESSON.config.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tokenizer():
    return both.LESSON.tokenizer(itertools.islice(both.LESSON.texts(), 3000))


@pytest.fixture(scope="module")
def dialect(tokenizer):
    return make_dialect("hermes", as_tokenizer(tokenizer))


@pytest.fixture(scope="module")
def kwargs(tokenizer, tmp_path_factory):
    """Return the arguments of the demo's environment, in a small world."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASTER_CACHE", str(tmp_path_factory.mktemp("cache")))
        generated_corpus(0, PASSAGES)
        options = {**CONFIG["env_kwargs"]["task_options"], "size": 32}
        world = {"seed": 0, "passages": PASSAGES}
        yield {**CONFIG["env_kwargs"], "world": world, "task_options": options, "tokenizer": tokenizer}


@pytest.fixture(scope="module")
def runner(kwargs):
    with RolloutRunner(CONFIG["env"], max_concurrent=8, env_kwargs=kwargs) as runner:
        yield runner


def play(runner, kind):
    """Return the episodes that the expert plays in one behaviour."""
    env = runner.envs[0]
    trajectories = runner.run(both.LESSON.expert(env, {kind: 1.0}, 0), list(env.tasks), 0)
    assert all(t.stop is not StopReason.INFRASTRUCTURE for t in trajectories)
    return trajectories


def play_changed(kwargs, changed):
    """Return the best expert's episodes with some of the environment's arguments replaced."""
    few = {**kwargs, "task_options": {**kwargs["task_options"], "size": 12}}
    with RolloutRunner(CONFIG["env"], max_concurrent=4, env_kwargs={**few, **changed}) as runner:
        try:
            return play(runner, "expert")
        finally:
            for argument in changed.values():
                if hasattr(argument, "close"):
                    runner.call(argument.close)


def test_the_expert_searches_then_computes_and_is_right(runner):
    trajectories = play(runner, "expert")
    called = [[call.name for turn in t.model_turns for call in turn.calls] for t in trajectories]
    assert called == [["search", "python"]] * len(trajectories)
    assert np.mean([t.reward for t in trajectories]) > 0.9
    counted = demo._count_tools(trajectories, both.LESSON.tools)
    assert counted == {"all": 32, "right": counted["right"], "all and right": counted["right"]}


@pytest.mark.parametrize("kind", sorted(set(MIXTURE) - {"expert"}))
def test_a_flaw_is_seldom_right(runner, kind):
    trajectories = play(runner, kind)
    assert all(t.stop is StopReason.ANSWERED for t in trajectories)
    assert np.mean([t.reward for t in trajectories]) < 0.1
    counted = demo._count_tools(trajectories, both.LESSON.tools)
    assert counted["all"] == (0 if kind in ("skip", "no_code", "no_search") else 32)


@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("searches find nothing", {"search", "python"}),
        ("searches find other passages", {"search", "python"}),
        ("code is never executed", {"search", "python"}),
        ("there is no python", {"search"}),
        ("there is no search", {"python"}),
    ],
)
def test_the_best_expert_fails_under_every_control(kwargs, name, called):
    controls = both.LESSON.controls(kwargs)
    assert len(controls) == 5
    trajectories = play_changed(kwargs, controls[name]())
    # It guesses the year of one of the twelve problems: now and then its own.
    assert np.mean([t.reward for t in trajectories]) <= 0.25
    assert set().union(*map(demo.executed, trajectories)) <= called


def test_a_call_past_the_limit_was_not_executed(kwargs):
    trajectories = play_changed(kwargs, {"max_tool_calls": 1})
    assert {t.stop for t in trajectories} == {StopReason.MAX_TOOL_CALLS}
    assert all(demo.executed(t) == {"search"} for t in trajectories)


def test_rows_have_the_form_of_the_environments_episodes(runner, dialect):
    form = re.compile(
        r'(?<=user\n)What.*?(?=<\|im_end)|(?<=query": ").*?(?=")|\[1\].*?(?=\n</tool)|\d+(?! *"})', re.DOTALL
    )
    row = next(both.episode_rows(dialect, np.random.default_rng(0)))["input_ids"]
    for trajectory in play(runner, "expert")[:8]:
        whole = "".join(turn.text for turn in trajectory.turns)
        assert form.sub("", dialect.tokenizer.decode(row)) == form.sub("", whole)


def test_rows_teach_the_search_the_code_and_the_answer_and_nothing_that_is_shown(tokenizer, dialect):
    for row in itertools.islice(both.episode_rows(dialect, np.random.default_rng(0)), 50):
        assert len(row["input_ids"]) == len(row["labels"])
        taught = tokenizer.decode([token for token in row["labels"] if token != IGNORED])
        query, code, answer = taught.split("</tool_call>")
        passages, result = re.findall(r"<tool_response>\n(.*?)\n</tool", tokenizer.decode(row["input_ids"]), re.DOTALL)
        assert '"search"' in query
        year = re.search(r'"code": "(\d+) \*\* 3"', code)[1]
        assert year in passages
        assert answer == f"{result}}}<|im_end|>"
        assert int(result) != int(year) ** 3


def test_reading_teaches_the_year_alone_and_copying_a_name_or_a_number(tokenizer, dialect):
    def taught(row):
        return tokenizer.decode([token for token in row["labels"] if token != IGNORED])

    for row in itertools.islice(both.reading_rows(dialect, np.random.default_rng(0)), 20):
        year = re.fullmatch(r'\n{"name": "python", "arguments": {"code": "(\d+) \*\* 3"}}\n</tool_call>', taught(row))[
            1
        ]
        assert year in tokenizer.decode(row["input_ids"]).partition("<tool_response>")[2].partition("</tool_resp")[0]
    rows = itertools.islice(both.copying_rows(dialect, np.random.default_rng(0)), 20)
    for asked, shown in zip(rows, rows, strict=True):
        name = re.search(r'"query": "(.*)"}}', taught(asked))[1]
        assert name.partition(" (")[0] in tokenizer.decode(asked["input_ids"]).partition("<|im_end|>")[0]
        number = taught(shown).removesuffix("}<|im_end|>")
        assert f"<tool_response>\n{number}\n</tool_response>" in tokenizer.decode(shown["input_ids"])


def test_a_number_is_the_same_tokens_in_a_passage_in_code_and_in_an_answer(tokenizer, dialect):
    encode, writer = as_tokenizer(tokenizer).encode, Researcher(dialect, ())
    for number in ("912", "1704", "4330747000"):
        ids = encode(number)
        for text in (f"in {number}.", f" ({number}-1790)", writer.compute(number), writer.answer(number)):
            whole = encode(text)
            assert any(whole[n : n + len(ids)] == ids for n in range(len(whole))), text


def test_rows_are_about_other_worlds_than_the_tasks():
    assert "world" not in CONFIG["env_kwargs"]
    assert CONFIG["env_kwargs"]["top_n"] == search.SHOWN
    options = CONFIG["env_kwargs"]["task_options"]
    assert (options["operations"], options["about"]) == (list(both.OPERATIONS), list(both.ABOUT))


def test_the_year_of_a_problem_is_that_of_its_answer():
    tasks = list(generated(size=20, mix={"both": 1}, operations="cube", passages=PASSAGES))
    assert all(int(year_of(task)) ** 3 == int(task.answers[0]) for task in tasks)


def test_the_report_counts_who_executed_both_tools():
    score = {"accuracy": 0.5, "interval": (0.4, 0.6), "episodes": 256, "calls": 2.0, "errors": 0.0}
    before = score | {"tools": {"all": 40, "right": 30, "all and right": 29}}
    after = score | {"tools": {"all": 250, "right": 128, "all and right": 127}}
    names = [f"{split} {how}" for split in both.LESSON.splits for how in ("sampled", "greedy")]
    report = {"seed": 0, "before": dict.fromkeys(names, before), "after": dict.fromkeys(names, after)}
    report |= {"controls": {"nothing": score}, "seconds": {"GRPO": 1.0}, "collapse": []}
    report |= {name: getattr(both.LESSON, name) for name in ("title", "asked", "splits", "held_out", "tools")}
    text = markdown(report)
    assert "| executed search and python |" in text
    assert "| unseen entities, sampled | 40 of 256 | 250 of 256 | 127 of 128 |" in text
    assert "executed" not in markdown(report | {"tools": ()})


def test_problems_may_leave_out_the_years_of_persons():
    def ask(**options):
        return list(generated(size=60, mix={"both": 1}, passages=PASSAGES, **options))

    kinds = {
        name[0] for task in ask(operations=("cube", "power"), about=both.ABOUT) for name in task.metadata["supporting"]
    }
    assert kinds == {"t", "o", "w"}
    assert ask(operations="cube") == ask(operations="cube", about=("person", "town", "work", "organisation"))
    for options, says in (
        ({"about": "country"}, "about 'country'"),
        ({"about": ()}, "about=() is not allowed"),
        ({"about": "town"}, "leaves days, mean, total nobody. Fix: add 'person'"),
    ):
        with pytest.raises(UsageError, match=re.escape(says)):
            ask(**options)
