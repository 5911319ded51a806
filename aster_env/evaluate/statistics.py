"""The numbers of a run: accuracy, budgets, tool use."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from aster_env.evaluate.intervals import Interval, interval, pass_at
from aster_env.evaluate.records import Run, Sample
from aster_env.rewards.math import grade_quickly
from aster_env.rewards.qa import normalize

POINTS = 40
"""Points of a budget's curve, at most, beside the named budgets."""
Problems = dict[str, list[Sample]]


def summarise(run: Run) -> dict[str, Any]:
    """Return a run's numbers as plain JSON.

    An interval is ``{"value", "low", "high"}``, see ``intervals.interval``: 95 %, clustered by problem. Samples that
    failed outside the model are in none of the estimates, but counted (``failed``); ``missing`` were never played.
    """
    manifest, settings = run.manifest, run.manifest["settings"]
    scored = [s for s in run.samples if s.score is not None]
    problems: Problems = {}
    for sample in scored:
        problems.setdefault(sample.task, []).append(sample)
    kind = manifest["tasks"]["kind"]
    k = settings["k"]
    return {
        "name": manifest["name"],
        "environment": manifest["environment"],
        "tasks": manifest["tasks"]["name"],
        "policy": settings["policy"].get("model") or settings["policy"]["kind"],
        "protocol": settings["protocol"],
        "kind": kind,
        "k": k,
        "problems": manifest["tasks"]["count"],
        "scored": len(problems),
        "samples": len(scored),
        "failed": len(run.samples) - len(scored),
        "missing": max(0, manifest["tasks"]["count"] * k - len(run.samples)),
        "avg@k": average(problems),
        "pass@k": passes(problems, k),
        "maj@k": interval([majority(samples, kind) for samples in problems.values()], len(scored)),
        "budgets": _curves(problems, settings),
        "at": [{"tokens": budget, **average(problems, "tokens", budget)} for budget in settings["budgets"]],
        "per_problem": [_row(task, problems.get(task, []), kind) for task in _tasks(run)],
        "tools": tool_use(scored),
        "stops": dict(sorted(Counter(s.stop for s in run.samples).items())),
        "usage": dict(sum((Counter(s.trajectory.get("usage", {})) for s in scored), Counter())),
        "wall_seconds": manifest.get("wall_seconds", 0.0),
        "manifest": manifest,
    }


def average(problems: Problems, what: str = "tokens", budget: float = math.inf) -> Interval:
    """Return avg@k: the mean score; a sample that used more of something than a budget counts as wrong."""

    def mean(samples: list[Sample]) -> float:
        return float(np.mean([(s.score or 0.0) * (getattr(s, what) <= budget) for s in samples]))

    return interval([mean(samples) for samples in problems.values()], sum(map(len, problems.values())))


def passes(problems: Problems, k: int) -> dict[str, Interval]:
    """Return pass@1 … pass@k; each over the problems that have so many samples, if any has."""
    found = {}
    for n in range(1, k + 1):
        enough = [[s.score or 0.0 for s in samples] for samples in problems.values() if len(samples) >= n]
        if enough:
            found[str(n)] = interval([pass_at(scores, n) for scores in enough], sum(map(len, enough)))
    return found


def majority(samples: Sequence[Sample], kind: str) -> float:
    """Return maj@k of one problem: the score of the answer that most samples gave.

    Samples without an answer vote for nothing. Where several answers have the most votes, each counts by its share;
    so does an answer whose samples were scored differently.
    """
    groups = group(samples, kind)
    most = max((len(each) for each in groups), default=0)
    tied = [each for each in groups if len(each) == most]
    return float(np.mean([np.mean([s.score or 0.0 for s in each]) for each in tied])) if tied else 0.0


def group(samples: Sequence[Sample], kind: str) -> list[list[Sample]]:
    """Return samples by their answer, those without one left out.

    Answers are the same if their normalised texts are, or the reward can tell so without algebra (``012`` and
    ``12.0``). Forms that only algebra finds equal stay apart, which favours neither the right nor the wrong ones.
    """
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample.answer is None or not sample.answer.strip():
            continue
        text = _normal(sample.answer, kind)
        if text not in groups and kind != "qa":
            text = next((each for each in groups if grade_quickly([each], text)), text)
        groups.setdefault(text, []).append(sample)
    return list(groups.values())


def tool_use(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return how many calls episodes make, how calls end, and ``by_calls``: [calls, samples, sum of scores]."""
    counts = [s.tool_calls for s in samples]
    quantiles = np.quantile(counts, [0.5, 0.75, 0.9]) if counts else [0.0] * 3
    by: dict[int, list[float]] = {}
    for sample in samples:
        row = by.setdefault(sample.tool_calls, [0, 0.0])
        row[0] += 1
        row[1] += sample.score or 0.0
    return {
        "mean": float(np.mean(counts)) if counts else 0.0,
        **{name: float(value) for name, value in zip(("p50", "p75", "p90"), quantiles, strict=True)},
        "with_call": float(np.mean([c > 0 for c in counts])) if counts else 0.0,
        **{name: sum(s.calls.get(name, 0) for s in samples) for name in ("ok", "error", "timeout", "invalid")},
        "by_calls": [[calls, *row] for calls, row in sorted(by.items())],
    }


def _curves(problems: Problems, settings: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return accuracy against each budget: what a run that allowed so much would have scored with these samples."""
    limits = {
        "tokens": [settings["max_tokens"], *settings["budgets"]],
        "tool_calls": [settings["max_tool_calls"]],
        "seconds": [settings["max_seconds"]] if settings["max_seconds"] else [],
    }
    curves = {}
    for name, named in limits.items():
        used = sorted({getattr(s, name) for samples in problems.values() for s in samples if s.score})
        if len(used) > POINTS:
            used = [used[round(i)] for i in np.linspace(0, len(used) - 1, POINTS)]
        points = sorted({0, *used, *named})
        curves[name] = [{"limit": point, **average(problems, name, point)} for point in points]
    return curves


def _tasks(run: Run) -> list[str]:
    """Return the ids of the problems that have a sample, in an order that does not depend on the run's."""
    return sorted({s.task for s in run.samples}, key=_natural)


def _natural(text: str) -> list[Any]:
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in re.split(r"(\d+)", text)]


def _row(task: str, samples: Sequence[Sample], kind: str) -> dict[str, Any]:
    answers = []
    for each in group(samples, kind):
        texts = Counter(s.answer for s in each)
        right = float(np.mean([s.score or 0.0 for s in each])) >= 0.5
        answers.append([min(texts, key=lambda text: (-texts[text], str(text))), len(each), right])
    means = {"score": "score", "tool_calls": "tool_calls", "tokens": "tokens", "seconds": "seconds"}
    return {
        "task": task,
        "samples": len(samples),
        **{n: float(np.mean([getattr(s, a) for s in samples])) if samples else None for n, a in means.items()},
        "answers": sorted(answers, key=lambda row: (-row[1], str(row[0]))),
    }


def _normal(answer: str, kind: str) -> str:
    return normalize(answer) if kind == "qa" else re.sub(r"\s+", "", answer)
