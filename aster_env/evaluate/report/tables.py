"""The report's tables, once for all its forms: rows of finished cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aster_env.evaluate.report.beside import beside, differences, nearest, sources
from aster_env.evaluate.report.cells import (
    DASH,
    budget,
    clean,
    count,
    estimate,
    finite,
    middle,
    number,
    percent,
    probability,
    signed,
)

Summaries = Sequence[Mapping[str, Any]]
OUTCOMES = ("ok", "error", "timeout", "invalid")
_SHOWN = 300
"""Rows of a per-problem table; the whole is in report.json."""


@dataclass(frozen=True, slots=True)
class Table:
    """Cells that wait for their form.

    Args:
        title: what the table says.
        header: names of the columns.
        rows: cells, foreign text already made visible (see ``cells.clean``) but not escaped.
        words: which columns hold words, and are set to the left.
        notes: sentences that belong under it.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: frozenset[int] = frozenset({0})
    notes: tuple[str, ...] = ()


def label(summary: Mapping[str, Any], summaries: Summaries) -> str:
    """Name a task set: by its tasks, or by the run's name where several are on the same tasks."""
    same = sum(other.get("tasks") == summary.get("tasks") for other in summaries)
    return clean(summary.get("tasks") if same < 2 else summary.get("name"), 40)


def policies(summaries: Summaries) -> str:
    """Name the policies of a report."""
    return ", ".join(dict.fromkeys(clean(summary.get("policy"), 60) for summary in summaries)) or DASH


def environments(summaries: Summaries) -> str:
    """Name the environments of a report."""
    return ", ".join(dict.fromkeys(clean(summary.get("environment"), 60) for summary in summaries)) or DASH


def overview(summaries: Summaries) -> Table:
    """One row a task set: accuracies, calls, failures, and the nearest published model."""
    ks = {summary.get("k") for summary in summaries}
    k = count(next(iter(ks))) if len(ks) == 1 else "k"
    named = _budgets(summaries)
    close = [nearest(summary) for summary in summaries]
    header = (
        "tasks",
        "n" if len(ks) == 1 else "n × k",
        f"avg@{k} [95 %]",
        f"pass@{k}",
        f"maj@{k}",
        *map(_at, named),
        "calls",
        "no score",
    )
    rows = []
    for summary, near in zip(summaries, close, strict=True):
        size = summary.get("k")
        passes = summary.get("pass@k") or {}
        rows.append((
            label(summary, summaries),
            count(summary.get("scored")) + (f" × {count(size)}" if len(ks) > 1 else ""),
            estimate(summary.get("avg@k")),
            percent(middle(passes.get(str(size)))),
            percent(middle(summary.get("maj@k"))),
            *(percent(_value_at(summary, tokens)) for tokens in named),
            number((summary.get("tools") or {}).get("mean")),
            count(summary.get("failed")),
            *([_nearest(near)] if any(close) else []),
        ))  # fmt: skip
    words = {0}
    if any(close):
        words.add(len(header))
        header = (*header, "published, nearest")
    return Table("Accuracy (%)", header, tuple(rows), frozenset(words), _notes(summaries))


def at_budgets(summaries: Summaries) -> Table:
    """Accuracy at each named budget with its interval, and what each published model has there."""
    lines = [(label(summary, summaries), row) for summary in summaries for row in beside(summary)]
    models = list(dict.fromkeys(row.title(p) for _, row in lines for p in row.published))
    rows = []
    for name, row in lines:
        theirs = {row.title(p): number(p.percent) for p in row.published}
        tokens = budget(row.budget) if row.budget else DASH
        rows.append((name, tokens, estimate(row.estimate), *(theirs.get(model, DASH) for model in models)))
    unstated = dict.fromkeys(p.model for _, row in lines if row.budget for p in row.published if p.budget is None)
    notes = (f"Their source states no budget for {', '.join(unstated)}.",) if unstated else ()
    header = ("tasks", "tokens", "this run [95 %]", *models)
    return Table("Beside the published numbers (%)", header, tuple(rows), notes=notes)


