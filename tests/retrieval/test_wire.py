"""The wire forms, against what the published clients send and read."""

from __future__ import annotations

import contextlib
import json
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aster_env.errors import UsageError
from aster_env.retrieval.base import Passage
from aster_env.retrieval.wire import WIRES, Asked, SearchR1, ToolStarSingle, wire_of

FOUND = [[Passage("7", "Tallinn", "A city.", 0.5), Passage("9", "", "No “title”.", None)], []]

# What `requests.post(url, json=…)` of each published client puts on the wire.
TOOLSTAR = b'{"query": ["who wrote it", "when"], "top_n": 5}'
TOOLSTAR_SINGLE = b'{"query": "1+1=?", "top_n": 5, "return_score": true}'
SEARCH_R1 = (
    b'{"queries": ["What is the capital of France?", "Explain neural networks."], "topk": 5, "return_scores": true}'
)
# msgspec.msgpack.encode of {"queries": ["capital of China"], "topk": 3, "return_scores": True}
GEM = b"\x83\xa7queries\x91\xb0capital of China\xa4topk\x03\xadreturn_scores\xc3"

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
titles = texts.filter(lambda text: "\n" not in text)
scores = st.none() | st.floats(allow_nan=False, allow_infinity=False)
passages = st.builds(Passage, texts, titles, texts, scores)

keys = st.sampled_from(["result", "document", "contents", "id", "score", "query", "queries", "topk"])
leaves = st.none() | st.booleans() | st.integers() | texts
values = st.recursive(leaves, lambda v: st.lists(v, max_size=3) | st.dictionaries(keys, v, max_size=3), max_leaves=12)
shaped = values.map(lambda value: json.dumps(value).encode())


def same(ours: Passage, theirs: Passage) -> bool:
    return (ours.id, ours.contents, ours.score) == (theirs.id, theirs.contents, theirs.score)


def test_published_requests_are_read():
    assert wire_of("/batch_search", TOOLSTAR).decode(TOOLSTAR) == Asked(("who wrote it", "when"), 5, False)
    assert wire_of("/search", TOOLSTAR_SINGLE).decode(TOOLSTAR_SINGLE) == Asked(("1+1=?",), 5, True)
    both = ("What is the capital of France?", "Explain neural networks.")
    assert wire_of("/retrieve", SEARCH_R1).decode(SEARCH_R1) == Asked(both, 5, True)
    assert wire_of("/retrieve", GEM).name == "gem"
    assert wire_of("/retrieve", GEM).decode(GEM) == Asked(("capital of China",), 3, True)


def test_our_client_sends_what_the_published_clients_send():
    both = ["What is the capital of France?", "Explain neural networks."]
    assert WIRES["search-r1"].encode(both, 5) == WIRES["skyrl"].encode(both, 5) == SEARCH_R1
    assert WIRES["gem"].encode(["capital of China"], 3) == GEM
    assert WIRES["toolstar"].encode(["who wrote it", "when"], 5) == TOOLSTAR[:-1] + b', "return_score": true}'
    assert dict(WIRES["skyrl"].headers)["accept"] == "application/json"
    assert "content-type" not in WIRES["gem"].headers


def test_answers_are_those_of_the_published_servers():
    seven = b'{"id":"7","contents":"\\"Tallinn\\"\\nA city."}'
    nine = '{"id":"9","contents":"No “title”."}'.encode()
    scored, plain = Asked(("a", "b"), 2, True), Asked(("a", "b"), 2, False)
    r1, batch, single = WIRES["search-r1"], WIRES["toolstar"], ToolStarSingle()
    with_scores = b'[{"document":%b,"score":0.5},{"document":%b,"score":null}]' % (seven, nine)
    assert r1.render(scored, FOUND) == b'{"result":[%b,[]]}' % with_scores
    assert r1.render(plain, FOUND) == b'{"result":[[%b,%b],[]]}' % (seven, nine)
    assert batch.render(plain, FOUND) == b"[[%b,%b],[]]" % (seven, nine)
    assert batch.render(scored, FOUND) == b"[[[%b,%b],[]],[[0.5,null],[]]]" % (seven, nine)
    assert single.render(plain, FOUND[:1]) == b"[%b,%b]" % (seven, nine)
    assert single.render(scored, FOUND[:1]) == b"[[%b,%b],[0.5,null]]" % (seven, nine)
    packed = msgspec.msgpack.decode(WIRES["gem"].render(scored, FOUND))
    assert packed == json.loads(r1.render(scored, FOUND))


def test_the_published_clients_can_read_a_passage_out_of_an_answer():
    answer = json.loads(WIRES["search-r1"].render(Asked(("a", "b"), 2, True), FOUND))
    content = answer["result"][0][0]["document"]["contents"]
    assert (content.split("\n")[0], "\n".join(content.split("\n")[1:])) == ('"Tallinn"', "A city.")
    lines = [line["contents"] for line in json.loads(WIRES["toolstar"].render(Asked(("a", "b"), 2, False), FOUND))[0]]
    assert lines == ['"Tallinn"\nA city.', "No “title”."]


