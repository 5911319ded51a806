from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aster_env import cli
from aster_env.errors import UsageError
from aster_env.retrieval import Corpus, CorpusInfo, Passage, write_corpus

INFO = CorpusInfo("small", "a test", "CC0", "Nobody.")
ROWS = [
    Passage("a", "Ärger", "First text.\u2028Still the first."),
    Passage("b", "", '"quoted"\nsecond'),
    Passage("c", "Third", "北京"),
]


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(tmp_path / "corpus", iter(ROWS), INFO)


def test_what_was_written_is_read(corpus):
    assert list(corpus) == ROWS
    assert corpus[-1] == ROWS[-1]
    assert corpus[1:] == ROWS[1:]
    assert corpus.source == {"corpus": "small", "licence": "CC0", "sha256": corpus.info.sha256}
    assert (corpus.folder / "ATTRIBUTION.md").read_text() == "Nobody.\n"
    with pytest.raises(IndexError):
        corpus[3]
    corpus.verify()


def test_the_same_passages_have_the_same_hash_wherever_they_are(corpus, tmp_path):
    again = write_corpus(tmp_path / "again", ROWS, CorpusInfo("another name", "", "CC0"))
    assert again.info.sha256 == corpus.info.sha256
    other = write_corpus(tmp_path / "other", ROWS[:2], INFO)
    assert other.info.sha256 != corpus.info.sha256


def test_a_corpus_that_was_changed_is_found_out(corpus):
    path = corpus.folder / "passages.jsonl"
    path.write_bytes(path.read_bytes().replace(b"First", b"Other"))
    with pytest.raises(UsageError, match="hash"):
        Corpus(corpus.folder).verify()
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(UsageError, match="sizes"):
        Corpus(corpus.folder)


@pytest.mark.parametrize("name", ["passages.jsonl", "offsets.npy"])
def test_a_lost_part_is_named(corpus, name):
    (corpus.folder / name).unlink()
    with pytest.raises(UsageError, match="damaged"):
        Corpus(corpus.folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": "x"}', "\x00"])
def test_a_damaged_description_is_an_error(corpus, text):
    (corpus.folder / "corpus.json").write_text(text)
    with pytest.raises(UsageError, match="damaged"):
        Corpus(corpus.folder)


def test_offsets_of_another_kind_are_an_error(corpus):
    np.save(corpus.folder / "offsets.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UsageError, match="damaged"):
        Corpus(corpus.folder)


def test_nothing_is_left_of_a_corpus_that_fails(tmp_path):
    def passages():
        yield ROWS[0]
        raise ValueError("the source broke")

    with pytest.raises(ValueError, match="the source broke"):
        write_corpus(tmp_path / "corpus", passages(), INFO)
    with pytest.raises(UsageError, match="id 'a'"):
        write_corpus(tmp_path / "corpus", [ROWS[0], ROWS[0]], INFO)
    with pytest.raises(UsageError, match="at least one"):
        write_corpus(tmp_path / "corpus", [], INFO)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_overwritten(corpus):
    with pytest.raises(UsageError, match="is there already"):
        write_corpus(corpus.folder, ROWS, INFO)
    assert len(Corpus(corpus.folder)) == 3


def test_no_corpus_says_how_to_make_one(tmp_path):
    with pytest.raises(UsageError, match="aster corpus build"):
        Corpus(tmp_path)


@given(st.text(), st.text())
def test_contents_are_read_as_they_were_written(title, text):
    # A title with a line break is none, and quotes around an empty one cannot be told from text.
    title = " ".join(title.split("\n"))
    passage = Passage("x", title, text if title else f"plain {text}")
    assert Passage.from_contents("x", passage.contents) == passage


def test_the_commands_build_and_show_a_corpus(tmp_path, capsys):
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps({"title": f"T{n}", "text": f"Text number {n}."}) + "\n" for n in range(9)))
    folder = str(tmp_path / "corpus")
    assert cli.main(["corpus", "build", str(source), folder, "--limit", "7", "--licence", "CC0", "--json"]) == 0
    built = json.loads(capsys.readouterr().out)
    assert (built["passages"], built["licence"], built["format"], built["name"]) == (7, "CC0", "jsonl", "rows")
    assert cli.main(["corpus", "show", folder, "--verify", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["sha256"] == built["sha256"]
    assert shown["indices"] == ["lexical"]
    assert shown["verified"] is True
    assert cli.main(["corpus", "show", folder]) == 0
    assert "CC0" in capsys.readouterr().out


def test_a_command_that_cannot_work_ends_before_anything_is_written(tmp_path, capsys):
    source = tmp_path / "rows.jsonl"
    source.write_text('{"text": "x"}\n')
    for more, said in (
        (["--limit", "0"], "--limit 0"),
        (["--threads", "0"], "--threads 0"),
        (["--format", "jsonll"], "Did you mean 'jsonl'?"),
        (["--passage-words", "-1"], "-1 words"),
    ):
        assert cli.main(["corpus", "build", str(source), str(tmp_path / "corpus"), *more]) == 2
        assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [source]


def test_an_unknown_licence_is_said(tmp_path, capsys):
    source = tmp_path / "rows.jsonl"
    source.write_text('{"text": "x"}\n')
    assert cli.main(["corpus", "build", str(source), str(tmp_path / "corpus"), "--no-index"]) == 0
    assert "--licence" in capsys.readouterr().err
    assert not (tmp_path / "corpus" / "lexical").exists()
