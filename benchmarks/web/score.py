r"""The score of the public article extraction benchmark, from its definition.

A text is the multiset of its shingles: every run of four words (``\w+``), or all its words where there are fewer. A
page's matched, superfluous and missing shingles are divided by their sum, so that long pages count no more than short
ones. Precision is the mean over the pages for which something was extracted, recall over those that have a text, and F1
their harmonic mean. Source: the README and the evaluation of scrapinghub/article-extraction-benchmark.
"""

from __future__ import annotations

import random
import re
import statistics
from collections import Counter
from collections.abc import Sequence

Counts = tuple[float, float, float]
"""Shares of a page's shingles: matched, superfluous, missing."""

SHINGLE = 4
_WORD = re.compile(r"\w+")


def compare(truth: str, extracted: str, shingle: int = SHINGLE) -> Counts:
    """Return how an extracted text compares with the true one.

    Args:
        truth: the page's main text.
        extracted: what was extracted.
        shingle: words of a shingle; 1 compares the words themselves.
    """
    wanted, found = shingles(truth, shingle), shingles(extracted, shingle)
    parts = (wanted & found).total(), (found - wanted).total(), (wanted - found).total()
    whole = sum(parts) or 1
    return parts[0] / whole, parts[1] / whole, parts[2] / whole


def shingles(text: str, shingle: int = SHINGLE) -> Counter[tuple[str, ...]]:
    """Return the shingles of a text; none where it has no word."""
    words = _WORD.findall(text)
    if not words:
        return Counter()
    return Counter(tuple(words[n : n + shingle]) for n in range(max(1, len(words) - shingle + 1)))


def score(pages: Sequence[Counts]) -> dict[str, float]:
    """Return precision, recall and F1 over the pages; at least one has a text."""
    precision = _mean([matched / (matched + more) for matched, more, _ in pages if matched + more])
    recall = _mean([matched / (matched + less) for matched, _, less in pages if matched + less])
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return {"f1": f1, "precision": precision, "recall": recall}


def margin(pages: Sequence[Counts], draws: int = 500) -> float:
    """Return half the width of F1's 95 % interval, by drawing pages anew with a fixed seed."""
    generator = random.Random(0)
    found = [score(generator.choices(pages, k=len(pages)))["f1"] for _ in range(draws)]
    return 1.96 * statistics.stdev(found)


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else 0.0
