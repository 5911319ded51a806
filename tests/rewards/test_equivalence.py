r"""Equivalent forms of answers score, near misses do not: the pairs of ``equivalence_pairs.jsonl``, through an episode.

Each line has a gold answer, other forms of it (``same``: right whichever of the two is the gold), forms that are right
only as the answer (``one_way``), and near misses (``different``). What counts as equivalent:

- The value counts, not its form: ``\frac{2}{4}``, ``0.5``, ``\sqrt{\frac14}`` and ``50\%`` are ``\frac12``, and
  whether a fraction is reduced is not asked. A chain of equations has to hold in every side, and several
  statements (``x = 11, x = 12``) have to hold one by one where the reference is one value.
- A rounded number is not the number: ``3.14`` is not ``\pi``, nor ``0.333`` ``\frac13``. But a decimal number that
  agrees in six places, and to a ten-thousandth of itself, is: ``0.333333`` would be ``\frac13``.
- A unit, a percent sign, a base or ``x =`` may be left out, for the question says it: ``5`` is ``5\text{ cm}``, and
  ``50`` is ``50\%`` although ``50\%`` is ``0.5`` as well. Two known units have to be the same one; ``1\text{ m}`` is
  not ``100\text{ cm}``, and words that are no known unit are not compared. A bare letter is a variable: ``4t`` is not
  ``4``. A number with a base is compared by value with another one, by digits with one without.
  Marks behind a number (``12'``) are a unit that is not compared.
- A list or a set of answers has no order and no repetitions, a tuple has both; the brackets of a list do not count,
  those of an interval do. An interval and its inequality are the same.
- The name of a variable counts, the case of a word does not.

Not covered: brackets turned outwards (``[0,1[``), chains of ``>``, special functions such as ``\zeta``, and the case of
two-letter names (``ab`` and ``AB`` are one word for math-verify).
"""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from aster_env.rewards.forms import split_unit, tidy
from aster_env.rewards.math import MathReward
from aster_env.rewards.qa import QAReward
from aster_env.rewards.worker import judge
from aster_env.types import StopReason, Task, Trajectory

LINES = [
    json.loads(line)
    for line in Path(__file__).with_name("equivalence_pairs.jsonl").read_text(encoding="utf-8").splitlines()
]
SAME = [(line["gold"], form) for line in LINES for form in line["same"]]
ONE_WAY = [(line["gold"], form) for line in LINES for form in line.get("one_way", ())]
DIFFERENT = [(line["gold"], form) for line in LINES for form in line["different"]]


def score(reward, pairs):
    """Return (value, judged) of an episode that ends with the second of each pair where the first is the gold."""

    async def one(gold, answer):
        task = Task("t", "?", (gold,))
        result = await reward(task, Trajectory(task, stop=StopReason.ANSWERED, answer=answer))
        return result.value, result.judged

    async def main():
        try:
            return await asyncio.gather(*(one(*pair) for pair in pairs))
        finally:
            await reward.close()

    return asyncio.run(main())


def test_there_are_200_pairs_of_each_kind_none_twice_and_every_category_has_both():
    assert len(set(SAME + ONE_WAY)) == len(SAME + ONE_WAY) >= 200
    assert len(set(DIFFERENT)) == len(DIFFERENT) >= 200
    assert not set(SAME + ONE_WAY) & set(DIFFERENT)
    for category in {line["category"] for line in LINES}:
        lines = [line for line in LINES if line["category"] == category]
        assert any(line["same"] for line in lines), category
        assert any(line["different"] for line in lines), category


def test_equivalent_forms_score_1_both_ways_and_near_misses_0():
    right = [*SAME, *((form, gold) for gold, form in SAME), *ONE_WAY]
    # A loaded machine must not decide a verdict: the time for a judgement is generous.
    results = score(MathReward(timeout=60), right + DIFFERENT)
    wanted = [(1.0, True)] * len(right) + [(0.0, True)] * len(DIFFERENT)
    pairs = zip(right + DIFFERENT, results, wanted, strict=True)
    assert [(pair, result) for pair, result, want in pairs if result != want] == []


