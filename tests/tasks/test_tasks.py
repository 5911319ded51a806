"""Task sets: generated, files, presets, and errors that say what to do."""

from __future__ import annotations

import json
import re

import hypothesis.strategies as st
import pytest
from hypothesis import given

from aster_env.envs.python_math.tasks import GENERATORS, LEVELS, OPERATIONS, generate_task, generated
from aster_env.errors import UsageError
from aster_env.presets import PRESETS
from aster_env.tasks import TaskSet, load_tasks
from aster_env.types import Task
from aster_train.tiny.expert import read_problem


def test_the_same_arguments_give_the_same_problems():
    assert list(generated(size=50, seed=3)) == list(generated(size=50, seed=3))
    assert list(generated(size=50, seed=3))[:20] == list(generated(size=20, seed=3))
    assert [t.prompt for t in generated(size=50, seed=3)] != [t.prompt for t in generated(size=50, seed=4)]


@pytest.mark.parametrize("level", LEVELS)
def test_splits_share_no_problem_and_unseen_shares_no_number(level):
    def content(split, seed):
        return {
            t.prompt.partition(".")[0][-12:] + t.prompt.partition(".")[2]
            for t in generated(split, level=level, size=400, seed=seed)
        }

    assert not content("train", 0) & content("test", 0)
    assert not content("train", 0) & content("test", 1)
    if level <= 2:
        numbers = {
            s: {n for t in generated(s, level=level, size=400) for n in operands(t)} for s in ("train", "unseen")
        }
        assert not numbers["train"] & numbers["unseen"]


def operands(task):
    problem = read_problem(task.prompt)
    return [problem.start, *(n for _, n in problem.steps)]


@given(index=st.integers(0, 10**6), seed=st.integers(0, 10**6), split=st.sampled_from(["train", "test", "unseen"]))
def test_the_answer_follows_from_the_prompt(index, seed, split):
    task = generate_task(split, index, seed=seed)
    problem = read_problem(task.prompt)
    value = problem.start
    for sign, number in problem.steps:
        value = OPERATIONS[sign][1](value, number)
    assert task.answers == (str(value),)
    assert len(problem.steps) == task.metadata["steps"] in (2, 3)


@pytest.mark.parametrize("level", LEVELS)
def test_levels_grow_harder(level):
    tasks = generated(level=level, size=200)
    low, high = LEVELS[level].steps
    assert {t.metadata["steps"] for t in tasks} <= set(range(low, high + 1))
    assert all(int(t.answers[0]) > 0 for t in tasks)


@pytest.mark.parametrize(
    ("suffix", "write"),
    [
        ("jsonl", lambda path, rows: path.write_text("\n".join(map(json.dumps, rows)) + "\n")),
        ("json", lambda path, rows: path.write_text(json.dumps(rows))),
        (
            "parquet",
            lambda path, rows: __import__("pyarrow.parquet").parquet.write_table(
                __import__("pyarrow").Table.from_pylist(rows), path
            ),
        ),
    ],
)
def test_files_are_read_with_their_usual_columns(tmp_path, suffix, write):
    rows = [{"question": f"What is {n}?", "answer": str(n)} for n in range(3)]
    path = tmp_path / f"rows.{suffix}"
    write(path, rows)
    tasks = load_tasks(str(path))
    assert [(t.prompt, t.answers) for t in tasks] == [(f"What is {n}?", (str(n),)) for n in range(3)]
    assert len({t.id for t in tasks}) == 3


def test_a_field_map_reaches_nested_columns(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"chat": [{"content": "Q"}], "meta": {"gold": 7}, "key": "k"}) + "\n")
    (task,) = load_tasks(str(path), fields={"prompt": "chat.0.content", "answers": "meta.gold", "id": "key"})
    assert (task.id, task.prompt, task.answers) == ("k", "Q", ("7",))


def test_a_field_map_may_place_some_parts_and_leave_the_usual_ones(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "Q", "gold": "7", "key": "k", "answer": "8"}\n')
    assert load_tasks(str(path), fields={"id": "key"})[0] == Task("k", "Q", ("8",))
    assert load_tasks(str(path), fields={"answers": "gold"})[0].answers == ("7",)


def test_a_field_map_may_say_where_each_rows_kind_is(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": "P", "answer": "1", "about": {"kind": kind}} for kind in ("qa", "math", "quiz")]
    path.write_text("\n".join(map(json.dumps, rows[:2])))
    assert [task.kind for task in load_tasks(str(path), fields={"kind": "about.kind"})] == ["qa", "math"]
    assert [task.kind for task in load_tasks(str(path), kind="qa")] == ["qa", "qa"]
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UsageError, match=r"kind of task \(.*rows\.jsonl, row 3\) 'quiz'. Allowed: 'math', 'qa'"):
        load_tasks(str(path), fields={"kind": "about.kind"})


def test_rows_of_the_hub_are_read_like_those_of_files(tmp_path, monkeypatch):
    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text('{"question": "Q", "answer": "1", "text": "T"}\n')
    monkeypatch.chdir(tmp_path)
    # The library finds a folder of the working directory before it asks the hub.
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    assert load_tasks("owner/name")[0].prompt == "Q"
    assert load_tasks("owner/name", fields={"prompt": "text"})[0].prompt == "T"
    with pytest.raises(UsageError, match="tset"):
        load_tasks("owner/name", split="tset")


