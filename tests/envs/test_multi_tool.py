"""ASTER/MultiTool-v0 as its users meet it: both tools in an episode, three families of tasks, limits for each tool."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env

import aster_env
from aster_env.envs.multi_tool.env import MultiToolEnv, make_vec
from aster_env.envs.multi_tool.problems import OPERATIONS, value_of
from aster_env.envs.multi_tool.tasks import generated
from aster_env.envs.wiki_qa.encyclopedia import generated_corpus, passages
from aster_env.envs.wiki_qa.world import make_world
from aster_env.errors import UsageError
from aster_env.retrieval import Corpus
from aster_env.types import StopReason, Task

SMALL = {"passages": 1000}
DIALECTS = ("hermes", "tags")


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASTER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def make(**options):
    return MultiToolEnv(**{"world": SMALL, "view": "text", "task_options": {"size": 28}, **options})


def both(**options):
    return make(task_options={"size": 7, "mix": {"both": 1}}, **options)


def play_perfectly(env, task, think=""):
    """Search as the task says, compute its expression, and give what the code printed."""
    env.reset(options={"task_id": task.id})
    found = ""
    for query in task.metadata["queries"]:
        found += env.step(think + env.dialect.call("search", {"query": query}))[0]
    expression = task.metadata["expression"]
    code = f"import datetime\nvalue = {expression}\nf'{{value:.2f}}' if isinstance(value, float) else value"
    printed = env.step(think + env.dialect.call("python", {"code": code}))[0]
    assert task.answers[0] in printed
    return found, env.step(think + env.dialect.answer(task.answers[0]))


@pytest.mark.parametrize("view", ["tokens", "text"])
def test_gymnasiums_checker_passes(view):
    env = make(view=view)
    check_env(env, skip_render_check=True)
    env.close()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_whoever_searches_and_then_computes_solves_what_needs_both(dialect):
    env = both(dialect=dialect, tool_limits={"python": 1})
    corpus = {passage.id: passage for passage in Corpus(generated_corpus(passages=1000))}
    for task in env.tasks:
        found, (_, reward, terminated, _, info) = play_perfectly(env, task)
        assert all(corpus[name].text in found for name in task.metadata["supporting"])
        assert (reward, terminated, info["stop"]) == (1.0, True, StopReason.ANSWERED)
        assert info["tool_calls"] == task.metadata["hops"] + 1
        assert info["trajectory"].sources["retriever"] == "lexical"
    env.close()


def test_every_gold_scores_1_and_every_empty_or_wrong_answer_0():
    env = make()
    for task in env.tasks:
        for answer, wanted in [*((gold, 1.0) for gold in task.answers), ("", 0.0), ("no idea", 0.0)]:
            env.reset(options={"task_id": task.id})
            assert env.step(f"\\boxed{{{answer}}}")[1] == wanted, (task, answer)
    means = generated("train", size=6, mix={"both": 1}, operations="mean", **SMALL)
    for task in means:
        (gold,) = task.answers
        near = f"{float(gold) + 0.01:.2f}"
        for answer, wanted in ((gold, 1.0), (near, 0.0), (gold.split(".")[0], 0.0), (f"{float(gold):.1f}", 0.0)):
            if wanted == 1.0 or float(answer) != float(gold):
                env.reset(options={"task": task})
                assert env.step(f"\\boxed{{{answer}}}")[1] == wanted, (gold, answer)
    env.close()


@pytest.mark.parametrize("split", ["train", "test", "unseen"])
def test_answers_are_what_the_expressions_say_and_in_no_passage(split):
    tasks = generated(split, size=210, mix={"both": 1}, **SMALL)
    words = {word.strip(".,;:()") for passage in passages(make_world(**SMALL)) for word in passage.text.split()}
    assert Counter(task.metadata["type"] for task in tasks).keys() == OPERATIONS.keys()
    for task in tasks:
        assert value_of(task.metadata["expression"]) == task.answers[0]
        assert task.answers[0] not in words
        assert task.answers[0] not in task.prompt
        assert task.kind == "math"
    common = Counter(task.answers[0] for task in tasks).most_common(1)[0][1]
    assert common <= 2


def test_the_expressions_round_a_half_up_as_the_question_says():
    from decimal import ROUND_HALF_UP, Decimal

    for task in generated("train", size=60, mix={"both": 1}, operations="mean", passages=3000):
        years = json.loads(task.metadata["expression"].partition("sum(")[2].partition(")")[0])
        exact = Decimal(sum(years)) / Decimal(len(years))
        assert str(exact.quantize(Decimal("0.01"), ROUND_HALF_UP)) == task.answers[0]
    assert value_of("(200 * sum([1, 1, 1, 1, 1, 1, 1, 2]) + 8) // 16 / 100") == "1.13"


def test_splits_share_no_problem_whatever_the_seeds_and_unseen_ones_no_entity():
    tasks = {
        split: [t for seed in (0, 1) for t in generated(split, size=140, seed=seed, mix={"both": 1}, **SMALL)]
        for split in ("train", "test", "unseen")
    }
    prompts = {split: {task.prompt for task in each} for split, each in tasks.items()}
    supporting = {split: {n for t in each for n in t.metadata["supporting"]} for split, each in tasks.items()}
    assert not prompts["train"] & prompts["test"]
    assert not supporting["unseen"] & (supporting["train"] | supporting["test"])


def test_a_mixture_has_its_shares_at_any_size_and_a_smaller_one_begins_a_larger_one():
    tasks = generated("train", size=60, mix={"math": 1, "qa": 2, "both": 3}, **SMALL)
    assert Counter(task.metadata["family"] for task in tasks) == {"math": 10, "qa": 20, "both": 30}
    assert Counter(task.metadata["family"] for task in tasks[:12]) == {"math": 2, "qa": 4, "both": 6}
    assert list(generated("train", size=30, mix={"math": 1, "qa": 2, "both": 3}, **SMALL)) == list(tasks[:30])
    assert {task.metadata["family"] for task in generated("test", size=8, mix={"both": 2}, **SMALL)} == {"both"}
    assert {t.kind for t in tasks if t.metadata["family"] == "qa"} == {"qa"}


def test_each_kind_of_task_has_its_own_judge():
    rows = [Task("m", "?", ("1/2",), "math"), Task("q", "Who?", ("the Orm River",), "qa")]
    env = make(tasks=rows, task_options=None, reward="f1")
    scores = []
    for task, answer in ((rows[0], "0.5"), (rows[1], "Orm river"), (rows[1], "Orm")):
        env.reset(options={"task_id": task.id})
        scores.append(env.step(f"\\boxed{{{answer}}}")[1])
    assert scores == [1.0, 1.0, pytest.approx(2 / 3)]
    env.close()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_call_beyond_its_tools_limit_is_refused_and_the_episode_goes_on(dialect):
    env = both(dialect=dialect, tool_limits={"python": 1, "search": 2})
    task = env.tasks[0]
    env.reset(options={"task_id": task.id})
    code = env.dialect.call("python", {"code": "6 * 7"})
    assert "42" in env.step(code)[0]
    text, _, terminated, _, info = env.step(code)
    assert "'python' has been called 1 times, as often as is allowed" in text
    assert (terminated, info["tool_calls"]) == (False, 1)
    assert "[1] " in env.step(env.dialect.call("search", {"query": task.metadata["queries"][0]}))[0]
    _, reward, _, _, info = env.step(env.dialect.answer(task.answers[0]))
    assert (reward, info["tool_calls"]) == (1.0, 2)
    env.close()


def test_whoever_goes_on_calling_what_is_used_up_makes_invalid_calls():
    env = both(tool_limits={"python": 0}, max_invalid_calls=2)
    env.reset(seed=0)
    code = env.dialect.call("python", {"code": "1"})
    assert "is not allowed here" in env.step(code)[0]
    env.step(code)
    assert env.step(code)[4]["stop"] is StopReason.INVALID_CALLS
    env.close()


def test_the_limit_of_all_tools_together_ends_the_episode():
    env = both(max_tool_calls=2, tool_limits={"python": 5})
    env.reset(seed=0)
    env.step(env.dialect.call("python", {"code": "1"}))
    env.step(env.dialect.call("search", {"query": "x"}))
    _, reward, _, truncated, info = env.step(env.dialect.call("python", {"code": "1"}))
    assert (reward, truncated, info["stop"]) == (0.0, True, StopReason.MAX_TOOL_CALLS)
    env.close()


def test_limits_count_from_the_start_in_every_episode():
    env = both(tool_limits={"python": 1})
    for _ in range(2):
        env.reset(seed=0)
        assert "7" in env.step(env.dialect.call("python", {"code": "3 + 4"}))[0]
    env.close()


def test_tool_stars_reward_adds_a_tenth_only_where_both_tools_were_executed():
    env = make(dialect="tags", reward="toolstar", tool_limits={"python": 1})
    think = "<think>Next.</think>"
    needs = next(task for task in env.tasks if task.metadata["family"] == "both")
    assert play_perfectly(env, needs, think)[1][1] == pytest.approx(1.1)

    def score(*turns):
        env.reset(options={"task_id": needs.id})
        return [env.step(think + turn) for turn in turns][-1][1]

    code, query = env.dialect.call("python", {"code": "1"}), env.dialect.call("search", {"query": "x"})
    right = env.dialect.answer(needs.answers[0])
    assert score(code, right) == 1.0
    assert score(query, query, right) == 1.0
    assert score(query, code, env.dialect.answer("7")) == 0.0
    assert score(query, code, "\\boxed{7}") == -1.0
    env.close()
    env = make(dialect="tags", reward="toolstar", tool_limits={"python": 0})
    assert score(query, code, env.dialect.answer(needs.answers[0])) == 1.0
    env.close()


def test_an_episode_can_have_one_tool_alone():
    env = both(tools=["search"])
    _, info = env.reset(seed=0)
    assert [tool["function"]["name"] for tool in info["tools"]] == ["search"]
    assert "Unknown tool 'python'" in env.step(env.dialect.call("python", {"code": "1"}))[0]
    env.close()


def test_an_answer_before_the_first_call_is_refused_where_that_is_asked_for():
    env = both(require_tool=True)
    _, info = env.reset(seed=0)
    gold = env.dialect.answer(env.tasks.get(info["task_id"]).answers[0])
    assert "Call 'python' or 'search' first" in env.step(gold)[0]
    env.step(env.dialect.call("search", {"query": "x"}))
    assert env.step(gold)[1] == 1.0
    env.close()


def test_environments_side_by_side_share_tasks_pool_and_retriever():
    envs = make_vec(num_envs=2, view="text", world=SMALL, task_options={"size": 8})
    envs.reset(seed=0)
    for name, arguments in (("search", {"query": "x"}), ("python", {"code": "1"})):
        envs.step([envs.envs[0].dialect.call(name, arguments)] * 2)
    first, second = envs.envs
    assert first.tasks is second.tasks
    assert first._box._retriever is second._box._retriever is not None
    assert first._box._leased is second._box._leased is not None
    envs.close()


def test_the_environment_is_registered():
    assert aster_env.__version__
    spec = gym.spec("ASTER/MultiTool-v0")
    assert spec.entry_point == "aster_env.envs.multi_tool.env:MultiToolEnv"
    assert spec.vector_entry_point == "aster_env.envs.multi_tool.env:make_vec"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tools": ["python", "serch"]}, "Did you mean 'search'"),
        ({"tools": "python"}, "Allowed: a list of"),
        ({"tools": []}, "one or several of"),
        ({"tools": ["python", "python"]}, "each once"),
        ({"tool_limits": {"pyton": 3}}, "Did you mean 'python'"),
        ({"tool_limits": {"python": -1}}, "tool_limits\\['python'\\]=-1"),
        ({"tool_limits": 3}, "Allowed: a mapping"),
        ({"tools": ["search"], "tool_limits": {"python": 3}}, "Unknown tool in tool_limits"),
        ({"task_options": {"mix": {"maths": 1}}}, "Did you mean 'math'"),
        ({"task_options": {"mix": {"math": 0}}}, "has no tasks"),
        ({"task_options": {"mix": {"math": -1}}}, "a number, 0 or above"),
        ({"task_options": {"mix": 3}}, "a mapping of families"),
        ({"task_options": {"operations": "root"}}, "Unknown operation"),
        ({"task_options": {"size": 0}}, "at least 1"),
        ({"task_options": {"world_seed": 1}}, "of their world"),
        ({"task_options": {"size": 4000, "mix": {"both": 1}, "operations": "mean"}}, "Fix: a smaller size"),
        ({"corpus": "/nowhere/at/all"}, "There is no corpus"),
        ({"kind": "code"}, "kind of task"),
        ({"reward": "toolstar"}, "dialect='tags'"),
        ({"reward": "best"}, "Unknown reward"),
        ({"tasks": [Task("c", "?", ("x",), "code")], "task_options": None}, "kind of the task 'c'"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_made(options, said):
    with pytest.raises(UsageError, match=said):
        make(**options)


def test_a_file_of_questions_needs_a_corpus_that_can_answer_them(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"question": "Where?", "answer": "Orm"}) + "\n")
    assert make(tasks=str(path), task_options=None).tasks[0].kind == "math"
    with pytest.raises(UsageError, match="not about the generated encyclopedia"):
        make(tasks=str(path), kind="qa", task_options=None)
    env = make(
        tasks=str(path),
        kind="qa",
        task_options=None,
        retriever="http",
        world=None,
        retriever_options={"url": "http://127.0.0.1:1"},
    )
    assert env.tasks[0].kind == "qa"


def test_three_tools_in_one_episode_walk_the_site_beside_searching_and_computing():
    env = make(tools=("python", "search", "visit"), task_options={"size": 10}, tool_limits={"visit": 9})
    assert {task.metadata["family"] for task in env.tasks} == {"math", "qa", "both", "web"}
    task = next(task for task in env.tasks if task.metadata["family"] == "web")
    _, info = env.reset(options={"task_id": task.id})
    assert [tool["function"]["name"] for tool in info["tools"]] == ["python", "search", "visit"]
    seen = "".join(env.step(env.dialect.call("visit", {"target": page}))[0] for page in task.metadata["path"])
    assert all(text in seen for text in task.metadata["evidence"])
    assert "[1] " in env.step(env.dialect.call("search", {"query": "a town"}))[0]
    assert "42" in env.step(env.dialect.call("python", {"code": "6 * 7"}))[0]
    _, reward, _, _, info = env.step(env.dialect.answer(task.answers[0]))
    assert reward == 1.0
    sources = info["trajectory"].sources
    assert (sources["retriever"], sources["web.web"]) == ("lexical", "generated site")
    env.close()
    other = dataclasses.replace(task, id="other", metadata={**task.metadata, "site": {"seed": 5, "size": 300}})
    for options, said in (
        ({"site": {"seed": 1}}, "with the tool 'visit'"),
        ({"task_options": {"mix": {"web": 1}}}, "tasks of the web"),
        ({"tools": ["visit"], "site": {"pages": 3}}, "option of the generated site"),
        ({"tools": ["visit"], "split": "unseen"}, "Unknown split"),
        ({"tools": ["python", "visit"], "max_output": {"visit": 500}}, "max_output=500 is not allowed"),
        ({"tools": ["python", "visit"], "max_output": 500}, "max_output=500 is not allowed"),
        ({"tasks": [task], "task_options": None}, "no 'visit'"),
        ({"tools": ["visit"], "tasks": [task], "task_options": None, "site": {"seed": 9}}, "Fix: leave site out"),
        ({"tools": ["visit"], "tasks": [task, other], "task_options": None}, "2 generated sites"),
    ):
        with pytest.raises(UsageError, match=said):
            make(**options)


def test_days_are_asked_for_from_the_earlier_birth_to_the_later():
    env = make(task_options={"size": 5, "mix": {"both": 1}, "operations": ["days"]})
    for task in env.tasks:
        first, second = re.match(r"How many days after (.+) was (.+) born, by the", task.prompt).groups()
        names = [title.partition(" (")[0] for title in task.metadata["queries"]]
        assert names[0] in first
        assert names[1] in second
        assert int(task.answers[0]) > 0
    env.close()
