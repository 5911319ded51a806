"""The published numbers: consistent in themselves, and found for a task set."""

from __future__ import annotations

import pytest

from aster_env.evaluate.report import published
from aster_env.evaluate.report.beside import beside, differences, nearest
from aster_env.evaluate.report.published import PROTOCOLS, PUBLISHED, TOOL_STAR, TOOL_STAR_ROWS, find
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


def test_a_run_measured_as_published_differs_in_nothing():
    assert differences(summary()) == []
    assert differences({**summary(), "missing": 3}) == ["3 samples not played yet"]
