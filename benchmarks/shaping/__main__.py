"""Does shaping do what it says? One model, trained with each shaping and without, on three seeds, at matched compute.

python -m benchmarks.shaping [MODEL] [--seeds 3] [--steps 30]     # MODEL: the demo's, runs/demo/grpo

Every run plays the same number of episodes and takes the same number of updates. Prints a table of the last batches'
episodes, with 95 % intervals over the seeds of the difference to plain GRPO at the same seed; draws a picture. With
--kept, prints and draws what was kept of the last run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from .report import LAST, MEASURES, STUDENT, picture, read_run, table
from .start import CONFIG, MAX_TOKENS, make_start

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
_NOTHING = {"alpha": 0.0, "beta": 0.0, "gamma": 0.0}
SHAPINGS: Mapping[str, Mapping[str, Any] | None] = {
    "plain GRPO": None,
    "ASPO": {"name": "aspo"},
    "ASPO in the reward": {"name": "aspo_in_the_reward_collapses"},
    "bigram, α alone": {"name": "bigram", **_NOTHING, "alpha": 1.0},
    "bigram, β alone": {"name": "bigram", **_NOTHING, "beta": 1.0},
    "bigram, γ alone": {"name": "bigram", **_NOTHING, "gamma": 0.5},
}
"""Each at its published values; ASPO in the reward has none, and those that ``aster_train.shaping`` chose."""


def main() -> int:
    """Train all, print the table, write JSON and a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, default=ROOT / "runs" / "demo" / "grpo")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30, help="updates of each run")
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1), help="runs at once")
    parser.add_argument("--json", type=Path, default=RESULTS / "shaping.json")
    parser.add_argument("--picture", type=Path, default=ROOT / "docs" / "shaping.png")
    parser.add_argument("--kept", action="store_true", help="train nothing: show the numbers kept in --json")
    options = parser.parse_args()
    if not 2 <= options.seeds <= len(STUDENT) + 1 or options.steps < 4 * LAST:
        parser.error(f"--seeds must be 2 to {len(STUDENT) + 1}, and --steps {4 * LAST} or more")
    if options.kept:
        report = json.loads(options.json.read_text(encoding="utf-8"))
    elif options.model.is_dir():
        started = time.perf_counter()
        report = measure(options.model, options.seeds, options.steps, options.processes)
        report["seconds"] = time.perf_counter() - started
        print(f"{report['seconds'] / 60:.1f} minutes")
        options.json.write_text(json.dumps(report) + "\n", encoding="utf-8")
    else:
        print(f"{options.model} is no folder. Fix: run `make demo` first, or name a model.")
        return 2
    print(table(report))
    picture(report, options.picture)
    return 0


def measure(model: Path, seeds: int, steps: int, processes: int) -> dict[str, Any]:
    """Train with every shaping on every seed, and return the curves."""
    with tempfile.TemporaryDirectory() as folder:
        start = make_start(model, Path(folder) / "start", seed=0)
        jobs = [(name, seed) for seed in range(seeds) for name in SHAPINGS]
        with ThreadPoolExecutor(processes) as threads:
            folders = threads.map(lambda job: train(start, Path(folder), *job, steps), jobs)
            tokenizer = AutoTokenizer.from_pretrained(start)
            runs = [(name, read_run(out, tokenizer)) for (name, _), out in zip(jobs, folders, strict=True)]
    curves = {name: [run for other, run in runs if other == name] for name in SHAPINGS}
    return {"steps": steps, "seeds": seeds, "measures": list(MEASURES), "curves": curves}


def train(start: Path, folder: Path, name: str, seed: int, steps: int) -> Path:
    """Train one run in a process of its own, on one thread; return its folder."""
    out = folder / f"{list(SHAPINGS).index(name)}-{seed}"
    values = {
        "config": CONFIG,
        "model": start,
        "env_kwargs.max_tokens": MAX_TOKENS,
        "env_kwargs.task_options.seed": seed,
        "shaping": json.dumps(SHAPINGS[name]),
        "train.seed": seed,
        "train.max_steps": steps,
        "train.logging_steps": 1,
        "train.output_dir": out,
    }
    command = [sys.executable, str(ROOT / "aster_train" / "grpo.py")]
    command += [part for key, value in values.items() for part in (f"--{key}", str(value))]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    if done.returncode:
        raise RuntimeError(f"{name}, seed {seed}, ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return out


if __name__ == "__main__":
    sys.exit(main())
