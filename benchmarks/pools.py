"""The same GRPO steps on the default pool and on stock ipykernel sessions, in one run; prints seconds and ratios.

python benchmarks/pools.py [MODEL] [--steps 10]       # MODEL: the demo's cold start, runs/demo/coldstart/model
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean

ROOT = Path(__file__).parents[1]
POOLS = {"zygote": [], "ipykernel": ["--env_kwargs.pool", "ipykernel", "--env_kwargs.allow_unsandboxed", "true"]}


def train(model: Path, steps: int, options: list[str]) -> dict[str, float]:
    """Return mean seconds a step of a short run; the first logged step, which starts everything, is left out."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, str(ROOT / "aster_train" / "grpo.py")]
        command += ["--config", str(ROOT / "aster_train" / "configs" / "tiny_demo.yaml"), "--model", str(model)]
        command += ["--train.output_dir", out, "--train.max_steps", str(steps), "--train.logging_steps", "2"]
        subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)
        log = json.loads(Path(out, "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    rows = [row for row in log if "time/rollout" in row][1:]
    return {name: mean(row[f"time/{name}"] for row in rows) for name in ("rollout", "update", "step")}


def main() -> int:
    """Train on each pool, print the table, write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, default=ROOT / "runs" / "demo" / "coldstart" / "model")
    parser.add_argument("--steps", type=int, default=10, help="optimizer steps on each pool")
    parser.add_argument(
        "--json", type=Path, default=Path("runs/bench/pools.json"), help="where the numbers are written"
    )
    options = parser.parse_args()
    if options.steps < 4:
        parser.error(f"--steps {options.steps}: at least 4, since the first two are not counted")
    if not options.model.is_dir():
        print(f"{options.model} is no folder. Fix: run `make demo` first, or name a model.")
        return 0
    results = {name: train(options.model, options.steps, arguments) for name, arguments in POOLS.items()}
    print("| seconds a step | zygote | ipykernel | ratio |\n|---|---:|---:|---:|")
    for part in ("rollout", "update", "step"):
        ours, stock = results["zygote"][part], results["ipykernel"][part]
        print(f"| {part} | {ours:.2f} | {stock:.2f} | {stock / ours:.1f} |")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
