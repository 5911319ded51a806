"""Which published numbers stand beside which number of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aster_env.evaluate.report.cells import count, finite, middle
from aster_env.evaluate.report.published import PROTOCOLS, Published, find

_SAME = 0.03
"""Budgets that differ by less are the same: one source's 30K is 30,000, another's 30,720."""


@dataclass(frozen=True, slots=True)
class Beside:
    """One accuracy of a run, and what was published for the same task set and budget.

    Args:
        budget: tokens of an episode; None stands for the run's own limit.
        estimate: ``{"value", "low", "high"}`` of the run.
        published: those of the same budget, and those whose source states none.
    """

    budget: int | None
    estimate: Mapping[str, Any]
    published: tuple[Published, ...]


def beside(summary: Mapping[str, Any]) -> list[Beside]:
    """Pair each named budget of a run with the published numbers; without such budgets, its avg@k with all."""
    found = find(str(summary.get("tasks", "")), str(summary.get("protocol") or ""))
    named = [(row, finite(row.get("tokens"))) for row in summary.get("at") or ()]
    if not named:
        return [Beside(None, summary.get("avg@k") or {}, tuple(found))]
    return [
        Beside(int(tokens), row, tuple(p for p in found if p.budget is None or same_budget(p.budget, tokens)))
        for row, tokens in named
        if tokens is not None
    ]


def same_budget(one: float, other: float) -> bool:
    """Whether two budgets of tokens are the same within what "30K" leaves open."""
    return abs(one - other) <= _SAME * max(one, other)


def nearest(summary: Mapping[str, Any]) -> tuple[str, list[float | None]] | None:
    """Return the published model whose accuracies are nearest to the run's, and these, one for each of ``beside``.

    None where nothing was published, or where the run has no accuracy.
    """
    rows = beside(summary)
    models = list(dict.fromkeys(p.model for row in rows for p in row.published))
    best: tuple[float, str, list[float | None]] | None = None
    for model in models:
        values = [next((p.value for p in row.published if p.model == model), None) for row in rows]
        pairs = [(middle(row.estimate), value) for row, value in zip(rows, values, strict=True)]
        gaps = [abs(ours - theirs) for ours, theirs in pairs if ours is not None and theirs is not None]
        if gaps and (best is None or sum(gaps) / len(gaps) < best[0]):
            best = (sum(gaps) / len(gaps), model, values)
    return best and (best[1], best[2])


def differences(summary: Mapping[str, Any]) -> list[str]:
    """Say in which ways a run is not measured as the numbers beside it were."""
    tasks, protocol = str(summary.get("tasks", "")), str(summary.get("protocol") or "")
    found = find(tasks, protocol)
    if not found:
        return []
    said = []
    if protocol not in PROTOCOLS:
        said.append("no published protocol was followed")
    elif summary.get("k") != PROTOCOLS[protocol].k:
        said.append(f"k is {count(summary.get('k'))}, theirs {PROTOCOLS[protocol].k}")
    sizes = sorted({p.n for p in found})
    if summary.get("problems") not in sizes:
        said.append(f"{count(summary.get('problems'))} problems, theirs {' or '.join(map(str, sizes))}")
    if summary.get("missing"):
        said.append(f"{count(summary.get('missing'))} samples not played yet")
    return said


def sources(summaries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the protocols and sources of all numbers that stand beside these runs, one sentence each."""
    found = [p.protocol for s in summaries for row in beside(s) for p in row.published]
    return [f"{PROTOCOLS[name].source}: {PROTOCOLS[name].text}." for name in PROTOCOLS if name in found]
