from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aster_env import cli
from aster_env.errors import RetrieverError, UsageError
from aster_env.retrieval import CorpusInfo, Passage, Retriever, lexical_index, open_retriever, write_corpus
from aster_env.retrieval.lexical import MAX_CHARACTERS, LexicalRetriever, build_lexical

INFO = CorpusInfo("small", "a test", "CC0")
ROWS = [
    Passage("lamp", "Oil lamp", "A lamp that burns oil. Lamps were used in houses."),
    Passage("run", "Running", "She runs every morning, and likes the runners of Malmö."),
    Passage("who", "The Who", "A band from London."),
    Passage("empty", "Silence", ""),
    Passage("king", "Kingdom of Björn", "The king's houses stood near the river."),
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    made = write_corpus(tmp_path_factory.mktemp("lexical") / "corpus", ROWS, INFO)
    build_lexical(made, threads=1)
    return made


@pytest.fixture
def copied(corpus, tmp_path):
    shutil.copytree(corpus.folder, tmp_path / "copy")
    return tmp_path / "copy"


def search(corpus, *queries, n=5, **options):
    async def run():
        retriever = LexicalRetriever(corpus, **options)
        try:
            return await retriever.search(queries, n)
        finally:
            await retriever.close()

    return asyncio.run(run())


def names(found):
    return [[passage.id for passage in passages] for passages in found]


def test_words_are_found_by_their_stems_without_accents_and_in_titles(corpus):
    assert names(search(corpus, "running shoes", "BJORN", "malmo", "silence", "oil lamps")) == [
        ["run"],
        ["king"],
        ["run"],
        ["empty"],
        ["lamp"],
    ]


def test_a_passage_comes_with_its_text_and_a_falling_score(corpus):
    (found,) = search(corpus, "houses lamp")
    assert [(p.id, p.title, p.text) for p in found] == [(ROWS[i].id, ROWS[i].title, ROWS[i].text) for i in (0, 4)]
    assert found[0].score > found[1].score > 0


def test_a_query_without_a_word_of_the_index_finds_nothing(corpus):
    assert search(corpus, "", " ", "the of and", "xylophone", "?!", "\ud800\x00") == [[]] * 6
    assert search(corpus) == []


def test_question_words_count_only_where_there_is_no_other(corpus):
    assert names(search(corpus, "the who", "who lit the lamp")) == [["who"], ["lamp"]]


@pytest.mark.parametrize(
    "query",
    ['title:("lamp', "lamp AND NOT", "+lamp -lamp", "lamp^9 OR *", "text:lamp~2 [a TO b]", "{lamp}\\", "/lamp/"],
)
def test_no_character_of_a_query_is_syntax(corpus, query):
    assert names(search(corpus, query))[0][0] == "lamp"


def test_hostile_text_of_any_kind_is_searched(corpus):
    retriever = LexicalRetriever(corpus)

    @given(st.text(max_size=200) | st.text(alphabet='"():+-*~^[]{}\\/ANDORT lamp', max_size=80))
    def claim(query):
        (found,) = asyncio.run(retriever.search([query]))
        assert len(found) <= 5

    claim()
    asyncio.run(retriever.close())


def test_of_a_long_query_the_beginning_counts(corpus):
    index = lexical_index.LexicalIndex(corpus.folder / "lexical")
    assert index.terms("lamp " * 10) == ["lamp"]
    assert index.terms(f"lamp {'x ' * MAX_CHARACTERS} river") == ["lamp", "x"]
    assert len(index.terms(" ".join(f"w{n}" for n in range(500)))) == lexical_index.MAX_TERMS
    assert names(search(corpus, "lamp " + "river " * 200_000)) == names(search(corpus, "lamp river"))


def test_equal_scores_are_ordered_by_position_however_the_index_was_built(tmp_path):
    kinds = ["blue stone", "red stone", "blue stone"]
    rows = [Passage(str(n), "", kinds[n % 3]) for n in range(6000)]
    corpus = write_corpus(tmp_path / "corpus", rows, INFO)
    results = []
    for threads in (1, 3):
        build_lexical(corpus, tmp_path / f"index-{threads}", threads)
        results.append(search(corpus, "stone", "red", n=50, index=tmp_path / f"index-{threads}"))
    assert results[0] == results[1]
    assert names(results[0]) == [[str(n) for n in range(50)], [str(n) for n in range(1, 150, 3)]]


def test_bm25_is_that_of_the_textbook(tmp_path):
    # Lengths below 40 words are kept exactly in the index; k1 = 1.2 and b = 0.75.
    rng = random.Random(5)
    words = [f"word{n}" for n in range(30)]
    texts = [[rng.choice(words) for _ in range(rng.randint(3, 30))] for _ in range(200)]
    corpus = write_corpus(tmp_path / "c", [Passage(str(n), "", " ".join(t)) for n, t in enumerate(texts)], INFO)
    build_lexical(corpus, threads=2)
    from math import log

    mean = sum(map(len, texts)) / len(texts)

    def score(text, query):
        total = 0.0
        for word in query:
            df, tf = sum(word in t for t in texts), text.count(word)
            idf = log(1 + (len(texts) - df + 0.5) / (df + 0.5))
            total += idf * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * len(text) / mean))
        return total

    query = ["word3", "word7", "word11"]
    (found,) = search(corpus, " ".join(query), n=20)
    expected = sorted((-round(score(text, query), 3), n) for n, text in enumerate(texts))[:20]
    assert [p.score for p in found] == pytest.approx([-value for value, _ in expected], abs=2e-3)


