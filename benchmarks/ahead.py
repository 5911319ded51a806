"""GRPO with the next batch played while this one trains (`ahead`), and without, in one run: seconds and accuracy.

python benchmarks/ahead.py [MODEL] [--steps 80]       # MODEL: the demo's cold start, runs/demo/coldstart/model
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean

ROOT = Path(__file__).parents[1]


def train(model: Path, steps: int, ahead: bool) -> dict[str, float]:
    """Return a run's mean seconds a step, its first logged step left out, and its accuracy at the start and the end."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, str(ROOT / "aster_train" / "grpo.py")]
        command += ["--config", str(ROOT / "aster_train" / "configs" / "tiny_demo.yaml"), "--model", str(model)]
        command += ["--output_dir", out, "--max_steps", str(steps), "--ahead", str(ahead).lower()]
        # One thread each for playing and for training, in both ways.
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        log = json.loads(Path(out, "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    rows = [row for row in log if "accuracy" in row]
    tenth = max(1, len(rows) // 10)
    return {
        "seconds a step": mean(row["time/step"] for row in rows[1:]),
        "accuracy, first tenth": mean(row["accuracy"] for row in rows[:tenth]),
        "accuracy, last tenth": mean(row["accuracy"] for row in rows[-tenth:]),
    }


def main() -> int:
    """Train both ways, print the table, write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, default=ROOT / "runs" / "demo" / "coldstart" / "model")
    parser.add_argument("--steps", type=int, default=80, help="optimizer steps of each")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "ahead.json")
    options = parser.parse_args()
    if options.steps < 20:
        parser.error(f"--steps {options.steps}: at least 20")
    if not options.model.is_dir():
        print(f"{options.model} is no folder. Fix: run `make demo` first, or name a model.")
        return 0
    results = {name: train(options.model, options.steps, name == "ahead") for name in ("in turn", "ahead")}
    print("| | in turn | ahead |\n|---|---:|---:|")
    for part, value in results["in turn"].items():
        print(f"| {part} | {value:.2f} | {results['ahead'][part]:.2f} |")
    ratio = results["in turn"]["seconds a step"] / results["ahead"]["seconds a step"]
    print(f"\nahead: {ratio:.2f} x the steps a second")
    options.json.write_text(json.dumps({**results, "ratio": ratio}, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
