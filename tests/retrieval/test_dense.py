from __future__ import annotations

import asyncio
import json
import re
import zlib

import numpy as np
import pytest

from aster_env.errors import RetrieverError, UnknownNameError, UsageError
from aster_env.retrieval import CorpusInfo, Passage, Retriever, open_retriever, write_corpus
from aster_env.retrieval.dense import DenseRetriever
from aster_env.retrieval.dense_convert import build_dense
from aster_env.retrieval.dense_index import (
    DenseIndex,
    build_codes,
    choose_factory,
    exact_search,
    read_info,
    recall,
    sample_queries,
)
from aster_env.retrieval.encoder import MINILM, Encoder, EncoderOptions
from aster_env.retrieval.vectors import Vectors

DIM = 32


def words(texts):
    """Encode by hashed words: texts that share words are near."""
    out = np.full((len(texts), DIM), 1e-3, dtype=np.float32)
    for row, text in zip(out, texts, strict=True):
        for word in re.findall(r"\w+", text.lower()):
            row += np.random.default_rng(zlib.crc32(word.encode())).standard_normal(DIM).astype(np.float32)
    return out


def make(folder, count=200, encoder=words, **options):
    passages = (Passage(f"p{n}", f"Title{n}", f"river{n} town{n % 7}") for n in range(count))
    corpus = write_corpus(folder, passages, CorpusInfo("test", "made", "CC0"))
    build_dense(corpus, Encoder(encoder), **options)
    return corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make(tmp_path_factory.mktemp("dense") / "corpus")


def ask(retriever, *searches):
    async def run():
        try:
            return await asyncio.gather(*(retriever.search(*one) for one in searches))
        finally:
            await retriever.close()

    return asyncio.run(run())


def test_the_nearest_passage_comes_first_with_its_cosine(corpus):
    retriever = open_retriever("dense", corpus=corpus, encoder=words)
    assert isinstance(retriever, Retriever)
    [found] = ask(retriever, (["Title42 river42", "", "  "], 3))
    assert [len(one) for one in found] == [3, 0, 0]
    assert found[0][0].id == "p42"
    scores = [passage.score for passage in found[0]]
    assert scores == sorted(scores, reverse=True)
    assert 0 < scores[0] <= 1
    assert retriever.source["sha256"] == corpus.info.sha256
    assert retriever.source["licence"] == "CC0"


def test_searches_that_wait_together_are_encoded_together(corpus):
    batches = []

    def counted(texts):
        batches.append(len(texts))
        return words(texts)

    retriever = DenseRetriever(corpus, counted)
    answers = ask(retriever, *(([f"river{n}", "town3"], 2) for n in range(20)))
    assert len(batches) == 2, "one batch of checked passages, one of queries"
    assert batches[1] == 21
    assert answers[5][0][0].id == "p5"
    assert all(answer[1] == answers[0][1] for answer in answers)


def test_a_query_is_encoded_once_while_the_cache_holds_it(corpus):
    seen = []

    def counted(texts):
        seen.extend(texts)
        return words(texts)

    async def run(cache, queries):
        retriever = DenseRetriever(corpus, counted, cache=cache)
        for query in queries:
            await retriever.search([query])
        await retriever.close()

    asyncio.run(run(2, ["a", "b", "a", "c", "a", "b"]))
    assert [text for text in seen if len(text) == 1] == ["a", "b", "c", "b"]
    seen.clear()
    asyncio.run(run(0, ["a", "a"]))
    assert seen.count("a") == 2


def test_equal_passages_come_in_their_order(tmp_path):
    passages = [Passage(str(n), "", "same words here") for n in range(50)]
    corpus = write_corpus(tmp_path / "c", passages, CorpusInfo("t", "made", "CC0"))
    build_dense(corpus, Encoder(words))
    [found] = ask(DenseRetriever(corpus, words), (["same words"], 10))
    assert [passage.id for passage in found[0]] == [str(n) for n in range(10)]


def test_more_passages_than_there_are_give_all(corpus):
    [found] = ask(DenseRetriever(corpus, words), (["river1"], 10_000))
    assert len({passage.id for passage in found[0]}) == 200


def test_an_index_of_another_corpus_is_refused(tmp_path, corpus):
    other = make(tmp_path / "other", 20)
    with pytest.raises(UsageError, match=r"another corpus.*Fix: remove it"):
        DenseRetriever(other, words, index=corpus.folder / "dense")


def test_what_cannot_work_is_refused_by_the_constructor(tmp_path, corpus):
    for options in ({"nprobe": 0}, {"rerank": "x"}, {"cache": -1}, {"encoder": 7}, {"encoder": tmp_path}):
        with pytest.raises(UsageError, match="Fix:"):
            DenseRetriever(corpus, **{"encoder": words, **options})
    with pytest.raises(UsageError, match="no dense index"):
        DenseRetriever(corpus, words, index=tmp_path)
    with pytest.raises(UsageError, match=r"'words'.*Fix: encoder=FOLDER"):
        DenseRetriever(corpus)
    with pytest.raises(UsageError, match="not the index's"):
        DenseRetriever(corpus, MINILM)
    with pytest.raises(UnknownNameError, match="Did you mean 'mean'"):
        EncoderOptions(pooling="means")


def test_an_encoder_that_did_not_make_the_vectors_is_found_out(corpus):
    def shuffled(texts):
        return words([text[::-1] for text in texts])

    with pytest.raises(UsageError, match="nearest to their own vector"):
        ask(DenseRetriever(corpus, shuffled), (["river1"], 1))
    with pytest.raises(UsageError, match="gives 31 dimensions"):
        ask(DenseRetriever(corpus, lambda texts: words(texts)[:, :31]), (["river1"], 1))


