"""Measure Python sessions side by side, print tables, write JSON; 1 if a goal was missed.

python -m benchmarks.kernels [--quick] [--json FILE]      # or: aster bench kernels …
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aster_env.errors import AsterError
from aster_env.kernels.inside.settings import MODES

from . import peers, report
from .measure import load
from .sessions import QUICK, Counts, Measures

RESULTS = Path(__file__).parents[1] / "results" / "kernels.json"
LIMIT = 180.0
"""Seconds that one measure may take."""


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="aster bench kernels", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small counts, no downloads: does it run at all?")
    parser.add_argument("--json", type=Path, help=f"where the numbers go (without --quick: {RESULTS})")
    parser.add_argument("--isolation", default="best", choices=("best", *MODES), help="the pool's option")
    parser.add_argument("--show", action="store_true", help="measure nothing: print the tables of the kept numbers")
    options = parser.parse_args()
    if options.show:
        show(json.loads((options.json or RESULTS).read_text(encoding="utf-8")))
        return 0
    began = time.perf_counter()
    results: dict[str, Any] = {"machine": machine(), "quick": options.quick, "isolation": options.isolation}
    measures = measure(Measures(options.isolation, QUICK if options.quick else Counts()), options.quick)
    for name, run in measures.items():
        results[name] = asyncio.run(guard(name, run))
    results["seconds"], results["load after"] = round(time.perf_counter() - began, 1), load()
    results["goals"] = report.judge(results)
    show(results)
    target = options.json or (None if options.quick else RESULTS)
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"\nwritten: {target}")
    if options.quick:
        return int(any("failed" in row for row in results.values() if isinstance(row, dict)))
    return int(not all(row["reached"] for row in results["goals"]))


def measure(ours: Measures, quick: bool) -> dict[str, Callable[[], Awaitable[Any]]]:
    """Return what is measured, by name, in order."""

    async def blocking(run: Callable[[], Any]) -> Any:
        return run()

    found: dict[str, Callable[[], Awaitable[Any]]] = {
        "layers": ours.layers,
        "from spares": lambda: ours.starts(4),
        "cold fork": lambda: ours.starts(0),
        "sustained": ours.sustained,
        "round trip": ours.round_trip,
        "pipe worker": lambda: blocking(lambda: peers.pipe(200 if quick else 5000)),
        "busy": ours.busy,
        "many": ours.many,
    }
    found["ipykernel"] = lambda: peers.ipykernel(1 if quick else 5, 5 if quick else 100)
    if not quick:
        for name in peers.PEERS:
            found[name] = lambda name=name: blocking(lambda: peers.peer(name, 30))  # type: ignore[misc]
    return found


async def guard(name: str, run: Callable[[], Awaitable[Any]]) -> Any:
    """Run one measure; ``{"failed": why}`` when the machine does not let it."""
    print(f"… {name} (load {load()})", file=sys.stderr, flush=True)
    try:
        async with asyncio.timeout(LIMIT):
            return await run()
    except TimeoutError:
        return {"failed": f"not done within {LIMIT:g} s"}
    except (AsterError, AssertionError, OSError) as error:
        return {"failed": f"{type(error).__name__}: {error}"}


def machine() -> dict[str, Any]:
    """Return what the numbers depend on."""
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "load before": load(),
    }


def show(results: dict[str, Any]) -> None:
    """Print the tables."""
    layers = results["layers"]
    off = [name for name, on in layers.items() if on is False]
    sandbox = f"layers that are OFF: {', '.join(off)}" if off else "every layer of the sandbox is on"
    sandbox = "no sandbox" if "failed" in layers else sandbox
    print(f"{results['machine']['system']}, Python {results['machine']['python']}; {sandbox}")
    print(f"load before {results['machine']['load before']}, after {results['load after']}; {results['seconds']} s\n")
    if results["quick"]:
        print("Counts are small: the numbers say nothing but that everything runs.\n")
    print(report.goals_table(results["goals"]))
    print("\n".join(["", *report.facts({k: v for k, v in results.items() if isinstance(v, dict)}), ""]))
    print(report.contestants_table(results))


if __name__ == "__main__":
    sys.exit(main())