def test_a_failure_of_the_hub_without_a_message_is_named(monkeypatch):
    import datasets

    def fail(*arguments, **options):
        raise ConnectionError

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(UsageError, match="ConnectionError"):
        load_tasks("owner/name")


@pytest.mark.parametrize(
    ("content", "fields", "says"),
    [
        ("{", None, "line 1"),
        ('{"a": 5}', {"prompt": "a.b", "answers": "a"}, "'b' would be a part of 5, a int"),
        ('{"a": "text"}', {"prompt": "a.0", "answers": "a"}, "'0' would be a part of 'text', a str"),
        ('{"a": ["x"]}', {"prompt": "a.1", "answers": "a"}, "Allowed: '0'"),
        ('{"a": ["x"]}', {"prompt": "a.²", "answers": "a"}, "Allowed: '0'"),
        ("[" * 100_000, None, "line 1: not valid JSON"),
        ("3", None, "row 1: is a int"),
        (b'{"prompt": "\xff"}', None, "is not UTF-8"),
        ('{"a": 1}', None, "prompt"),
        ('{"question": "x", "answer": "1"}', {"prompt": "questoin", "answers": "answer"}, "question"),
        ("", None, "is empty"),
    ],
)
def test_bad_files_are_named_with_the_line_and_the_fix(tmp_path, content, fields, says):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError, match=re.escape(says)) as caught:
        load_tasks(str(path), fields=fields)
    assert "rows.jsonl" in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "options", "says"),
    [
        ("aime2", {}, "Did you mean 'aime2"),
        ("generate", {}, "Did you mean 'generated'"),
        ("generated", {"split": "tset"}, "Did you mean 'test'"),
        ("generated", {"options": {"level": 9}}, "level=9"),
        ("generated", {"options": {"levle": 1}}, "Did you mean 'level'"),
        ("missing.jsonl", {}, "missing.jsonl"),
        ("x.jsonl", {"fields": {"promt": "question"}}, "x.jsonl|Did you mean 'prompt'"),
        ("x.jsonl", {"fields": "question"}, "fields='question' is a str"),
        ("x.jsonl", {"fields": {"prompt": 3}}, r"fields\['prompt'\]=3 is a int"),
        ([1], {}, r"tasks\[0\]"),
        (3, {}, "tasks=3 is a int"),
        ("x.jsonl", {"split": "test"}, "split='test' does not apply to the file 'x.jsonl'"),
        ("x.jsonl", {"path": "y.jsonl"}, "path .tasks_path.='y.jsonl' does not apply"),
        ("owner/name", {"path": "y.jsonl"}, "does not apply to the hub dataset"),
        ("owner/name", {"options": {"level": 1}}, "does not apply to the hub dataset"),
        ("generated", {"path": "y.jsonl"}, "does not apply to the generated family"),
        ("generated", {"fields": {"prompt": "x"}}, "does not apply to the generated family"),
        ("aime25", {"fields": {"prompt": "x"}}, "does not apply to the preset"),
        ("aime25", {"options": {"level": 1}}, "does not apply to the preset"),
        ("aime25", {"path": "y.jsonl", "split": "test"}, "does not apply to the local file 'y.jsonl'"),
        ([Task("t", "?", ("1",))], {"split": "test"}, "does not apply to Tasks"),
    ],
)
def test_bad_specs_are_named(spec, options, says):
    with pytest.raises(UsageError, match=says):
        load_tasks(spec, generators=GENERATORS, **options)


def test_presets_read_a_local_file(tmp_path):
    path = tmp_path / "gsm.jsonl"
    path.write_text(json.dumps({"question": "How many?", "answer": "1 + 1 = 2\n#### 1,002"}) + "\n")
    (task,) = load_tasks("gsm8k", path=path)
    assert task.answers == ("1002",)
    assert {"aime24", "aime25", "hmmt25", "beyond_aime", "gsm8k", "math500", "dapo17k"} <= set(PRESETS)


def test_a_preset_reads_a_copy_with_other_columns_and_keeps_the_first_of_each_id(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text('{"question": "Q", "answer": "1"}\n')
    assert load_tasks("aime24", path=path)[0].prompt == "Q"
    row = {"prompt": [{"content": "Q"}], "reward_model": {"ground_truth": "1"}, "extra_info": {"index": "a"}}
    path.write_text(f"{json.dumps(row)}\n" * 3)
    assert [task.id for task in load_tasks("dapo17k", path=path)] == ["a"]
    path.write_text('{"nothing": 1}\n')
    with pytest.raises(UsageError, match="row 1"):
        load_tasks("aime24", path=path)


def test_a_set_finds_slices_and_shuffles():
    tasks = TaskSet([Task(f"t{n}", "?", (str(n),)) for n in range(10)])
    assert tasks.get("t3").answers == ("3",)
    assert [t.id for t in tasks[2:4]] == ["t2", "t3"]
    assert sorted(t.id for t in tasks.shuffled(1)) == sorted(t.id for t in tasks)
    assert [t.id for t in tasks.shuffled(1)] != [t.id for t in tasks]
    with pytest.raises(UsageError, match="t3"):
        TaskSet([Task("t3", "?", ("1",)), Task("t3", "?", ("1",))])