def test_a_failing_encoder_fails_every_waiter_and_the_next_search_works(corpus):
    state = {"fail": False}

    def flaky(texts):
        if state["fail"]:
            raise OSError("no more")
        return words(texts)

    async def run():
        retriever = DenseRetriever(corpus, flaky)
        await retriever.search(["river1"])
        state["fail"] = True
        failed = await asyncio.gather(*(retriever.search([f"x{n}"]) for n in range(3)), return_exceptions=True)
        state["fail"] = False
        works = await retriever.search(["Title2 river2"])
        await retriever.close()
        await retriever.close()
        with pytest.raises(RetrieverError, match="closed"):
            await retriever.search(["river1"])
        return failed, works

    failed, works = asyncio.run(run())
    assert all(isinstance(one, RetrieverError) and "no more" in str(one) for one in failed)
    assert works[0][0].id == "p2"


@pytest.mark.parametrize("bad", [np.nan, None])
def test_numbers_that_are_no_vectors_are_the_encoders_fault(bad):
    encoder = Encoder(lambda texts: np.full((len(texts), 4), bad) if bad is not None else np.zeros((1, 4)))
    with pytest.raises(RetrieverError, match="Fix: it must return"):
        encoder.queries(["a", "b"])


def test_a_cancelled_search_harms_no_other(corpus):
    async def run():
        retriever = DenseRetriever(corpus, words)
        gone = asyncio.create_task(retriever.search(["river1"]))
        await asyncio.sleep(0)
        gone.cancel()
        found = await retriever.search(["river3"])
        await retriever.close()
        return found

    assert asyncio.run(run())[0][0].id == "p3"


@pytest.mark.parametrize("name", ["index.faiss", "vectors.f16", "index.json"])
def test_a_damaged_index_is_an_error_that_names_the_fix(tmp_path, name):
    corpus = make(tmp_path / "c", 30)
    path = corpus.folder / "dense" / name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises((UsageError, RetrieverError), match="Fix: build"):
        ask(DenseRetriever(corpus, words), (["river1"], 1))


def made_vectors(path, count=6_000, dim=64):
    random = np.random.default_rng(0)
    rows = random.standard_normal((count, 8)) @ random.standard_normal((8, dim)) + random.standard_normal((count, dim))
    (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16).tofile(path)
    return Vectors(path, count, dim)


@pytest.mark.parametrize("cells", [0, 16])
def test_codes_and_re_ranking_find_what_the_exact_search_finds(tmp_path, cells):
    with made_vectors(tmp_path / "v") as vectors:
        factory = choose_factory(len(vectors), 64, cells)
        index = DenseIndex(build_codes(vectors, factory), vectors, nprobe=cells)
        queries = sample_queries(vectors, 50)
        exact = exact_search(vectors, queries, 5)
        rows = vectors.rows(np.arange(len(vectors)))
        brute = np.argsort(-np.round(queries @ rows.T, 5), axis=1, kind="stable")[:, :5]
        assert (exact == brute).mean() > 0.99
        found = index.search(queries, 5)
        assert recall(found, exact) > 0.97
        assert recall(index.search(queries, 5, rerank=5), exact) < recall(found, exact)


def test_whoever_reads_all_cells_finds_every_vector(tmp_path):
    with made_vectors(tmp_path / "v") as vectors:
        index = DenseIndex(build_codes(vectors, choose_factory(len(vectors), 64, 256)), vectors, nprobe=256)
        for ids, _ in index.search(sample_queries(vectors, 20), len(vectors)):
            assert len(ids) == len(vectors)


def test_the_kind_of_index_follows_the_size():
    assert choose_factory(500, 384) == "Flat"
    assert choose_factory(100_000, 384) == "PQ96x4fs"
    assert choose_factory(1_000_000, 768) == "PQ192x4fs"
    assert choose_factory(5_000_000, 768) == "IVF8192_HNSW32,PQ192x4fs"
    assert choose_factory(21_015_324, 768) == "IVF16384_HNSW32,PQ192x4fs"


def test_prefixes_and_pooling_come_from_the_models_files(tmp_path):
    for name, prefixes in {
        "e5-base-v2": ("query: ", "passage: "),
        "multilingual_e5_large": ("query: ", "passage: "),
        "e5-mistral-7b-instruct": ("", ""),
        "large5": ("", ""),
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        encoder = Encoder(tmp_path / name)
        assert (encoder.query_prefix, encoder.passage_prefix) == prefixes
    told = {"prompts": {"query": "q: ", "document": "d: "}}
    (tmp_path / "large5" / "config_sentence_transformers.json").write_text(json.dumps(told))
    assert Encoder(tmp_path / "large5").passage_prefix == "d: "
    assert Encoder(tmp_path / "large5", EncoderOptions(query_prefix="")).query_prefix == ""


def test_minilm_finds_by_meaning(tmp_path):
    texts = ["The cat slept on the warm stove.", "Shares fell sharply in New York.", "The bridge crosses the river."]
    corpus = write_corpus(
        tmp_path / "c", [Passage(str(n), "", text) for n, text in enumerate(texts)], CorpusInfo("t", "made", "CC0")
    )
    info = build_dense(corpus, Encoder())
    assert (info.encoder, info.dim, info.factory) == (MINILM, 384, "Flat")
    [found] = ask(DenseRetriever(corpus), (["a kitten naps by the fire", "stock market losses"], 1))
    assert [one[0].id for one in found] == ["0", "1"]
    assert read_info(corpus.folder / "dense").recall == 1.0
    cls = Encoder(options=EncoderOptions(pooling="cls")).queries(["cat"])
    assert not np.allclose(cls, Encoder().queries(["cat"]), atol=0.01)
