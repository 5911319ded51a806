"""The goals, and the tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks import goals
from benchmarks.goals import Goal, Row, goals_table

from . import dense, service

SLACK = 0.005
"""Recalls this close are equal."""


def _million(results: Row) -> Row:
    return next(row for name, row in results["lexical"].items() if name.startswith("generated, 1,000,000"))


def _behind(row: Row) -> float:
    return float(round(row["bm25s"]["recall@5"] - row["ours"]["recall@5"], 4))


def _most_behind(results: Row) -> float:
    return max(_behind(row) for row in results["lexical"].values() if isinstance(row, Mapping))


def _best(results: Row) -> Row:
    return max(results["service"]["rows"], key=lambda row: row["ratio"])


GOALS: tuple[Goal, ...] = (
    ("lexical over 1M passages, mean", "≤", 5, "ms", lambda r: _million(r)["ours"]["mean_ms"]),
    ("lexical, recall@5 behind bm25s at most", "≤", SLACK, "", _most_behind),
    ("dense over 1M × 768, a single query, mean", "≤", 15, "ms", lambda r: r["dense"]["rows"][0]["mean_ms"]),
    ("dense over 1M × 768, recall@5 against flat", "≥", 0.98, "", lambda r: r["dense"]["rows"][0]["recall"]),
    ("dense over 1M × 768, memory", "≤", 300, "MB", lambda r: r["dense"]["rows"][0]["memory_mb"]),
    ("21,015,324 × 768, extrapolated: memory", "≤", 3000, "MB", lambda r: r["dense"]["extrapolation"]["memory_mb"]),
    ("21,015,324 × 768, extrapolated: a query", "≤", 100, "ms", lambda r: r["dense"]["extrapolation"]["mean_ms"]),
    ("server, 64 clients against one request at a time", "≥", 5, "×", lambda r: _best(r)["ratio"]),
    (
        "server, errors",
        "≤",
        0,
        "",
        lambda r: sum(row[many]["errors"] for row in r["service"]["rows"] for many in ("alone", "many")),
    ),
)


def judge(results: Row) -> list[dict[str, Any]]:
    """Return each goal with what was measured."""
    return goals.judge(GOALS, results)


def engines_table(results: Row) -> str:
    """Return the lexical engines side by side as Markdown."""
    lines = [
        "| corpus | engine | build, s | mean / p95, ms | recall@1 / 5 / 10 | peak memory, MB |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for name, row in results.get("lexical", {}).items():
        for engine in ("ours", "bm25s") if isinstance(row, Mapping) else ():
            one = row[engine]
            recall = " / ".join(f"{one[f'recall@{k}']:.3f}" for k in (1, 5, 10))
            lines.append(
                f"| {name} | {engine} | {one['build_s']:.0f} | {one['mean_ms']:.2f} / {one['p95_ms']:.2f} | {recall} "
                f"| {one['peak_rss_mb']:,} |"
            )
    return "\n".join(lines)


def text(results: Row) -> str:
    """Return everything that was measured."""
    parts = [goals_table(results["goals"])]
    if "lexical" in results:
        parts.append(engines_table(results))
    if "dense" in results:
        parts.append(dense.table(results["dense"]))
    if "service" in results:
        parts.append(service.table(results["service"]))
    return "\n\n".join(parts)
