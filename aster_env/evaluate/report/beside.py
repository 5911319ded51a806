"""Which published numbers stand beside which number of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aster_env.evaluate import settings
from aster_env.evaluate.report.cells import clean, count, finite, middle
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

    def title(self, theirs: Published) -> str:
        """Name a published number: with its budget, where the run states none that tells which it is."""
        return theirs.name if self.budget is None else theirs.model


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
    models = list(dict.fromkeys(row.title(p) for row in rows for p in row.published))
    best: tuple[float, str, list[float | None]] | None = None
    for model in models:
        values = [next((p.value for p in row.published if row.title(p) == model), None) for row in rows]
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
    else:
        said += _unlike(summary, protocol)
    sizes = sorted({p.n for p in found})
    if summary.get("problems") not in sizes:
        said.append(f"{count(summary.get('problems'))} problems, theirs {' or '.join(map(str, sizes))}")
    return said + _counting(summary)


def _unlike(summary: Mapping[str, Any], protocol: str) -> list[str]:
    """Say where a run's settings are not those of its protocol."""
    preset, environment = settings.PROTOCOLS[protocol], summary.get("environment")
    given = (summary.get("manifest") or {}).get("settings") or {}
    ours = {"k": summary.get("k"), **{name: value for name, value in given.items() if name in preset}}
    theirs = {name: preset[name] for name in ours if name not in ("tasks", "budgets", "env_kwargs")}
    if "env_kwargs" in given:
        kwargs = preset.get("env_kwargs", {}).get(environment, {})
        ours |= given["env_kwargs"]
        theirs |= {**dict.fromkeys(given["env_kwargs"]), **kwargs}
    for name in ("max_seconds", "modules"):
        ours[name], theirs[name] = given.get(name) or None, None
    said = [f"the environment is {clean(environment)}"] if environment and environment not in preset["tasks"] else []
    differing = [name for name in theirs if ours.get(name) != theirs[name]]
    return said + [
        f"{clean(name, 40)} is {_words(ours.get(name))}, theirs {_words(theirs[name])}" for name in differing
    ]


def _counting(summary: Mapping[str, Any]) -> list[str]:
    """Say where a run's tokens are none of a model's, or its budget could not be used up."""
    manifest = summary.get("manifest") or {}
    policy, most = manifest.get("policy") or {}, finite((manifest.get("settings") or {}).get("max_tokens"))
    said = []
    if policy.get("kind") == "python" and policy.get("tokenizer") == "bytes":
        said.append("its tokens are bytes")
    if str(policy.get("tokens", "")).startswith("estimated"):
        said.append("its tokens are estimated from the text")
    context = finite(policy.get("context")) or finite((policy.get("endpoint") or {}).get("max_model_len"))
    if context and most and context < most:
        said.append(f"its model's context ends at {count(context)} tokens")
    return said


def _words(value: Any) -> str:
    known = finite(value)
    return "not set" if value is None else clean(value, 60) if known is None else f"{known:,.10g}"


def sources(summaries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the protocols and sources of all numbers that stand beside these runs, one sentence each."""
    found = [p.protocol for s in summaries for row in beside(s) for p in row.published]
    return [f"{PROTOCOLS[name].source}: {PROTOCOLS[name].text}." for name in PROTOCOLS if name in found]
