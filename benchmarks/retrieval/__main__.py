"""Measure retrieval side by side, print tables, write JSON; 1 if a goal was missed.

python -m benchmarks.retrieval [--quick] [--real CORPUS --xquad FILE]      # or: aster bench retrieval …
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import dense, lexical, report, service

RESULTS = Path(__file__).parents[1] / "results" / "retrieval.json"
PARTS = ("lexical", "dense", "service")


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="aster bench retrieval", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small corpora: does it run at all?")
    parser.add_argument("--large", action="store_true", help="five million vectors too, which takes half an hour")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="measure these; keep the other numbers")
    parser.add_argument("--work", type=Path, help="a folder for corpora and indices that is kept and used again")
    parser.add_argument("--real", type=Path, help="a corpus of real text (aster corpus build …)")
    parser.add_argument("--xquad", type=Path, help="XQuAD's English file (xquad.en.json), whose questions it is asked")
    parser.add_argument("--json", type=Path, help=f"where the numbers go (without --quick: {RESULTS})")
    parser.add_argument("--show", action="store_true", help="measure nothing: print the tables of the kept numbers")
    options = parser.parse_args()
    target = options.json or (None if options.quick else RESULTS)
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    if options.show:
        print(report.text(json.loads((options.json or RESULTS).read_text(encoding="utf-8"))))
        return 0
    results = {} if options.quick else {name: kept[name] for name in PARTS if name in kept}
    if options.work is not None:
        options.work.mkdir(parents=True, exist_ok=True)
        results |= measure(options, options.work)
    else:
        with tempfile.TemporaryDirectory(prefix="aster-retrieval-") as folder:
            results |= measure(options, Path(folder))
    results |= {"machine": f"{os.cpu_count()} cores, {platform.machine()}", "goals": report.judge(results)}
    print(report.text(results))
    if target is not None:
        target.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"\nwritten: {target}")
    return 0 if options.quick else int(not all(row["reached"] for row in results["goals"]))


def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Return the numbers of the parts that were asked for."""
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "lexical": lambda: lexical.measure(work, options.quick, options.real, options.xquad),
        "dense": lambda: dense.measure(work, options.quick, large=options.large, real=_dense_corpus(options.real)),
        "service": lambda: service.measure(lexical.corpus(work, 20_000), options.quick),
    }
    found: dict[str, Any] = {}
    for name in options.only:
        began = time.perf_counter()
        print(f"{name} …", flush=True)
        found[name] = parts[name]()
        found[name]["seconds"] = round(time.perf_counter() - began, 1)
    return found


def _dense_corpus(real: Path | None) -> Path | None:
    """Return the corpus of real text if it has vectors to compare the generated ones with."""
    return real if real is not None and (real / "dense").is_dir() else None


if __name__ == "__main__":
    raise SystemExit(main())