def test_a_batch_finds_what_single_queries_find_and_searches_share_the_index(corpus):
    queries = ["lamp", "", "river", "run", "band", "king", "silence"] * 9

    async def run():
        retriever = LexicalRetriever(corpus)
        batch, *single = await asyncio.gather(
            retriever.search(queries), *(retriever.search([query]) for query in queries)
        )
        await retriever.close()
        return batch, [found for (found,) in single]

    batch, single = asyncio.run(run())
    assert batch == single


def test_the_event_loop_goes_on_while_a_search_waits(corpus, monkeypatch):
    reached, go = threading.Event(), threading.Event()
    opened = lexical_index.LexicalIndex.__init__

    def slow(self, folder):
        reached.set()
        assert go.wait(20)
        opened(self, folder)

    monkeypatch.setattr(lexical_index.LexicalIndex, "__init__", slow)

    async def run():
        retriever = LexicalRetriever(corpus)
        searching = asyncio.ensure_future(retriever.search(["lamp"]))
        while not reached.is_set():
            await asyncio.sleep(0.001)
        go.set()
        found = await searching
        await retriever.close()
        return found

    assert names(asyncio.run(run())) == [["lamp"]]


def test_it_is_a_retriever_that_says_its_source(corpus):
    retriever = open_retriever("lexical", corpus=str(corpus.folder))
    assert isinstance(retriever, Retriever)
    assert retriever.source == {"retriever": "lexical", **corpus.source}


def test_close_is_harmless_twice_and_final(corpus):
    async def run():
        retriever = LexicalRetriever(corpus)
        await retriever.search(["lamp"])
        before = threading.active_count()
        await retriever.close()
        await retriever.close()
        # Closing itself ran in a thread of the loop.
        assert threading.active_count() <= before
        assert not [t for t in threading.enumerate() if t.name.startswith("aster-lexical")]
        with pytest.raises(UsageError, match="closed"):
            await retriever.search(["lamp"])

    asyncio.run(run())


@pytest.mark.parametrize(("queries", "n"), [("lamp", 5), ([b"lamp"], 5), ([None], 5), (["lamp"], 0), (["lamp"], -1)])
def test_a_call_that_cannot_work_is_an_error_of_usage(corpus, queries, n):
    with pytest.raises(UsageError, match="Fix"):
        asyncio.run(LexicalRetriever(corpus).search(queries, n))


