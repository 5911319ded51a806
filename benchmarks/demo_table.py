"""Print the table of the demo's kept reports: ``make demo SEED=n``, then this with ``--keep`` and its report.json.

python benchmarks/demo_table.py [--keep runs/demo/report.json]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
COLUMNS = {
    "fresh, sampled": "test sampled",
    "fresh, greedy": "test greedy",
    "unseen, sampled": "unseen sampled",
    "unseen, greedy": "unseen greedy",
}


def keep(path: Path) -> None:
    """Store a report under its seed, its long log thinned to what the picture shows."""
    report = json.loads(path.read_text(encoding="utf-8"))
    names = (
        "step",
        "accuracy",
        "tools/calls_mean",
        "entropy",
        "groups_without_variance",
        "time/rollout",
        "time/update",
    )
    report["log"] = [{n: round(row[n], 5) for n in names if n in row} for row in report["log"] if "accuracy" in row]
    target = RESULTS / f"demo_seed{report['seed']}.json"
    target.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"kept {target.name}")


def read() -> list[dict[str, Any]]:
    """Return a row for each kept seed: accuracies before and after, calls, controls, minutes."""
    rows = []
    for path in sorted(RESULTS.glob("demo_seed*.json")):
        report = json.loads(path.read_text(encoding="utf-8"))
        row: dict[str, Any] = {"seed": report["seed"]}
        for column, name in COLUMNS.items():
            row[column] = [report[when][name]["accuracy"] for when in ("before", "after")]
        row["calls at the end"] = report["after"]["test sampled"]["calls"]
        for column, score in zip(("forgetful", "inert"), report["controls"].values(), strict=True):
            row[column] = score["accuracy"]
        row["GRPO, min"] = report["seconds"]["GRPO"] / 60
        row["all, min"] = sum(report["seconds"].values()) / 60
        rows.append(row)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a table."""
    names = list(rows[0]) if rows else ["seed"]
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    return "\n".join([*lines, *(f"| {' | '.join(_cell(name, row[name]) for name in names)} |" for row in rows)])


def main() -> None:
    """Keep a report if asked, then print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, action="append", default=[], help="a report.json to store")
    parser.add_argument("--json", type=Path, default=Path("runs/bench/demo_table.json"), help="where the rows go")
    options = parser.parse_args()
    for path in options.keep:
        keep(path)
    rows = read()
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(table(rows))


def _cell(name: str, value: Any) -> str:
    if name in COLUMNS:
        return f"{value[0]:.0%} → {value[1]:.0%}"
    if name in ("forgetful", "inert"):
        return f"{value:.0%}"
    return f"{value:.1f}" if name.endswith("min") else f"{value:.2f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
