"""Print the table of the demo's kept reports: ``make demo SEED=n``, then this with the folder of each report.json.

python benchmarks/demo_table.py [--keep runs/demo/report.json]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


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


def table() -> str:
    """Return one line a seed: accuracies before and after, calls, controls, minutes."""
    lines = [
        "| seed | fresh, sampled | fresh, greedy | unseen, sampled | unseen, greedy | calls at the end "
        "| forgetful | inert | GRPO, min | all, min |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for path in sorted(RESULTS.glob("demo_seed*.json")):
        report = json.loads(path.read_text(encoding="utf-8"))
        cells = [str(report["seed"])]
        for name in ("test sampled", "test greedy", "unseen sampled", "unseen greedy"):
            before, after = (report[when][name]["accuracy"] for when in ("before", "after"))
            cells.append(f"{before:.0%} → {after:.0%}")
        cells.append(f"{report['after']['test sampled']['calls']:.2f}")
        cells += [f"{score['accuracy']:.0%}" for score in report["controls"].values()]
        seconds = report["seconds"]
        cells += [f"{seconds['GRPO'] / 60:.1f}", f"{sum(seconds.values()) / 60:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Keep a report if asked, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, action="append", default=[], help="a report.json to store")
    for path in parser.parse_args().keep:
        keep(path)
    print(table())


if __name__ == "__main__":
    main()
