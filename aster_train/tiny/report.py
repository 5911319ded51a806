"""The demo's report: intervals, a table and a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aster_train.watch import warning_lines


def interval(right: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a proportion (Wilson, 1927)."""
    if count == 0:
        return 0.0, 1.0
    z = 1.959964
    share = right / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def markdown(report: Mapping[str, Any]) -> str:
    """Return the table: accuracy with intervals, calls, controls, seconds."""
    lines = [
        f"# {report['title']}, seed {report['seed']}",
        "",
        f"| {report['asked']} | cold start | after GRPO | calls an episode |",
        "|---|---|---|---|",
    ]
    for name, kind in report["splits"].items():
        for how in ("sampled", "greedy"):
            before, after = (report[when][f"{name} {how}"] for when in ("before", "after"))
            calls = f"{before['calls']:.2f} → {after['calls']:.2f}"
            lines.append(f"| {kind}, {how} | {_cell(before)} | {_cell(after)} | {calls} |")
    for name, score in report["controls"].items():
        lines.append(f"| control: {name} | | {_cell(score)} | {score['calls']:.2f} |")
    lines += _tool_lines(report)
    total = sum(report["seconds"].values())
    parts = ", ".join(f"{name} {seconds:.0f}" for name, seconds in report["seconds"].items())
    episodes = report["after"][f"{report['held_out']} sampled"]["episodes"]
    lines += ["", f"{episodes} {report['asked']} each, 95 % intervals. {total:.0f} seconds: {parts}.", ""]
    lines += [*warning_lines(report["collapse"]), ""]
    return "\n".join(lines)


def _tool_lines(report: Mapping[str, Any]) -> list[str]:
    """Return the table of who executed all tools, where a solution needs several."""
    if not report.get("tools"):
        return []
    lines = ["", f"| executed {' and '.join(report['tools'])} | cold start | after GRPO | of the right ones |"]
    lines.append("|---|---|---|---|")
    for name, kind in report["splits"].items():
        for how in ("sampled", "greedy"):
            before, after = (report[when][f"{name} {how}"] for when in ("before", "after"))
            cells = [f"{score['tools']['all']} of {score['episodes']}" for score in (before, after)]
            right = f"{after['tools']['all and right']} of {after['tools']['right']}"
            lines.append(f"| {kind}, {how} | {cells[0]} | {cells[1]} | {right} |")
    return lines


def picture(report: Mapping[str, Any], path: Path) -> None:
    """Draw accuracy and tool calls over the steps of GRPO, with the evaluations before and after."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    log = [row for row in report["log"] if "accuracy" in row]
    steps = [row["step"] for row in log]
    figure, (upper, lower) = pyplot.subplots(2, 1, sharex=True, figsize=(7, 6))
    upper.plot(steps, [row["accuracy"] for row in log], color="0.7", label="training batches")
    upper.plot(steps, _smooth([row["accuracy"] for row in log]), color="C0", label="mean of the last 5")
    kind = report["splits"][report["held_out"]]
    held_out = f"fresh {report['asked']}" if kind == "fresh" else kind
    ends = [0, steps[-1] if steps else 0]
    for how, color in (("sampled", "C1"), ("greedy", "C2")):
        scores = [report[when][f"{report['held_out']} {how}"] for when in ("before", "after")]
        middle = [score["accuracy"] for score in scores]
        low = [score["accuracy"] - score["interval"][0] for score in scores]
        high = [score["interval"][1] - score["accuracy"] for score in scores]
        upper.errorbar(ends, middle, [low, high], fmt="o", color=color, capsize=4, label=f"{held_out}, {how}")
    upper.set(ylabel="accuracy", ylim=(0, 1.02), title=f"GRPO of the embedded model, seed {report['seed']}")
    upper.legend(loc="lower right")
    lower.plot(steps, [row["tools/calls_mean"] for row in log], color="C3")
    lower.set(xlabel="update", ylabel="tool calls an episode", ylim=(0, None))
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _cell(score: Mapping[str, Any]) -> str:
    low, high = score["interval"]
    return f"{score['accuracy']:.1%} ({low:.1%}–{high:.1%})"


def _smooth(values: Sequence[float], width: int = 5) -> list[float]:
    return [
        sum(values[max(0, n - width + 1) : n + 1]) / len(values[max(0, n - width + 1) : n + 1])
        for n in range(len(values))
    ]
