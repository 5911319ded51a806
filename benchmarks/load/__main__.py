"""Measure OpenEnv serving under load and faults, print a report, write JSON; 1 if a goal was missed.

python -m benchmarks.load [--sessions 256 --seconds 120]      # or: aster bench load …; needs the extra openenv
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

from aster_env.kernels.zygote import raise_open_files

from . import endpoints, faults, report, run
from .server import serving

RESULTS = Path(__file__).parents[1] / "results" / "load.json"


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="aster bench load", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sessions", type=int, default=256, help="that behave (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=120.0, help="of load (default: %(default)s)")
    parser.add_argument("--think", type=float, default=2.0, help="mean seconds between turns (default: %(default)s)")
    parser.add_argument("--json", type=Path, help=f"where the numbers go, such as {RESULTS}")
    options = parser.parse_args()
    raise_open_files()
    results = measure(options.sessions, options.seconds, options.think)
    print(report.text(results))
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(f"\nwritten: {options.json}")
    return int(not all(row["reached"] for row in results["goals"]))


def measure(sessions: int, seconds: float, think: float) -> dict[str, Any]:
    """Return everything that was measured."""
    few = min(32, sessions)
    with serving("--max-sessions", str(sessions + 2 * run.bad_of(sessions))) as server:
        measured = {
            "load": run.measure(server, sessions, seconds, think),
            "killed_pool": faults.killed_pool(server, few),
            "killed_server": faults.killed_server(server, few),
        }
    results: dict[str, Any] = {
        "command": f"python -m benchmarks.load --sessions {sessions} --seconds {seconds:g} --think {think:g}",
        "machine": f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}",
        **measured,
        "broken_judge": endpoints.broken_judge(),
        "broken_policy": endpoints.broken_policy(),
    }
    return results | {"goals": report.judge(results)}


if __name__ == "__main__":
    raise SystemExit(main())