def test_a_default_is_the_published_servers():
    assert WIRES["toolstar"].decode(b'{"query": ["a"]}') == Asked(("a",), 10, False)
    assert WIRES["search-r1"].decode(b'{"queries": []}') == Asked((), 3, False)
    assert WIRES["search-r1"].decode(b'{"queries": ["a"], "topk": null}').n == 3
    assert WIRES["search-r1"].decode(b'{"queries": ["a"], "topk": 0}').n == 3


@pytest.mark.parametrize("wire", [*WIRES.values(), ToolStarSingle()], ids=lambda wire: type(wire).__name__)
@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b"\x91" * 100_000, b"7" * 9999]
)
def test_garbage_is_refused_with_a_fix(wire, body):
    with pytest.raises(UsageError, match="Fix: ") as refused:
        wire.decode(body)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    ("wire", "raw", "said"),
    [
        ("search-r1", {"queries": ["a"], "top_k": 3}, "Did you mean 'topk'"),
        ("search-r1", {"queries": "a"}, "'queries' is 'a'"),
        ("search-r1", {"queries": ["a", 1]}, "'queries' is"),
        ("search-r1", {"queries": ["a"], "topk": False}, "'topk' is False"),
        ("search-r1", {"queries": ["a"], "topk": -1}, "'topk' is -1"),
        ("search-r1", {"queries": ["a"], "topk": 1001}, "1 to 1000"),
        ("search-r1", {"queries": ["a"], "topk": 2.0}, "'topk' is 2.0"),
        ("search-r1", {"queries": ["a"], "return_scores": "yes"}, "true or false"),
        ("search-r1", {"topk": 3}, "not 'queries'"),
        ("toolstar", {"query": "a"}, "'query' is 'a'"),
        ("toolstar", {"query": ["a"], "topk": 3}, "key of the request 'topk'"),
        ("toolstar", {"query": ["a"], "x" * 10_000: 3}, "xxx…"),
    ],
)
def test_a_wrong_request_is_told_what_is_allowed(wire, raw, said):
    with pytest.raises(UsageError, match=re.escape(said)):
        WIRES[wire].decode(json.dumps(raw).encode())


@pytest.mark.parametrize("query", ["", " \n"])
def test_one_blank_query_is_refused_and_one_of_several_is_not(query):
    with pytest.raises(UsageError, match="Query content cannot be empty"):
        ToolStarSingle().decode(json.dumps({"query": query}).encode())
    assert WIRES["toolstar"].decode(json.dumps({"query": [query]}).encode()).queries == (query,)


def test_half_of_a_surrogate_pair_becomes_a_question_mark():
    assert WIRES["search-r1"].decode(b'{"queries": ["a\\ud800b"]}').queries == ("a?b",)
    assert b"a?b" in WIRES["search-r1"].render(Asked(("a",), 1, False), [[Passage("1", "", "a\ud800b")]])


@pytest.mark.parametrize("name", WIRES)
@given(queries=st.lists(texts, max_size=4), n=st.integers(1, 1000))
def test_any_request_is_read_as_it_was_meant(name, queries, n):
    body = WIRES[name].encode(queries, n)
    assert WIRES[name].decode(body) == Asked(tuple(queries), n, True)
    path = WIRES[name].path
    assert wire_of(path, body).name == ("search-r1" if name == "skyrl" else name)


@pytest.mark.parametrize("name", WIRES)
@given(found=st.lists(st.lists(passages, max_size=3), min_size=1, max_size=4))
def test_any_answer_is_read_as_it_was_meant(name, found):
    wire = WIRES[name]
    for scored in (True, False):
        asked = Asked(("q",) * len(found), 3, scored)
        for ours, theirs in zip(found, wire.parse(wire.render(asked, found), len(found)), strict=True):
            expected = ours if scored else [Passage(p.id, p.title, p.text) for p in ours]
            assert all(same(a, b) for a, b in zip(expected, theirs, strict=True))


@pytest.mark.parametrize("name", WIRES)
@given(body=st.binary(max_size=60) | shaped)
def test_hostile_bodies_end_in_an_error_of_their_kind_or_in_passages(name, body):
    with contextlib.suppress(ValueError):
        for rows in WIRES[name].parse(body, 2):
            assert all(isinstance(passage, Passage) for passage in rows)
    with contextlib.suppress(UsageError):
        assert isinstance(WIRES[name].decode(body), Asked)


@pytest.mark.parametrize(
    "raw",
    [
        {"results": []},
        {"result": {}},
        {"result": [[]]},
        {"result": [[], [{"document": {"id": "1"}, "score": 1}]]},
        {"result": [[], [{"document": {"contents": "x"}, "score": "1"}]]},
        {"result": [[], [{"document": {"contents": "x"}, "score": 10**400}]]},
        {"result": [[], [{"document": {"contents": "x"}, "score": True}]]},
        {"result": [[], "x"]},
        [],
    ],
)
def test_a_malformed_answer_is_no_passage(raw):
    with pytest.raises(ValueError, match=r"."):
        SearchR1().parse(json.dumps(raw).encode(), 2)


def test_a_document_without_id_gets_one_that_stays():
    body = json.dumps(
        {"result": [[{"document": {"title": "T", "text": "x", "contents": '"T"\nx'}, "score": 1}]]}
    ).encode()
    ((one,),), ((two,),) = SearchR1().parse(body, 1), SearchR1().parse(body, 1)
    assert one == two
    assert (one.title, one.text, one.score) == ("T", "x", 1.0)
    assert len(one.id) == 16