def test_without_an_index_the_command_is_named(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", ROWS, INFO)
    with pytest.raises(UsageError, match=f"Fix: aster index build {corpus.folder}"):
        LexicalRetriever(corpus)
    with pytest.raises(UsageError, match="--index"):
        LexicalRetriever(corpus, tmp_path / "elsewhere")


def test_an_index_of_other_passages_is_refused(corpus, tmp_path):
    other = write_corpus(tmp_path / "other", ROWS[::-1], INFO)
    with pytest.raises(UsageError, match=r"other passages.*Fix: aster index build"):
        LexicalRetriever(other, corpus.folder / "lexical")


def test_a_damaged_index_is_refused_before_a_search(copied):
    folder = copied / "lexical"
    info = json.loads((folder / "lexical.json").read_text())
    largest = max(info["files"], key=info["files"].get)
    os.truncate(folder / largest, 3)
    with pytest.raises(UsageError, match="another size"):
        LexicalRetriever(copied)
    (folder / largest).unlink()
    with pytest.raises(UsageError, match="lacks"):
        LexicalRetriever(copied)
    for text in ("", "[]", "{}", '{"version": 1, "sha256": 1, "files": 3}', json.dumps({**info, "version": 99})):
        (folder / "lexical.json").write_text(text)
        with pytest.raises(UsageError, match="Fix: aster index build"):
            LexicalRetriever(copied)


@pytest.mark.parametrize("part", ["meta.json", "idx", "term", "fieldnorm", "fast", "passages.jsonl"])
def test_damage_that_only_a_search_meets_is_a_failure_of_the_backend(copied, part):
    if part == "passages.jsonl":
        paths = [copied / part]
    else:
        paths = [path for path in (copied / "lexical").iterdir() if path.name.endswith(part)]
        paths = [path for path in paths if path.name != "lexical.json"]
    retriever = LexicalRetriever(copied)
    assert paths
    for path in paths:
        path.write_bytes(b"\xff" * path.stat().st_size)
    fix = "corpus .* is damaged" if part == "passages.jsonl" else "aster index build"
    with pytest.raises(RetrieverError, match=fix):
        asyncio.run(retriever.search(["lamp", "houses"]))
    asyncio.run(retriever.close())


def test_a_rebuilt_index_takes_the_place_and_an_open_one_goes_on(copied):
    async def run():
        retriever = LexicalRetriever(copied)
        before = await retriever.search(["houses"])
        build_lexical(copied, threads=1)
        assert await retriever.search(["houses"]) == before
        await retriever.close()
        again = LexicalRetriever(copied)
        assert await again.search(["houses"]) == before
        await again.close()

    asyncio.run(run())
    assert not [path for path in copied.iterdir() if path.name.startswith(".")]


def test_a_build_that_fails_leaves_what_was_there(copied):
    path = copied / "passages.jsonl"
    path.write_bytes(b"x" * path.stat().st_size)
    before = sorted((copied / "lexical").iterdir())
    with pytest.raises(UsageError, match="--verify"):
        build_lexical(copied, threads=1)
    assert sorted((copied / "lexical").iterdir()) == before
    assert not [path for path in copied.iterdir() if path.name.startswith(".")]


def test_a_folder_with_something_else_is_not_replaced(corpus, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="no lexical index"):
        build_lexical(corpus, tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    with pytest.raises(UsageError, match="0 threads"):
        build_lexical(corpus, tmp_path / "new", threads=0)


def test_the_index_holds_no_text(corpus):
    held = b"".join(path.read_bytes() for path in (corpus.folder / "lexical").iterdir())
    assert b"burns oil" not in held
    assert b"Running" not in held


def test_the_command_builds_an_index(copied, capsys):
    shutil.rmtree(copied / "lexical")
    assert cli.main(["index", "build", str(copied), "--threads", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["kind"], report["passages"]) == ("lexical", len(ROWS))
    assert names(search(copied, "lamp")) == [["lamp"]]
    assert cli.main(["index", "build", str(copied), "--kind", "lexcal"]) == 2
    assert "Did you mean 'lexical'?" in capsys.readouterr().err
