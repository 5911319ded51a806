"""Exact match and token F1 as SQuAD defines them, the best over all reference answers."""

from __future__ import annotations

import asyncio

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from aster_env.errors import UsageError
from aster_env.rewards.qa import QAReward, exact_match, normalize, token_f1
from aster_env.types import StopReason, Task, Trajectory

WORDS = st.text(st.sampled_from("ab the.,!é\n7"), max_size=12)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Eiffel Tower.", "eiffel tower"), ("an  apple a day", "apple day"), ("U.S.A.", "usa"),
        ("Theatre", "theatre"), ("a", "a"), ("The", "the"), ("!", "!"), (" \n", ""),
        ("don't", "dont"), ("Ça va", "ça va"),
    ],
)  # fmt: skip
def test_a_text_is_normalized_as_squad_does(text, normal):
    assert normalize(text) == normal


@pytest.mark.parametrize(
    ("golds", "answer", "em", "f1"),
    [
        (["Barack Obama"], "the barack obama!", 1, 1),
        (["Barack Obama"], "Obama", 0, 2 / 3),
        (["Barack Obama"], "Barack Hussein Obama", 0, 0.8),
        (["b b c"], "b c c", 0, 2 / 3),
        (["Paris"], "London", 0, 0),
        (["Paris"], "", 0, 0),
        (["Paris"], " . ", 0, 0),
        ([], "Paris", 0, 0),
        (["A"], "B", 0, 0),
        (["A"], "a", 1, 1),
        ([""], "", 0, 0),
    ],
)
def test_scores_are_those_of_the_table(golds, answer, em, f1):
    assert exact_match(golds, answer) == em
    assert token_f1(golds, answer) == pytest.approx(f1)


def test_the_best_reference_counts_and_not_the_last():
    golds = ["New York City", "NYC", "the Big Apple"]
    overwritten = 0.0
    for gold in golds:
        overwritten = token_f1([gold], "New York City")
    assert overwritten == 0.0
    assert token_f1(golds, "New York City") == exact_match(golds, "New York City") == 1.0


@given(st.lists(WORDS, max_size=4), WORDS)
@settings(max_examples=150)
def test_scores_know_no_order_and_a_match_is_the_highest(golds, answer):
    em, f1 = exact_match(golds, answer), token_f1(golds, answer)
    assert 0 <= f1 <= 1
    assert (em, f1) == (exact_match(golds[::-1], answer), token_f1(golds[::-1], answer))
    assert f1 == max((token_f1([gold], answer) for gold in golds), default=0)
    if em:
        assert f1 == 1


@given(WORDS.filter(str.strip))
@settings(max_examples=100)
def test_every_gold_answer_scores_1_and_an_empty_one_0(gold):
    assert exact_match([gold], gold) == token_f1([gold], gold) == 1
    assert exact_match([gold], "") == token_f1([gold], "") == 0


def reward(answer, stop=StopReason.ANSWERED, **options):
    task = Task("t", "p", ("Barack Obama", "Obama II"), "qa")
    return asyncio.run(QAReward(**options)(task, Trajectory(task, stop=stop, answer=answer)))


def test_the_reward_is_f1_or_exact_match_and_both_are_terms():
    scored = reward("Obama")
    assert scored.value == scored.terms["f1"] == pytest.approx(2 / 3)
    assert scored.terms["em"] == scored.terms["correct"] == 0
    assert reward("Obama", score="em").value == 0
    assert reward("obama II", score="em").value == reward("obama II").value == 1
    with pytest.raises(UsageError, match="Did you mean 'f1'"):
        QAReward("f2")


def test_an_episode_without_an_answer_scores_0():
    assert reward("Obama II", StopReason.MAX_TOKENS).value == 0
    assert reward(None).terms == {"em": 0, "f1": 0, "correct": 0}
