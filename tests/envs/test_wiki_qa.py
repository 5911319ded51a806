"""ASTER/WikiQA-v0 as its users meet it: Gymnasium's checker, a real index, real questions, a service that fails."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import aster_env
from aster_env.envs.wiki_qa.encyclopedia import generated_corpus
from aster_env.envs.wiki_qa.env import WikiQAEnv
from aster_env.errors import RetrieverError, UsageError
from aster_env.retrieval import Corpus, CorpusInfo, Passage, write_corpus
from aster_env.retrieval.lexical import build_lexical
from aster_env.types import StopReason, Task, Trajectory

DATA = Path(__file__).parents[2].parent / "shared" / "data"
OPTIONS = {"world": {"passages": 600}, "task_options": {"size": 24}}


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASTER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def make(**options):
    return gym.make("ASTER/WikiQA-v0", **{**OPTIONS, **options})


def call(query):
    return f"<tool_call>\n{json.dumps({'name': 'search', 'arguments': {'query': query}})}\n</tool_call>"


@pytest.mark.parametrize("view", ["tokens", "text"])
def test_gymnasiums_checker_passes(view):
    env = make(view=view).unwrapped
    check_env(env, skip_render_check=True)
    env.close()


@pytest.mark.parametrize("split", ["train", "test", "unseen"])
def test_whoever_searches_as_a_task_says_finds_what_supports_its_answer(split):
    env = make(view="text", split=split, world={"passages": 2000})
    corpus = {passage.id: passage for passage in Corpus(generated_corpus(passages=2000))}
    missed = 0
    for task in env.unwrapped.tasks:
        prompt, _ = env.reset(options={"task_id": task.id})
        assert task.prompt in prompt
        text = "".join(env.step(call(query))[0] for query in task.metadata["queries"])
        missed += any(corpus[name].text not in text for name in task.metadata["supporting"])
        _, reward, terminated, _, info = env.step(f"\\boxed{{{task.answers[0]}}}")
        assert (reward, terminated) == (1.0, True)
        assert info["tool_calls"] == len(task.metadata["queries"])
    assert missed <= len(env.unwrapped.tasks) // 10
    env.close()


def test_every_gold_scores_1_and_every_empty_answer_0():
    env = make(view="text").unwrapped
    for task in env.tasks:
        for answer, wanted in [*((gold, 1.0) for gold in task.answers), ("", 0.0), ("no idea", 0.0)]:
            env.reset(options={"task_id": task.id})
            assert env.step(f"\\boxed{{{answer}}}")[1] == wanted
    env.close()


def test_a_trajectory_says_which_corpus_was_read_and_its_licence():
    env = make(view="text")
    env.reset(seed=0)
    env.step(call("a town"))
    trajectory = env.step("\\boxed{x}")[4]["trajectory"]
    corpus = Corpus(generated_corpus(passages=600))
    assert trajectory.sources == {"retriever": "lexical", **corpus.source}
    assert trajectory.sources["licence"] == "CC0-1.0"
    assert Trajectory.from_json(json.loads(json.dumps(trajectory.to_json()))).sources == trajectory.sources
    env.close()


def test_the_tags_of_tool_star_search_too():
    env = make(view="text", dialect="tags", reward="toolstar")
    _, info = env.reset(seed=1)
    task = env.unwrapped.tasks.get(info["task_id"])
    text, _, _, _, info = env.step(f"<think>Look.</think><search>{task.metadata['queries'][0]}</search>")
    assert text.startswith("\n<result>\n[1] ")
    answer = f"<think>Found.</think><answer>\\boxed{{{task.answers[0]}}}</answer>"
    assert env.step(answer)[1] == 1.0
    env.close()


def test_the_same_seed_and_actions_give_the_same_bytes():
    def play():
        env = make()
        rows = [env.reset(seed=5)[0].tobytes()]
        for query in ("museum", ["town", "novel"], 'title:("x OR AND *'):
            ids = np.array(env.unwrapped.tokenizer.encode(call(query)), dtype=np.int32)
            rows.append(env.step(ids)[0].tobytes())
        env.close()
        return rows

    assert play() == play()


def test_environments_of_a_loop_share_one_retriever():
    envs = gym.make_vec("ASTER/WikiQA-v0", num_envs=3, view="text", **OPTIONS)
    envs.reset(seed=0)
    envs.step([call("a town")] * 3)
    assert len({id(env._retriever) for env in envs.envs}) == 1
    assert len({id(env.tasks) for env in envs.envs}) == 1
    envs.close()


class Down:
    source = {"retriever": "down"}  # noqa: RUF012

    async def search(self, queries, n=5):
        raise RetrieverError("the index is gone")

    async def close(self):
        raise AssertionError("it is its owner's to close")


def test_a_search_that_fails_ends_the_episode_unscored():
    env = make(view="text", retriever=Down())
    env.reset(seed=0)
    text, _, terminated, truncated, info = env.step(call("a town"))
    assert (text, terminated, truncated) == ("", False, True)
    assert info["stop"] is StopReason.INFRASTRUCTURE
    assert info["trajectory"].reward is None
    assert "the index is gone" in info["trajectory"].error
    env.close()


def test_an_answer_before_the_first_search_is_refused_where_that_is_asked_for():
    env = make(view="text", require_tool=True)
    _, info = env.reset(seed=0)
    gold = env.unwrapped.tasks.get(info["task_id"]).answers[0]
    text, _, terminated, _, _ = env.step(f"\\boxed{{{gold}}}")
    assert not terminated
    assert "Call 'search' first" in text
    env.step(call("a town"))
    assert env.step(f"\\boxed{{{gold}}}")[1] == 1.0
    env.close()


def test_questions_of_ones_own_over_a_corpus_of_ones_own(tmp_path):
    info = CorpusInfo("mine", "by hand", "CC0-1.0")
    corpus = write_corpus(tmp_path / "mine", [Passage("a", "Orm", "The Orm is a river."), Passage("b", "B", "")], info)
    build_lexical(corpus)
    task = Task("1", "What is the Orm?", ("a river", "river"), "qa")
    env = gym.make("ASTER/WikiQA-v0", tasks=[task], corpus=corpus.folder, view="text")
    env.reset()
    assert "The Orm is a river." in env.step(call("Orm"))[0]
    assert env.step("\\boxed{River}")[1] == 1.0
    env.close()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"corpus": "/nowhere/at/all"}, "There is no corpus in '/nowhere/at/all'"),
        ({"retriever": "lexcal"}, "Did you mean 'lexical'"),
        ({"retriever": "http", "corpus": "x"}, "does not apply to a retrieval service"),
        ({"retriever": 3}, "Allowed: a name, or a Retriever"),
        ({"retriever": Down(), "corpus": "x"}, "do not apply to a Retriever"),
        ({"retriever_options": {"corpus": "x"}}, "pass the folder as corpus"),
        ({"world": {"pasages": 3}}, "Did you mean 'passages'"),
        ({"world": {"passages": 0}}, "is not allowed"),
        ({"top_n": 0}, "top_n=0"),
        ({"reward": "exact"}, "Unknown reward"),
        ({"reward": "toolstar"}, "dialect='tags'"),
        ({"task_options": {"kinds": "trivial"}}, "trivial"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_made(options, said):
    with pytest.raises(UsageError, match=said.replace("(", "\\(")):
        WikiQAEnv(**{**OPTIONS, **options})


@pytest.mark.skipif(not DATA.exists(), reason="the public question sets are not here")
@pytest.mark.parametrize(
    ("preset", "file", "count"),
    [("nq", "nq/NQ-open.dev.jsonl", 3610), ("hotpotqa", "hotpotqa/hotpot_dev_v1_simplified.json", 7405)],
)
def test_public_questions_are_read_from_a_file_each_gold_of_them_right(preset, file, count):
    env = WikiQAEnv(tasks=preset, tasks_path=str(DATA / file), view="text", retriever=Down())
    assert len(env.tasks) == count
    assert env.tasks[0].kind == "qa"
    for task in [task for task in env.tasks if len(task.answers) > 1][:20] or list(env.tasks)[:20]:
        for gold in task.answers:
            env.reset(options={"task_id": task.id})
            assert env.step(f"<think></think>\\boxed{{{gold}}}")[1] == 1.0, (task.id, gold)
    env.close()


def test_the_environment_is_registered():
    assert aster_env.__version__
    assert "ASTER/WikiQA-v0" in gym.registry


def test_every_gold_answer_of_a_row_counts(tmp_path):
    rows = {
        "musique": {"id": "2hop_1", "question": "Where?", "answer": "Orm", "answer_aliases": ["the Orm", "Orm River"]},
        "bamboogle": {"id": "test_0", "question": "Where?", "golden_answers": ["Orm", "the Orm", "Orm River"]},
    }
    for preset, row in rows.items():
        path = tmp_path / f"{preset}.jsonl"
        path.write_text(json.dumps(row) + "\n")
        env = WikiQAEnv(tasks=preset, tasks_path=str(path), retriever=Down())
        assert env.tasks[0].answers == ("Orm", "the Orm", "Orm River")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"task_options": {"world_seed": 2}}, "world"),
        ({"tasks": "nq"}, "Fix: pass the folder of a corpus"),
        ({"retriever": "dense"}, "lexical index alone"),
        ({"task_options": {"kinds": 5}}, "kinds=5"),
        ({"tasks": "nq", "retriever": Down(), "world": {"seed": 1}}, "which is not used"),
    ],
)
def test_questions_about_another_world_than_the_one_searched_are_refused(options, said):
    with pytest.raises(UsageError, match=said):
        WikiQAEnv(**{"task_options": {}, **options} if "tasks" not in options else options)


def test_generated_questions_are_not_asked_of_real_text(tmp_path):
    corpus = write_corpus(tmp_path / "mine", [Passage("a", "Orm", "A river.")], CorpusInfo("mine", "", "CC0-1.0"))
    build_lexical(corpus)
    with pytest.raises(UsageError, match="is another"):
        WikiQAEnv(corpus=corpus.folder)
