from __future__ import annotations

import argparse
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aster_env.errors import UsageError
from aster_env.retrieval import Corpus, CorpusInfo, Passage, write_corpus
from aster_env.retrieval import dense_commands as commands
from aster_env.retrieval.dense_convert import FlatFile, convert_flat
from aster_env.retrieval.dense_index import DenseIndex, import_faiss, read_info
from aster_env.retrieval.encoder import Encoder

from .test_dense import DIM, make, words


def flat_of(corpus, path, kind="IP"):
    faiss = import_faiss()
    index = {
        "IP": lambda: faiss.IndexFlatIP(DIM),
        "L2": lambda: faiss.IndexFlatL2(DIM),
        "half": lambda: faiss.IndexScalarQuantizer(DIM, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT),
        "byte": lambda: faiss.IndexScalarQuantizer(DIM, faiss.ScalarQuantizer.QT_8bit),
        "map": lambda: faiss.IndexIDMap2(faiss.IndexFlatIP(DIM)),
        "hnsw": lambda: faiss.IndexHNSWFlat(DIM, 8),
    }[kind]()
    vectors = Encoder(words).passages([passage.contents for passage in corpus])
    if kind == "map":
        index.add_with_ids(vectors, np.arange(len(vectors)))
    else:
        index.train(vectors)
        index.add(vectors)
    faiss.write_index(index, str(path))
    return vectors


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make(tmp_path_factory.mktemp("convert") / "corpus", 1_500)


@pytest.mark.parametrize("kind", ["IP", "L2", "half"])
def test_a_flat_index_becomes_the_same_small_one(tmp_path, corpus, kind):
    vectors = flat_of(corpus, tmp_path / "flat", kind)
    flat = FlatFile(tmp_path / "flat")
    assert (flat.count, flat.dim) == vectors.shape
    assert np.allclose(np.concatenate(list(flat.chunks(700))), vectors, atol=1e-3)
    info = convert_flat(flat, corpus, Encoder(words), tmp_path / "dense")
    built = read_info(corpus.folder / "dense")
    assert info.corpus_sha256 == corpus.info.sha256
    assert (info.factory, info.dim, info.encoder) == (built.factory, built.dim, built.encoder)
    one, other = DenseIndex.open(tmp_path / "dense"), DenseIndex.open(corpus.folder / "dense")
    for mine, theirs in zip(one.search(vectors[:20], 5), other.search(vectors[:20], 5), strict=True):
        assert mine[0][0] == theirs[0][0]
    one.close()
    other.close()


@pytest.mark.parametrize("kind", ["byte", "map", "hnsw"])
def test_another_kind_of_index_is_refused(tmp_path, corpus, kind):
    flat_of(corpus, tmp_path / "flat", kind)
    with pytest.raises(UsageError, match="Fix:"):
        FlatFile(tmp_path / "flat")


def test_vectors_of_another_corpus_are_refused_before_anything_is_written(tmp_path, corpus):
    flat_of(corpus, tmp_path / "flat")
    flat = FlatFile(tmp_path / "flat")
    small = make(tmp_path / "small", 10)
    with pytest.raises(UsageError, match="1500 vectors and the corpus 10 passages"):
        convert_flat(flat, small, Encoder(words), tmp_path / "dense")
    backwards = write_corpus(tmp_path / "b", list(corpus)[::-1], CorpusInfo("b", "made", "CC0"))
    with pytest.raises(UsageError, match="in its order"):
        convert_flat(flat, backwards, Encoder(words), tmp_path / "dense")
    with pytest.raises(UsageError, match="is there already"):
        convert_flat(flat, corpus, Encoder(words))
    assert {path.name for path in tmp_path.iterdir()} == {"flat", "small", "b"}


