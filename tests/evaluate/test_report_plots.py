"""The plots: what they draw is what the summary says."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aster_env.evaluate.report import charts, models
from aster_env.evaluate.report.style import STYLE
from aster_env.evaluate.report.svg import ticks
from tests.evaluate.test_report import HOSTILE, make_summary


def drawn(plot):
    return ElementTree.fromstring(plot.svg())


def of(plot, tag, class_):
    return [part for part in drawn(plot).iter(tag) if part.get("class") == class_]


def points(path):
    return [tuple(map(float, pair.split(" "))) for pair in path.get("d").strip("MZ").split("L")]


def every_plot(summaries):
    plots = [models.side_by_side(summaries), models.radar(summaries)]
    for summary in summaries:
        plots += [charts.against(summary, unit) for unit in ("tokens", "tool_calls", "seconds")]
        names = ("problems", "calls", "calls_and_accuracy", "outcomes", "stopped")
        plots += [getattr(charts, name)(summary) for name in names]
    return [plot for plot in plots if plot is not None]


def test_every_plot_has_a_name_a_description_and_lies_within_its_box():
    plots = every_plot([make_summary(tasks, [[1, 0]] * 7) for tasks in ("aime24", "aime25", "hmmt25")])
    assert len(plots) >= 2 + 3 * 7
    for plot in plots:
        root = drawn(plot)
        assert [part.tag for part in root[:2]] == ["title", "desc"]
        assert all(part.text for part in root[:2])
        for part in root.iter():
            for name, limit in (("x", plot.width), ("y", plot.height), ("cx", plot.width), ("cy", plot.height)):
                assert 0 <= float(part.get(name, 0)) <= limit
            if part.tag == "path":
                assert all(-6 <= x <= plot.width + 6 and -6 <= y <= plot.height + 6 for x, y in points(part))


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_plots_of_foreign_text_are_well_formed(text):
    for plot in every_plot([make_summary(text, prefix=text), make_summary("aime24"), make_summary("aime25")]):
        drawn(plot)


def test_bars_are_sorted_and_show_what_share_was_right_wrong_or_has_no_score():
    plot = charts.problems(make_summary(scores=[[0, 0], [1, 1], [1, 0], [1, None]]))
    whole = max(float(bar.get("height")) for bar in of(plot, "rect", "right"))
    shares = {
        class_: [
            round(float(bar.get("height")) / whole, 2) for bar in of(plot, "rect", class_) if bar.get("width") != "10"
        ]
        for class_ in ("right", "wrong", "missing")
    }
    assert shares == {"right": [1.0, 0.5, 0.5], "wrong": [0.5, 1.0], "missing": [0.5]}
    assert "Of 4 problems, 1 are right in every sample, 1 in none." in plot.svg()


def test_many_problems_are_one_outline():
    plot = charts.problems(make_summary(scores=[[1]] * 300 + [[0]] * 300))
    assert len(plot.svg()) < 60_000
    right = points(of(plot, "path", "right")[0])
    assert right[0][1] == right[-1][1] == max(y for _, y in right)


def test_a_long_curve_is_drawn_to_its_end():
    summary = make_summary(scores=[[1]] * 200)
    plot = charts.against(summary, "tokens")
    curve, band = points(of(plot, "path", "curve")[0]), points(of(plot, "path", "band")[0])
    heights = [y for _, y in curve]
    assert heights == sorted(heights, reverse=True)
    assert curve[-1][0] == max(x for x, _ in band)
    assert len(curve) == 2 * len(summary["budgets"]["tokens"]) - 1


def test_the_published_points_stand_at_their_budgets():
    plot = charts.against(make_summary(), "tokens")
    hints = [part.text for part in drawn(plot).iter("title")]
    assert "ASTER-4B (30K): 82.3 %" in hints
    assert "ASTER-4B (90K): 85.8 %" in hints
    assert "ASTER" not in charts.against(make_summary("mine"), "tokens").svg()


def test_samples_are_counted_by_their_calls():
    plot = charts.calls(make_summary(scores=[[1, 0]] * 5, calls=60))
    hints = {part.text for part in drawn(plot).iter("title")}
    assert "60–62 calls: 10 samples, 5.0 right" in hints
    assert "10 samples made 60.5 calls in the mean; 100.0 % made any." in plot.svg()


def test_the_radar_needs_three_task_sets_and_shows_models_known_on_all():
    sets = [make_summary(tasks) for tasks in ("aime24", "aime25", "hmmt25")]
    assert models.radar(sets[:2]) is None
    assert models.radar([*sets[:2], make_summary(scores=[[None]])]) is None
    plot = models.radar(sets)
    assert len(of(plot, "path", "run-area")) == 1
    assert "ASTER-4B (90K): aime24 85.8, aime25 90.0, hmmt25 77.1" in plot.description
    assert "ASTER" not in models.radar([*sets, make_summary("gsm8k")]).description


def test_the_run_stands_beside_the_models_on_every_line():
    plot = models.side_by_side([make_summary(), make_summary("mine")])
    assert len(of(plot, "line", "interval")) == 4
    assert "aime24 at 30K: 75.0" in plot.description
    assert "ASTER-4B (30K) 82.3" in plot.description


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_ticks_are_few_rise_and_lie_between(low, span):
    high = low + span
    found = ticks(low, high)
    assert len(found) <= 7
    assert found == sorted(found)
    slack = 1e-6 * max(abs(low), abs(high))
    assert all(low - slack <= tick <= high + slack for tick in found)


def luminance(colour):
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_text_and_marks_stand_out_in_light_and_dark():
    themes = [dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", STYLE, re.S)]
    assert len(themes) == 2
    assert themes[0].keys() == themes[1].keys()
    for theme in themes:
        assert min(contrast(theme[name], theme["ground"]) for name in ("ink", "soft")) >= 4.5
        marks = ("right", "error", "timeout", "invalid", "m0", "m1", "m2", "m3", "m4", "m5")
        assert min(contrast(theme[name], theme["ground"]) for name in marks) >= 3