def passes(summaries: Summaries) -> Table:
    """pass@k at 1, 2, 4, … and the run's own k."""
    ks = sorted({int(k) for s in summaries for k in s.get("pass@k") or {}})
    kept = [k for k in ks if k & (k - 1) == 0 or k == ks[-1]]
    rows = tuple(
        (label(s, summaries), *(estimate((s.get("pass@k") or {}).get(str(k))) for k in kept), estimate(s.get("maj@k")))
        for s in summaries
    )
    header = ("tasks", *(f"pass@{k}" for k in kept), "maj@k")
    return Table("Best and most frequent of k (%)", header, rows)


def tool_use(summaries: Summaries) -> Table:
    """How many calls episodes make, and how calls end."""
    rows = []
    for summary in summaries:
        tools = summary.get("tools") or {}
        total = sum(finite(tools.get(name)) or 0 for name in OUTCOMES)
        shares = (percent((finite(tools.get(name)) or 0) / total if total else None) for name in OUTCOMES)
        calls = (number(tools.get(name)) for name in ("mean", "p50", "p75", "p90"))
        rows.append((label(summary, summaries), *calls, percent(tools.get("with_call")), count(total), *shares))
    header = ("tasks", "calls", "p50", "p75", "p90", "with a call %", "calls in all", *(f"{n} %" for n in OUTCOMES))
    return Table("Tool use per sample", header, tuple(rows))


def stops(summaries: Summaries) -> Table:
    """Why episodes ended."""
    names = sorted({name for s in summaries for name in s.get("stops") or {}}, key=str)
    rows = tuple((label(s, summaries), *(count((s.get("stops") or {}).get(n, 0)) for n in names)) for s in summaries)
    return Table("Why episodes ended (samples)", ("tasks", *(clean(n, 30) for n in names)), rows)


def usage(summaries: Summaries) -> Table:
    """What the policy counted, and the wall time."""
    names = sorted({name for s in summaries for name in s.get("usage") or {}}, key=str)
    rows = tuple(
        (label(s, summaries), *(count((s.get("usage") or {}).get(n)) for n in names), count(s.get("wall_seconds")))
        for s in summaries
    )
    return Table("Cost", ("tasks", *(clean(n, 30) for n in names), "wall seconds"), rows)


def problems(summary: Mapping[str, Any]) -> Table:
    """One row a problem, the hardest first, with the answers that were given and how often."""
    every = sorted(summary.get("per_problem") or (), key=lambda row: finite(row.get("score")) or 0.0)
    rows = tuple(
        (
            clean(row.get("task"), 60),
            percent(row.get("score")),
            count(row.get("samples")),
            number(row.get("tool_calls")),
            count(row.get("tokens")),
            number(row.get("seconds")),
            _answers(row.get("answers") or ()),
        )
        for row in every[:_SHOWN]
    )
    header = ("problem", "accuracy %", "samples", "calls", "tokens", "seconds", "answers (times given, ✓ right)")
    left = f"The hardest {_SHOWN} of {len(every)}; all are in report.json." if len(every) > _SHOWN else ""
    return Table("Problems", header, rows, frozenset({0, 6}), (left,) if left else ())


def manifest(summaries: Summaries) -> Table:
    """What runs are made of: versions, seeds, hashes, settings; without times, so that reports can be compared.

    What is the same for every task set is said once.
    """
    found: dict[str, dict[str, str]] = {}
    for summary in summaries:
        known = {name: value for name, value in (summary.get("manifest") or {}).items() if name not in _TIMES}
        for name, value in _flat(known):
            found.setdefault(clean(name, 60), {})[label(summary, summaries)] = clean(value, 200)
    rows = []
    for name, values in found.items():
        shared = len(values) == len(summaries) and len(set(values.values())) == 1
        one = [(name, next(iter(values.values())))]
        rows += one if shared else [(f"{name} ({each})", value) for each, value in values.items()]
    return Table("What the runs are made of", ("what", "value"), tuple(rows), frozenset({0, 1}))