def test_vectors_that_are_not_of_length_one_are_refused(tmp_path, corpus):
    faiss = import_faiss()
    index = faiss.IndexFlatIP(DIM)
    index.add(np.full((len(corpus), DIM), 3.0, dtype=np.float32))
    faiss.write_index(index, str(tmp_path / "flat"))
    with pytest.raises(UsageError, match="allowed is 1"):
        convert_flat(FlatFile(tmp_path / "flat"), corpus, Encoder(words), tmp_path / "dense")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_damage_to_the_header_is_an_error_of_usage_or_still_fits(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged"
    rows, faiss = np.arange(12, dtype=np.float32).reshape(3, 4), import_faiss()
    index = faiss.IndexFlatIP(4)
    index.add(rows)
    whole = bytearray(faiss.serialize_index(index).tobytes())
    if data.draw(st.booleans()):
        whole[data.draw(st.integers(0, 44))] = data.draw(st.integers(0, 255))
    whole = whole[: data.draw(st.integers(0, len(whole)))] if data.draw(st.booleans()) else whole
    path.write_bytes(whole)
    try:
        flat = FlatFile(path)
    except UsageError:
        return
    else:
        assert (flat.count, flat.dim) == (3, 4)
        assert np.array_equal(next(flat.chunks()), rows)


_CHILD = """
import sys, threading
from pathlib import Path
from aster_env.retrieval import Corpus, dense_convert, dense_index
from aster_env.retrieval.encoder import Encoder
dense_index.TRAINING_ROWS = 2048
dense_convert.TUNING_QUERIES = 4
dense_index.import_faiss()
# Pages of the vectors' map belong to the system; what the process itself holds is anonymous.
own = lambda: int(Path('/proc/self/status').read_text().split('RssAnon:')[1].split()[0])
before, peak, done = own(), 0, threading.Event()
def watch():
    global peak
    while not done.wait(0.002):
        peak = max(peak, own())
watcher = threading.Thread(target=watch)
watcher.start()
flat = dense_convert.FlatFile(sys.argv[1])
corpus = Corpus(sys.argv[2])
dense_convert.convert_flat(flat, corpus, Encoder(lambda texts: []), Path(sys.argv[3]), check=False)
done.set()
watcher.join()
print(peak - before)
"""


def test_converting_takes_far_less_memory_than_the_flat_index(tmp_path):
    count, dim = 60_000, 768
    random, faiss = np.random.default_rng(0), import_faiss()
    block = random.standard_normal((6_000, dim), dtype=np.float32)
    block /= np.linalg.norm(block, axis=1, keepdims=True)
    index = faiss.IndexFlatIP(dim)
    for _ in range(count // len(block)):
        index.add(block)
    faiss.write_index(index, str(tmp_path / "flat"))
    del index
    passages = (Passage(str(n), "", "x") for n in range(count))
    write_corpus(tmp_path / "c", passages, CorpusInfo("t", "made", "CC0"))
    command = [sys.executable, "-c", _CHILD, str(tmp_path / "flat"), str(tmp_path / "c"), str(tmp_path / "dense")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    kilobytes, whole = int(done.stdout), count * dim * 4 // 1024
    # Chunks of 12 MB, the sample of 6, codes of 6 and BLAS' buffers: none of it grows with the file but the codes.
    assert 0 < kilobytes < whole * 0.5, (kilobytes, whole)
    made = DenseIndex.open(tmp_path / "dense")
    total = made.codes.ntotal
    made.close()
    assert total == count


def options(add, *arguments):
    parser = argparse.ArgumentParser()
    add(parser)
    return parser.parse_args([str(one) for one in arguments])


def test_eval_chooses_nprobe_for_the_recall_and_keeps_it(tmp_path, corpus, capsys, monkeypatch):
    flat_of(corpus, tmp_path / "flat")
    folder = tmp_path / "dense"
    convert_flat(FlatFile(tmp_path / "flat"), corpus, Encoder(words), folder, cells=16, target=0.2)
    before = read_info(folder)
    arguments = (corpus.folder, "--index", folder, "--recall", "0.97", "--json")
    assert commands.evaluate(options(commands.add_eval_arguments, *arguments)) == 0
    report = json.loads(capsys.readouterr().out)
    after = read_info(folder)
    assert after.nprobe == report["nprobe"] > before.nprobe
    assert after.recall == report["recall"] >= 0.97
    assert [recall for _, recall in report["tried"][:-1]] == [r for _, r in report["tried"][:-1] if r < 0.97]
    with pytest.raises(UsageError, match="--recall 2"):
        commands.evaluate(options(commands.add_eval_arguments, corpus.folder, "--recall", "2"))
    with pytest.raises(UsageError, match="cannot be read"):
        commands.evaluate(options(commands.add_eval_arguments, corpus.folder, "--queries", tmp_path / "none"))


def test_build_and_convert_on_the_command_line(tmp_path, capsys):
    texts = ["The cat slept.", "Shares fell.", "A bridge over water.", "Rain in the hills."]
    corpus = write_corpus(
        tmp_path / "c", [Passage(str(n), "", text) for n, text in enumerate(texts)], CorpusInfo("t", "made", "CC0")
    )
    assert commands.build(options(commands.add_build_arguments, corpus.folder)) == 0
    assert "4 vectors of 384" in capsys.readouterr().out
    faiss = import_faiss()
    index = faiss.IndexFlatIP(384)
    index.add(Encoder().passages([passage.contents for passage in corpus]))
    faiss.write_index(index, str(tmp_path / "flat"))
    added = (tmp_path / "flat", corpus.folder, "--index", tmp_path / "d", "--json")
    assert commands.convert(options(commands.add_convert_arguments, *added)) == 0
    assert json.loads(capsys.readouterr().out)["passages"] == 4
    (tmp_path / "q.txt").write_text("a sleeping cat\n\nweather\n")
    added = (corpus.folder, "--index", tmp_path / "d", "--queries", tmp_path / "q.txt")
    assert commands.evaluate(options(commands.add_eval_arguments, *added)) == 0
    assert "over 2 queries" in capsys.readouterr().out
    assert len(Corpus(corpus.folder)) == 4
