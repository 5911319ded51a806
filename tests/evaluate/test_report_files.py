"""The report's files, and comparisons."""

from __future__ import annotations

import json
import re
import threading

import pytest

from aster_env.evaluate import report
from tests.evaluate.test_report import Reader, make_comparison, make_summary


def test_three_files_are_written_and_nothing_else(tmp_path):
    paths = report.write(tmp_path / "new", [make_summary()])
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["report.html", "report.json", "report.md"]
    assert json.loads(paths[0].read_text())["published"][0]["source"] == "ASTER, arXiv:2602.01204"
    assert paths[0].stat().st_mode & 0o777 == 0o644


def test_a_file_that_cannot_be_replaced_leaves_nothing_behind(tmp_path):
    (tmp_path / "report.html").mkdir()
    with pytest.raises(OSError, match=r"report\.html"):
        report.write(tmp_path, [make_summary()])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.json", "report.md"]


def test_a_reader_never_sees_half_a_file(tmp_path):
    small, large = [make_summary()], [make_summary(scores=[[1, 0]] * 50)]
    report.write(tmp_path, small)
    done = threading.Event()

    def rewrite():
        for n in range(8):
            report.write(tmp_path, large if n % 2 else small)
        done.set()

    writer = threading.Thread(target=rewrite)
    writer.start()
    sizes = set()
    while not done.is_set():
        sizes.add(json.loads((tmp_path / "report.json").read_text())["summaries"][0]["problems"])
    writer.join()
    assert sizes <= {2, 50}


def test_a_comparison_says_difference_p_and_who_is_better():
    found = make_comparison()
    lines = report.compare_text(found).splitlines()
    assert "difference a − b, points: +16.7 [-50.0 to +75.0]" in lines
    assert "p: 0.2500 (paired permutation)" in lines
    assert "a better, b better, equal: 1, 1, 1" in lines
    assert re.search(r"^p0 +100\.0 +0\.0 +\+100\.0$", "\n".join(lines), re.M)
    assert "| p2 | 25.0 | 75.0 | -50.0 |" in report.compare_markdown(found)


def test_a_comparison_draws_a_bar_for_each_problem_that_differs():
    page = report.compare_html(make_comparison())
    Reader(page)
    assert page.count('class="right"') == 1
    assert page.count('class="wrong"') == 1
    assert "p0: 100.0 and 0.0, +100.0" in page


@pytest.mark.parametrize("pairs", [(), ((1.0, 1.0),), ((None, 0.5),)], ids=["none", "equal", "no score"])
def test_a_comparison_of_little_is_shown(pairs):
    found = make_comparison(pairs=[p for p in pairs if None not in p])
    found["per_problem"] = [{"task": "t", "a": a, "b": b} for a, b in pairs]
    found["p"] = float("nan")
    for form in (report.compare_text(found), report.compare_markdown(found), report.compare_html(found)):
        assert not re.search(r"\bnan\b|None", form)


def test_a_comparison_is_written_as_three_files(tmp_path):
    paths = report.write_comparison(tmp_path, make_comparison())
    assert [p.name for p in paths] == ["compare.json", "compare.md", "compare.html"]
    assert json.loads(paths[0].read_text())["wins"] == 1
