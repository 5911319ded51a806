"""What `aster bench web` measures with: the public benchmark's score and layout, and walkers that walk."""

from __future__ import annotations

import asyncio
import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aster_env.envs.web_walker.site import build_site
from aster_env.errors import UsageError
from benchmarks.web import extraction, pages, report, walkers
from benchmarks.web.score import compare, margin, score, shingles

PAGE = """<html><head><title>T</title></head><body><nav><a href="/">Home</a></nav>
<main id="content"><h1>Head<a class="headerlink" href="#h">¶</a></h1><p>One <b>bo</b>ld word.</p><ul><li>two</li>
<li>three</li></ul><p>{}</p><script>no()</script></main><footer>Footer</footer></body></html>"""
PROSE = " ".join(f"Sentence number {n} says that all is well." for n in range(30))


def test_shingles_are_runs_of_four_words_or_all_there_are():
    assert shingles("a b c d, e") == {("a", "b", "c", "d"): 1, ("b", "c", "d", "e"): 1}
    assert shingles("a B!") == {("a", "B"): 1}
    assert shingles(" … ") == {}
    assert shingles("x x x", 1) == {("x",): 3}


def test_the_score_by_hand():
    # Of five words there are two shingles; the extraction has one of them, and one more.
    half = compare("a b c d e", "a b c d x")
    assert half == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert score([half]) == pytest.approx({"f1": 0.5, "precision": 0.5, "recall": 0.5})
    assert compare("a b c d", "") == (0, 0, 1)
    assert compare("", "a b c d") == (0, 1, 0)
    assert compare("", "") == (0, 0, 0)
    # What extracted nothing has no precision; what has no text has no recall; lengths do not weigh.
    long = " ".join(map(str, range(1000)))
    counts = [compare(long, long), compare("a b c d", ""), compare("", "x"), half]
    found = score(counts)
    assert found["precision"] == pytest.approx((1 + 0 + 0.5) / 3)
    assert found["recall"] == pytest.approx((1 + 0 + 0.5) / 3)
    assert score([compare("a", "b")]) == {"f1": 0, "precision": 0, "recall": 0}
    assert margin([half] * 5) == 0


@given(st.lists(st.sampled_from("abcd"), max_size=12), st.lists(st.sampled_from("abcd"), max_size=12))
@settings(max_examples=100, deadline=None)
def test_the_score_is_a_share_and_one_for_the_same_words(truth, found):
    counts = compare(" ".join(truth), "\n".join(found))
    assert sum(counts) == pytest.approx(1 if truth or found else 0)
    assert 0 <= score([counts])["f1"] <= 1
    if truth:
        assert score([compare(" ".join(truth), ", ".join(truth))])["f1"] == 1
    assert compare(" ".join(found), " ".join(truth)) == (counts[0], counts[2], counts[1])


def test_the_public_layout_is_read(tmp_path):
    (tmp_path / "html").mkdir()
    truths = {"b": {"articleBody": "Body of b.", "url": "http://b/"}, "a": {}}
    for name in truths:
        (tmp_path / "html" / f"{name}.html.gz").write_bytes(gzip.compress(b"<html>\xc3\xa9"))
    (tmp_path / "ground-truth.json").write_text(json.dumps(truths))
    found = pages.public(tmp_path)
    assert [(sample.name, sample.truth) for sample in found] == [("a", ""), ("b", "Body of b.")]
    assert found[0].body == b"<html>\xc3\xa9"
    with pytest.raises(UsageError, match=r"ground-truth\.json"):
        pages.public(tmp_path / "html")


def test_documentation_gives_its_text_and_loses_the_mark(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "good.html").write_text(PAGE.format(PROSE))
    (tmp_path / "short.html").write_text(PAGE.format("Few."))
    (tmp_path / "unmarked.html").write_text(PAGE.format(PROSE).replace("main", "div"))
    (tmp_path / "empty.html").write_text("")
    (sample,) = pages.documentation(tmp_path, 10)
    assert sample.truth == f"One bold word.\ntwo\nthree\n{PROSE}"
    assert b"<main" not in sample.body
    assert b"content" not in sample.body
    assert b"Sentence number 29" in sample.body
    with pytest.raises(UsageError, match="no page of prose"):
        pages.documentation(tmp_path / "none", 10)


def test_the_generated_articles_are_known_and_extracted():
    samples = pages.generated(120)
    assert len(samples) >= 40
    assert len({sample.content_type for sample in samples}) > 1
    assert not any("cookie" in sample.truth or "\ufffd" in sample.truth for sample in samples)
    found = extraction.measure(samples[:12])
    assert found["rows"]["ours"]["f1"] > 0.9
    assert found["rows"]["ours"]["empty"] == 0
    assert "ours" in extraction.table({"generated site": found})


def test_walkers_walk_and_nothing_fails():
    row = asyncio.run(walkers._walk(build_site(0, 120), 5, 3))
    assert row["visits"] == 15
    assert row["failures"] == 0
    assert row["told"] < 8
    assert 0 < row["p50_ms"] <= row["p99_ms"]
    goals = {row["name"]: row["reached"] for row in report.judge({"walkers": {"rows": [row]}})}
    assert goals["walkers at once"] is False
    assert goals["their infrastructure failures"] is True
    assert goals["F1 on article pages: public benchmark"] is None
    assert "not measured" in report.goals_table(report.judge({}))
