"""The published numbers: consistent in themselves, and found for a task set."""

from __future__ import annotations

import pytest

from aster_env.evaluate.report import published
from aster_env.evaluate.report.beside import beside, differences, nearest
from aster_env.evaluate.report.published import PROTOCOLS, PUBLISHED, TOOL_STAR, TOOL_STAR_ROWS, find
from aster_env.evaluate.report.tables import at_budgets
from aster_env.presets import PRESETS

BINARY = {"aime24", "aime25", "hmmt25", "beyond_aime", "gsm8k"}
"""Where a sample scores 0 or 1; the others of Tool-Star's table are, or hold, token F1."""


def summary(tasks="aime24", protocol="aster", at=(), value=0.5):
    rows = [{"tokens": tokens, "value": v, "low": None, "high": None} for tokens, v in at]
    return {"tasks": tasks, "protocol": protocol, "k": 16, "problems": 30, "avg@k": {"value": value}, "at": rows}


@pytest.mark.parametrize("row", TOOL_STAR_ROWS, ids=lambda row: row[0])
def test_the_averages_of_tool_stars_table_are_those_of_its_columns(row):
    _, values, average = row
    assert len(values) == len(TOOL_STAR)
    assert abs(sum(values) / len(values) - average) <= 0.05 + 1e-9


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: f"{row.protocol} {row.name} {row.tasks}")
def test_each_accuracy_is_one_that_so_many_samples_can_give(row):
    assert 0 <= row.percent <= 100
    if row.tasks in BINARY:
        samples = row.n * PROTOCOLS[row.protocol].k
        assert abs(100 * round(row.value * samples) / samples - row.percent) <= 0.05 + 1e-9


def test_training_and_a_greater_budget_never_lower_an_accuracy_of_aster():
    values = {(p.name, p.tasks): p.percent for p in PUBLISHED if p.protocol == "aster"}
    for tasks in ("aime24", "aime25", "hmmt25", "beyond_aime"):
        assert values["ASTER-1.7B-SFT", tasks] < values["ASTER-1.7B", tasks]
        assert values["ASTER-4B-SFT", tasks] < values["ASTER-4B (30K)", tasks] < values["ASTER-4B (90K)", tasks]


def test_every_row_has_a_preset_a_protocol_and_a_source_and_stands_once():
    assert {row.tasks for row in PUBLISHED} <= PRESETS.keys()
    assert {row.protocol for row in PUBLISHED} == PROTOCOLS.keys()
    assert all("arXiv:" in protocol.source for protocol in PROTOCOLS.values())
    assert len({(p.protocol, p.name, p.tasks) for p in PUBLISHED}) == len(PUBLISHED) == 20 + 40


@pytest.mark.parametrize(
    "name", ["aime24", "AIME-2024", "aime_2024", "data/aime24.jsonl", "C:\\data\\AIME24.parquet", "aime2024"]
)
def test_a_task_set_is_found_by_its_name_its_alias_and_its_file(name):
    assert len(find(name, "aster")) == 5
    assert len(find(name, "tool-star")) == 5
    assert len(find(name)) == 10


@pytest.mark.parametrize("name", ["", "aime", "aime2", "my-aime24-copy.jsonl", "generated", "../", "\x00"])
def test_nothing_is_found_for_another_name(name):
    assert find(name) == []


def test_two_names_of_presets_never_mean_two_task_sets():
    names = [name for key, preset in PRESETS.items() for name in (key, *preset.aliases)]
    assert all(published._NAMES[published._key(name)] in (name, *PRESETS) for name in names)
    assert {published._NAMES[published._key(name)] for name in PRESETS} == PRESETS.keys()


def test_a_budget_stands_beside_the_published_of_the_same_budget():
    rows = beside(summary(at=[(30_000, 0.8), (92_160, 0.9), (1024, 0.1)]))
    assert [{p.budget for p in row.published} for row in rows] == [{None, 30 * 1024}, {None, 90 * 1024}, {None}]


def test_the_nearest_model_is_named_with_its_number_at_each_budget():
    assert nearest(summary(at=[(30 * 1024, 0.8), (90 * 1024, 0.9)])) == ("ASTER-4B", [pytest.approx(0.823), 0.858])
    assert nearest(summary(at=[(30 * 1024, 0.2)])) == ("ASTER-1.7B-SFT", [pytest.approx(0.194)])
    assert nearest(summary(value=None)) is None
    assert nearest(summary(tasks="mine")) is None


def test_a_run_without_budgets_is_beside_each_budget_by_its_name():
    (row,) = beside(summary())
    assert {"ASTER-4B (30K)", "ASTER-4B (90K)"} <= {row.title(p) for p in row.published}
    assert nearest(summary(value=0.86)) == ("ASTER-4B (90K)", [pytest.approx(0.858)])
    table = at_budgets([summary()])
    cells = dict(zip(table.header, table.rows[0], strict=True))
    assert (cells["ASTER-4B (30K)"], cells["ASTER-4B (90K)"]) == ("82.3", "85.8")


ASTER = {"temperature": 0.6, "top_p": 0.95, "max_tokens": 92160, "max_tool_calls": 50, "env_kwargs": {}}


def with_settings(policy=None, environment="ASTER/PythonMath-v0", **changes):
    manifest = {"settings": {**ASTER, **changes}, "policy": policy or {}}
    return {**summary(), "environment": environment, "manifest": manifest}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        ({"temperature": 1.0}, ["temperature is 1, theirs 0.6"]),
        ({"top_p": 1.0, "max_tool_calls": 5}, ["top_p is 1, theirs 0.95", "max_tool_calls is 5, theirs 50"]),
        ({"max_tokens": 30720}, ["max_tokens is 30,720, theirs 92,160"]),
        ({"max_seconds": 60.0}, ["max_seconds is 60, theirs not set"]),
        ({"env_kwargs": {"timeout": 3.0}}, ["timeout is 3, theirs not set"]),
        ({"environment": "My/Own-v0"}, ["the environment is My/Own-v0"]),
        ({"policy": {"kind": "python", "tokenizer": "bytes"}}, ["its tokens are bytes"]),
        ({"policy": {"kind": "python", "tokenizer": "folder"}}, []),
        ({"policy": {"kind": "vllm", "context": 92160}}, []),
        ({"policy": {"kind": "vllm", "context": 32768}}, ["its model's context ends at 32,768 tokens"]),
        ({"policy": {"endpoint": {"max_model_len": 8192}}}, ["its model's context ends at 8,192 tokens"]),
        ({"policy": {"tokens": "estimated from the text: …"}}, ["its tokens are estimated from the text"]),
    ],
)
def test_every_setting_that_is_not_the_protocols_is_said(changes, said):
    assert sorted(differences(with_settings(**changes))) == sorted(said)


def test_a_run_measured_as_published_differs_in_nothing():
    assert differences(summary()) == []