def comparison(found: Mapping[str, Any]) -> Table:
    """The result of a paired comparison."""
    interval = found.get("difference") or {}
    between = " to ".join(signed(interval.get(name)) for name in ("low", "high"))
    rows = (
        ("a", clean(found.get("a"))),
        ("b", clean(found.get("b"))),
        ("problems in both", count(found.get("problems"))),
        ("only in a, only in b", f"{count(found.get('only_a'))}, {count(found.get('only_b'))}"),
        ("samples without a score in a, in b", ", ".join(map(count, found.get("without") or (None, None)))),
        ("difference a − b, points", f"{signed(interval.get('value'))} [{between}]"),
        ("p", f"{probability(found.get('p'))} ({clean(found.get('test'))})"),
        ("a better, b better, equal", ", ".join(count(found.get(name)) for name in ("wins", "losses", "ties"))),
        *(
            (f"a and b differ in {clean(n, 40)}", f"{clean(x, 50)} and {clean(y, 50)}")
            for n, x, y in found.get("settings") or ()
        ),
    )
    return Table("Comparison", ("", ""), rows, frozenset({0, 1}))


def compared_problems(found: Mapping[str, Any], most: int = _SHOWN) -> Table:
    """The problems on which two runs differ, the greatest difference first."""
    rows = [(row, finite(row.get("a")), finite(row.get("b"))) for row in found.get("per_problem") or ()]
    differing = [(row, a - b) for row, a, b in rows if a is not None and b is not None and a != b]
    differing.sort(key=lambda pair: (-abs(pair[1]), str(pair[0].get("task"))))
    cells = tuple(
        (clean(row.get("task"), 50), percent(row["a"]), percent(row["b"]), signed(gap)) for row, gap in differing[:most]
    )
    left = f"{most} of {len(differing)}; all are in the JSON." if len(differing) > most else ""
    return Table("Problems that differ (%)", ("problem", "a", "b", "a − b"), cells, notes=(left,) if left else ())


_TIMES = {"started", "finished", "wall_seconds"}


def _notes(summaries: Summaries) -> tuple[str, ...]:
    notes = ["n problems with a score; intervals: 95 %, clustered by problem."]
    if any(finite(s.get("failed")) for s in summaries):
        notes.append("no score: samples that failed outside the model; they are in no accuracy.")
    left = [f"{label(s, summaries)}: {count(s['missing'])}" for s in summaries if finite(s.get("missing"))]
    if left:
        notes.append(f"Samples not played yet: {', '.join(left)}.")
    if any(_budgets(summaries)):
        notes.append("@30K: the share that ended with a right answer within 30 × 1,024 tokens.")
    notes += [f"Published: {sentence}" for sentence in sources(summaries)]
    unlike = [f"{label(s, summaries)}: {', '.join(said)}" for s in summaries if (said := differences(s))]
    if unlike:
        notes.append(f"Not like for like with the published: {'; '.join(unlike)}.")
    return tuple(notes)


def _budgets(summaries: Summaries) -> list[float]:
    found = {finite(row.get("tokens")) for s in summaries for row in s.get("at") or ()}
    return sorted(tokens for tokens in found if tokens is not None)


def _at(tokens: float) -> str:
    return f"@{budget(tokens)}"


def _value_at(summary: Mapping[str, Any], tokens: float) -> float | None:
    return next((middle(row) for row in summary.get("at") or () if row.get("tokens") == tokens), None)


def _nearest(near: tuple[str, list[float | None]] | None) -> str:
    return DASH if near is None else f"{'/'.join(percent(v) for v in dict.fromkeys(near[1]))} {near[0]}"


def _answers(answers: Sequence[Sequence[Any]], most: int = 5) -> str:
    shown = [f"{clean(text, 40)} ×{count(times)}{' ✓' if right else ''}" for text, times, right in answers[:most]]
    return ", ".join([*shown, *([f"{len(answers) - most} more"] if len(answers) > most else [])]) or DASH


def _flat(value: Any, name: str = "") -> list[tuple[str, Any]]:
    """Flatten nested mappings into dotted names, in order; other values stay whole."""
    if isinstance(value, Mapping) and value:
        return [pair for key in value for pair in _flat(value[key], f"{name}.{key}" if name else str(key))]
    return [(name, value)] if name else []
