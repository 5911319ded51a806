"""The report's forms: what they say, and what foreign text and missing numbers cannot do to them."""

from __future__ import annotations

import json
import math
import random
import re
import subprocess
import sys
import unicodedata
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aster_env.evaluate import report
from aster_env.evaluate.records import Run, Sample
from aster_env.evaluate.report.cells import clean
from aster_env.evaluate.statistics import summarise

HOSTILE = [
    "<script>alert(1)</script>",
    "]]><img src=x onerror=alert(1)>\"' onload='x",
    "a|b `c` *d* [e](javascript:f) $g$ # h\n\n| i | j |",
    "nul\x00 esc\x1b[31m bell\x07 c1\x9b",
    "half \ud800 of \udfff a pair",
    "turned \u202e around \u2066 and \u200f hidden \u200b",
    "עברית ושלום",
    "漢字" * 40,
    "x" * 100_000,
    "&lt;b&gt; &amp; </style></svg></title>",
]


def make_summary(tasks="aime24", scores=((1, 0), (1, 1)), calls=2, **given):
    chosen = {"prefix": "p", "answer": "42", "model": "tiny", "protocol": "aster", "name": tasks, **given}
    samples = [
        Sample(
            task=f"{chosen['prefix']}{n}",
            sample=m,
            seed=0,
            score=None if score is None else float(score),
            stop="infrastructure" if score is None else "answered",
            answer=chosen["answer"],
            tokens=1000 * (n + 1) + m,
            tool_calls=calls + m,
            seconds=1.5 * (n + 1),
            calls={"ok": calls, "error": m, "timeout": 0, "invalid": 0},
            trajectory={"usage": {"prompt_tokens": 7}},
        )
        for n, row in enumerate(scores)
        for m, score in enumerate(row)
    ]
    manifest = {
        "name": chosen["name"],
        "environment": "ASTER/PythonMath-v0",
        "reward": "math",
        "tasks": {"name": tasks, "count": len(scores), "hash": "0123abcd", "kind": "math"},
        "settings": {
            "policy": {"kind": "chat", "model": chosen["model"]},
            "protocol": chosen["protocol"],
            "k": len(scores[0]) if scores else 1,
            "budgets": [30720, 92160],
            "max_tokens": 92160,
            "max_tool_calls": 50,
            "max_seconds": None,
        },
        "versions": {"aster": "9.8.7"},
        "started": "2031-01-01",
        "wall_seconds": 5.0,
    }
    return summarise(Run(Path("r"), manifest, samples))


def make_comparison(pairs=((1.0, 0.0), (0.5, 0.5), (0.25, 0.75)), a="one", b="two", prefix="p"):
    gaps = [x - y for x, y in pairs]
    mean = sum(gaps) / len(gaps) if gaps else None
    return {
        "a": a, "b": b, "problems": len(pairs), "only_a": 0, "only_b": 1, "p": 0.25, "test": "paired permutation",
        "difference": {"value": mean, "low": -0.5, "high": 0.75}, "wins": sum(g > 0 for g in gaps),
        "losses": sum(g < 0 for g in gaps), "ties": sum(g == 0 for g in gaps),
        "per_problem": [{"task": f"{prefix}{n}", "a": x, "b": y} for n, (x, y) in enumerate(pairs)],
    }  # fmt: skip


def forms(summaries):
    return [report.text(summaries), report.markdown(summaries), report.html(summaries), report.as_json(summaries)]


class Reader(HTMLParser):
    """Reads a page, and fails where a tag is not one of ours or not closed."""

    EMPTY = frozenset({"meta"})
    TAGS = frozenset(
        re.findall(
            r"\w+",
            "html head body meta title style main section div p h1 h2 b bdi table caption thead tbody tr th td details "
            "summary figure figcaption svg desc text line rect path circle",
        )
    )

    def __init__(self, page):
        super().__init__()
        self.open, self.words, self.tags = [], [], []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        assert tag in self.TAGS, tag
        names = {name for name, _ in attributes}
        assert not names & {"src", "href", "style", "id"}
        assert not any(name.startswith("on") for name in names)
        self.tags.append(tag)
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def width(line):
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line)