QA_SAME = {
    "Barack Obama": ["barack obama", "BARACK OBAMA", "Barack Obama.", " Barack  Obama ", "the Barack Obama"],
    "The Beatles": ["Beatles", "the beatles", "The Beatles!", "beatles", "“The Beatles”".strip("“”")],
    "14 December 1972": ["14 december 1972", "14 December, 1972", "the 14 December 1972"],
    "U.S.": ["US", "u.s.", "the U.S.", "the US"],
    "rock 'n' roll": ["Rock n Roll", "rock n roll", "Rock 'N' Roll."],
    "Ein-stein": ["Einstein", "EIN-STEIN"],
    "a normal day": ["normal day", "the normal day", "Normal Day!"],
    "1,000": ["1000", "1,000."],
    "São Paulo": ["são paulo", "SÃO PAULO"],
    "$5": ["5", "$5.", "5$"],
    "A": ["a", "A"],
}
QA_DIFFERENT = {
    "Barack Obama": ["Obama", "Barack", "Barack Hussein Obama", "Michelle Obama", "BarackObama", "Obama Barack", ""],
    "The Beatles": ["Beetles", "Beatle", "The", "The Beatles band", "Theatles"],
    "14 December 1972": ["December 1972", "1972", "14 December 1973", "December 14 1972", "15 December 1972"],
    "U.S.": ["U.K.", "United States", "U S", "USA"],
    "rock 'n' roll": ["rock and roll", "rock", "roll n rock"],
    "1,000": ["1 000", "100", "one thousand", "10,000", "1,000,000"],
    "São Paulo": ["Sao Paulo", "Paulo", "São Paolo"],
    "$5": ["50", "five", "$5 million"],
    "A": ["B", "an", ".", "the"],
}


@pytest.mark.parametrize(("table", "value"), [(QA_SAME, 1.0), (QA_DIFFERENT, 0.0)], ids=["same", "different"])
def test_exact_match_forgives_case_punctuation_and_articles_and_nothing_else(table, value):
    pairs = [(gold, answer) for gold, answers in table.items() for answer in answers]
    assert len(pairs) >= 20
    both = pairs + [(answer, gold) for gold, answer in pairs if answer]
    results = score(QAReward("em"), both)
    assert [(pair, got) for pair, (got, _) in zip(both, results, strict=True) if got != value] == []


def test_tidying_and_units_are_fast_on_hostile_texts():
    parts = (
        "1 ",
        "\\,",
        "√(",
        "\\text{",
        "1e",
        "{\\rm ",
        "m ",
        "9_",
        "-–",
        "\\pm",
        "0.\\bar{",
        "a.",
        "**",
        "$",
        "\\sin1^",
    )
    started = time.process_time()
    for part in parts:
        text = (part * 2000)[:2000]
        split_unit(tidy(text))
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("5\\text{ cm}", ("5", "centimeter")),
        ("12\\text{ square metres}", ("12", "meter2")),
        ("12 \\mathrm{m}^{2}", ("12", "meter2")),
        ("18 apples", ("18", "")),
        ("\\$5", ("5", "dollar")),
        ("18 square feet", ("18", "foot2")),
        ("5cm", ("5", "centimeter")),
        ("4t", ("4t", "")),
        ("2mg", ("2mg", "")),
        ("2xyz", ("2xyz", "")),
        ("2 x y", ("2 x y", "")),
        ("2ab", ("2ab", "")),
        ("\\text{cm}", ("\\text{cm}", "")),
        ("\\text{A}, \\text{B}", ("\\text{A}, \\text{B}", "")),
    ],
)
def test_a_unit_is_told_from_a_variable(text, parts):
    assert split_unit(text) == parts


@pytest.mark.parametrize(
    "answer", ["3_n", "9_2", "3_{99}", "1.5/0", "\\frac{1.5}{0}", "5_{\\text{base}}", "\\text{ }", "\\pm"]
)
def test_what_makes_no_sense_is_judged_wrong_and_not_left_unjudged(answer):
    assert judge(["2"], answer) is judge(["\\frac{1}{2}"], answer) is False
