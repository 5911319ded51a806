"""Measure the web tools, print tables, write JSON; 1 if a goal was missed.

python -m benchmarks.web [--quick] [--pages FOLDER] [--documents NAME=FOLDER …]      # or: aster bench web …
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

from . import extraction, pages, report, walkers

RESULTS = Path(__file__).parents[1] / "results" / "web.json"
PARTS = ("walkers", "extraction")


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="aster bench web", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few walkers and pages: does it run at all?")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="measure these; keep the other numbers")
    parser.add_argument("--walkers", type=int, default=walkers.WALKERS, help="at once")
    parser.add_argument("--pages", type=Path, help="a checkout of scrapinghub/article-extraction-benchmark")
    parser.add_argument("--documents", nargs="+", default=[], metavar="NAME=FOLDER", help="real pages with <main>")
    parser.add_argument("--most", type=int, default=150, help="pages of each of these")
    parser.add_argument("--json", type=Path, help=f"where the numbers go (without --quick: {RESULTS})")
    parser.add_argument("--show", action="store_true", help="measure nothing: print the tables of the kept numbers")
    options = parser.parse_args()
    if options.show:
        print(report.text(json.loads((options.json or RESULTS).read_text(encoding="utf-8"))))
        return 0
    target = options.json or (None if options.quick else RESULTS)
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() and not options.quick else {}
    results: dict[str, Any] = {name: kept[name] for name in PARTS if name in kept}
    if "walkers" in options.only:
        results["walkers"] = walkers.measure(options.quick, options.walkers)
    if "extraction" in options.only:
        results["extraction"] = results.get("extraction", {}) | _extraction(options)
    results |= {"machine": f"{os.cpu_count()} cores, {platform.machine()}", "goals": report.judge(results)}
    print(report.text(results))
    if target is not None:
        target.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"\nwritten: {target}")
    return 0 if options.quick else int(any(row["reached"] is False for row in results["goals"]))


def _extraction(options: argparse.Namespace) -> dict[str, Any]:
    """Return the scores on the kinds of pages that are at hand."""
    samples = {report.GENERATED: pages.generated(120 if options.quick else 400)}
    for given in options.documents:
        name, _, folder = given.rpartition("=")
        samples[f"documentation: {name or folder}"] = pages.documentation(Path(folder), options.most)
    if options.pages:
        samples[report.PUBLIC] = pages.public(options.pages)
    return {name: extraction.measure(found) for name, found in samples.items()}


if __name__ == "__main__":
    raise SystemExit(main())