def test_the_terminal_has_one_row_a_task_set_with_the_nearest_published_model():
    sets = [make_summary("aime24", [[1, 1], [1, 0]]), make_summary("beyond_aime", [[1, 0], [0, 0]])]
    rows = [line for line in report.text(sets).splitlines() if re.match(r"(aime24|beyond_aime) ", line)]
    assert len(rows) == 2
    assert re.search(r"aime24 +2 +75\.0 \[.*\] +100\.0 .* 82\.3/85\.8 ASTER-4B$", rows[0])
    assert rows[1].endswith(" 26.3 ASTER-1.7B")


def test_what_is_not_like_for_like_is_said():
    said = " ".join(report.text([make_summary()]).split())
    assert "Not like for like with the published: aime24: k is 2, theirs 16, 2 problems, theirs 30." in said
    assert "no published protocol was followed" in report.markdown([make_summary(protocol="")])
    assert "Not like" not in report.text([make_summary("my-own.jsonl")])


def test_samples_not_played_yet_are_said_and_are_no_failures():
    summary = {**make_summary("my-own.jsonl", [[1, 0], [None, None], [1, 1]]), "missing": 1234}
    found = report.text([summary])
    assert re.search(r"^tasks +n +.* no score$", found, re.M)
    assert re.search(r"^my-own.jsonl +2 +75\.0 .* 2$", found, re.M)
    assert "Samples not played yet: my-own.jsonl: 1,234." in found
    assert "not played" not in report.text([make_summary()])


@settings(max_examples=25)
@given(st.lists(st.tuples(st.text(max_size=60), st.integers(1, 12), st.integers(1, 4)), min_size=1, max_size=4))
def test_the_terminal_fits_in_100_columns_without_control_characters(sets):
    found = report.text([make_summary(name, [[1] * k] * n, model=name) for name, n, k in sets])
    assert max(map(width, found.splitlines())) <= 100
    assert not [c for c in found if unicodedata.category(c) == "Cc" and c != "\n"]


def test_many_named_budgets_split_the_table_rather_than_the_line():
    summary = make_summary()
    summary["at"] = [{"tokens": 1024 * n, "value": 0.5, "low": 0.1, "high": 0.9} for n in range(1, 30)]
    found = report.text([summary])
    assert max(map(width, found.splitlines())) <= 100
    assert all(f"@{n}K" in found for n in range(1, 30))


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_foreign_text_is_shown_and_never_obeyed(text):
    sets = [make_summary(text, answer=text, model=text, prefix=text, name=text), make_summary("aime24", model=text)]
    sets[0]["stops"][text] = 3
    sets[0]["usage"][text] = 3
    sets[0]["manifest"]["versions"][text] = text
    terminal, markdown, page, plain = forms(sets)
    assert clean(text, 20)[:6].split("<")[0] in "".join(Reader(page).words)
    assert max(map(width, terminal.splitlines())) <= 100
    assert json.loads(plain)["summaries"][0]["policy"] == text
    bare = re.sub(r"\\.", "", markdown)
    assert not re.search(r"[<>`\[\]*]", bare)
    for table in re.findall(r"(?:^\|.*\n)+", bare, re.M):
        assert len({line.count("|") for line in table.splitlines()}) == 1
    for form in (terminal, markdown, page):
        form.encode()
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]", form)
        assert len(form) < 400_000


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_foreign_text_in_a_comparison_is_shown_and_never_obeyed(text):
    found = make_comparison(a=text, b=text, prefix=text)
    Reader(report.compare_html(found))
    assert max(map(width, report.compare_text(found).splitlines())) <= 100
    assert not re.search(r"[<>`\[\]*]", re.sub(r"\\.", "", report.compare_markdown(found)))


@settings(max_examples=60)
@given(st.text())
def test_cleaned_text_is_one_line_of_bounded_length(text):
    assert len(clean(text, 30)) <= 30
    assert len(clean(text, 1000).splitlines()) <= 1


def test_the_page_asks_for_nothing_and_runs_nothing():
    page = report.html([make_summary(tasks) for tasks in ("aime24", "aime25", "hmmt25")])
    assert {"svg", "desc", "title", "caption", "details"} <= set(Reader(page).tags)
    assert "default-src 'none'" in page
    assert not re.search(r"://|url\(|@import|<script|javascript:", page)


NOT_NUMBERS = [None, math.nan, math.inf, -math.inf]


def spoiled(value, choose):
    if isinstance(value, dict):
        return {name: spoiled(part, choose) for name, part in value.items()}
    if isinstance(value, list):
        return [spoiled(part, choose) for part in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        chosen = choose()
        return value if isinstance(chosen, str) else chosen
    return value


@pytest.mark.parametrize("share", [0.02, 0.3, 1.0])
@pytest.mark.parametrize("seed", range(8))
def test_numbers_that_are_missing_or_none_are_dashes(seed, share):
    draw = random.Random(seed)
    sets = [
        spoiled(make_summary(tasks), lambda: draw.choice(NOT_NUMBERS) if draw.random() < share else "keep")
        for tasks in ("aime24", "gsm8k", "mine")
    ]
    terminal, markdown, page, plain = forms(sets)
    for form in (terminal, markdown, "".join(Reader(page).words), page):
        assert not re.search(r"\b(nan|NaN|inf|None|Infinity)\b", form)
    assert "NaN" not in plain
    assert "Infinity" not in plain


@settings(max_examples=30)
@given(st.data())
def test_a_summary_without_some_of_its_parts_is_still_reported(data):
    summary = make_summary()
    for name in data.draw(st.sets(st.sampled_from(sorted(summary)))):
        del summary[name]
    for form in forms([summary]):
        assert "None" not in form


@pytest.mark.parametrize(
    "scores",
    [[], [[1]], [[0]], [[None, None], [None, None]], [[1, None]], [[1]] * 30, [[0] * 16] * 3],
    ids=["no samples", "one right", "one wrong", "all failed", "one failed", "k = 1", "none right"],
)
def test_degenerate_runs_are_reported(scores):
    sets = [make_summary(scores=scores)]
    terminal, markdown, page, plain = forms(sets)
    json.loads(plain)
    Reader(page)
    assert not re.search(r"\bnan\b|None", terminal + markdown + page)
    assert not re.search(r"(?<![\w.])-0\.0", terminal + markdown + page)


def test_no_task_set_at_all_is_said():
    terminal, markdown, page, plain = forms([])
    assert terminal.strip() == "No task set was evaluated."
    assert "No task set" in markdown
    assert "No task set" in page
    assert json.loads(plain) == {"summaries": [], "published": []}


def test_the_pages_are_the_same_for_runs_that_differ_in_their_times_alone():
    early, late = make_summary(), make_summary()
    late["manifest"].update(started="2044-01-01", finished="2044-01-02", wall_seconds=99.0)
    assert report.html([early]) == report.html([late])
    assert report.markdown([early]) == report.markdown([late])
    assert "2031" not in report.html([early])


def test_another_process_writes_the_same_bytes(tmp_path):
    sets = [make_summary(tasks) for tasks in ("aime24", "aime25", "hmmt25")]
    (tmp_path / "in.json").write_text(json.dumps(sets))
    code = "import json, sys; from aster_env.evaluate import report; "
    code += "report.write(sys.argv[2], json.load(open(sys.argv[1])))"
    command = [sys.executable, "-c", code, str(tmp_path / "in.json"), str(tmp_path / "other")]
    subprocess.run(command, check=True, env={"PYTHONHASHSEED": "77", "PATH": ""}, timeout=60)
    for path in report.write(tmp_path / "this", sets):
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes()


def test_versions_seeds_and_hashes_are_in_markdown_and_on_the_page():
    for form in (report.markdown([make_summary()]), report.html([make_summary()])):
        assert "0123abcd" in form
        assert "9.8.7" in form


def test_what_all_task_sets_share_is_said_once():
    found = report.markdown([make_summary("aime24"), make_summary("aime25")])
    assert found.count("9.8.7") == 1
    assert "| tasks.name (aime25) | aime25 |" in found


def test_two_runs_on_one_task_set_are_told_apart_by_name():
    found = report.text([make_summary(name="first"), make_summary(name="second")])
    assert {"first", "second"} <= {line.split(" ")[0] for line in found.splitlines()}
