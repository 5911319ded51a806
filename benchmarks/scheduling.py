"""This trainer beside TRL's own tool loop: the same model, tasks, budgets, engine and slow tool; prints tables.

python benchmarks/scheduling.py [MODEL] [--steps 6] [--episodes 64]    # MODEL: what `make demo` trains, runs/demo/grpo

Both train a small model with GRPO, on vLLM in the trainer's process; first one, then the other, each in a process of
its own. The model makes its own calls; the learning rate is 0, so that it is the same model at every step of both. The
tool is the real ``python`` on the default pool of sessions, after a wait drawn from a log-normal distribution (median
50 ms, 99th percentile 5 s): the same wait in both loops for a task's n-th call in its k-th episode.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "scheduling.json"
LOOPS = {"aster": "ours", "trl": "theirs"}
GROUP = 8
ROWS = {
    "seconds": "step",
    "… of these, playing episodes": "rollout",
    "… … of these, the engine working": "generation",
    "tokens sampled": "tokens",
    "calls": "calls",
}
"""Of the first table: what is shown of a step, and its name."""
PARTS = ("generation", "tools", "reward", "train", "overhead")
BOUNDS = {
    "alone": "its generation alone",
    "longest": "its longest episode alone",
    "waits turn by turn": "waits, one turn of all episodes after the other",
    "waits one by one": "waits, one call after the other",
}


def measure(name: str, options: argparse.Namespace) -> list[dict[str, float]]:
    """Run a loop in a process of its own; return its steps, the first left out: it starts everything."""
    with tempfile.TemporaryDirectory() as out:
        written = Path(out, "steps.json")
        command = [sys.executable, __file__, str(options.model), "--steps", str(options.steps)]
        command += ["--episodes", str(options.episodes), "--loop", name, "--json", str(written)]
        # More threads than one make a model of this size slower, in both loops.
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={"OMP_NUM_THREADS": "1", **os.environ})
        steps: list[dict[str, float]] = json.loads(written.read_text(encoding="utf-8"))
    return steps[1:]


def report(results: Mapping[str, Sequence[Mapping[str, float]]], episodes: int) -> list[tuple[str, str, str, bool]]:
    """Print what both loops did; return what was measured, what was to be reached, and whether it was."""
    ours, theirs = results["aster"], results["trl"]

    def mean(steps: Sequence[Mapping[str, float]], name: str) -> float:
        return sum(step.get(name, 0.0) for step in steps) / len(steps)

    print("| a step | aster | TRL |\n|---|---:|---:|")
    for label, name in ROWS.items():
        print(f"| {label} | {mean(ours, name):.2f} | {mean(theirs, name):.2f} |")
    for label, name in (("whole steps", "step"), ("while playing", "rollout")):
        print(f"| episodes/s, {label} | {episodes / mean(ours, name):.2f} | {episodes / mean(theirs, name):.2f} |")
    print("\n| aster's ledger, seconds a step | | | what bounds a batch, seconds | |\n|---|---:|---|---|---:|")
    for part, (name, label) in zip_longest(PARTS, BOUNDS.items(), fillvalue=("", "")):
        bound = f"{mean(ours, name):.2f}" if name else ""
        print(f"| {part} | {mean(ours, str(part)):.2f} | | {label} | {bound} |")
    ratios = sorted(their["step"] / our["step"] for our, their in zip(ours, theirs, strict=True))
    shares = sorted(max(step["alone"], step["longest"]) / step["rollout"] for step in ours)
    costs = sorted(step["overhead"] / step["step"] for step in ours)
    print(
        f"\nStep for step: TRL's loop took {ratios[0]:.1f} to {ratios[-1]:.1f} times as long; {shares[0]:.0%} to "
        f"{shares[-1]:.0%} of what is possible was reached; overhead was {costs[0]:.1%} to {costs[-1]:.1%}.\n"
    )
    ratio = mean(theirs, "step") / mean(ours, "step")
    reached = sum(max(step["alone"], step["longest"]) for step in ours) / sum(step["rollout"] for step in ours)
    overhead = mean(ours, "overhead") / mean(ours, "step")
    off = max(abs(sum(step[name] for name in PARTS) / step["step"] - 1) for step in ours)
    return [
        ("episodes/s, whole steps, against TRL's loop", f"{ratio:.2f} ×", "≥ 2.5 ×", ratio >= 2.5),
        ("of what generation or the longest episode allow", f"{reached:.1%}", "≥ 90 %", reached >= 0.9),
        ("overhead: neither generation, tools nor training", f"{overhead:.1%} of a step", "≤ 5 %", overhead <= 0.05),
        ("the ledger's sum against the clock, worst step", f"{off:.2%} off", "≤ 1 %", off <= 0.01),
    ]


def main() -> int:
    """Run both loops, print the tables, write the numbers as JSON; 1 if a goal was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, default=ROOT / "runs" / "demo" / "grpo")
    parser.add_argument("--steps", type=int, default=6, help="steps that are counted; one before them is not")
    parser.add_argument("--episodes", type=int, default=64, help=f"of a step: a multiple of {GROUP}")
    parser.add_argument("--loop", choices=sorted(LOOPS), help="run this one alone, in this process")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the numbers are written")
    options = parser.parse_args()
    if options.steps < 1 or options.episodes < GROUP or options.episodes % GROUP:
        parser.error(f"--steps {options.steps} --episodes {options.episodes}: at least 1, and a multiple of {GROUP}")
    if not options.model.is_dir():
        print(f"{options.model} is no folder. Fix: run `make demo` first, or name a model.")
        return 0
    if importlib.util.find_spec("vllm") is None:
        print("Both loops sample with vLLM, which is not installed. Fix: pip install -e '.[vllm]'.")
        return 0
    if options.loop:
        loop = importlib.import_module(f"scheduling_loops.{LOOPS[options.loop]}")
        with tempfile.TemporaryDirectory() as out:
            options.json.write_text(json.dumps(loop.run(options, out)), encoding="utf-8")
        return 0
    results = {name: measure(name, options) for name in LOOPS}
    goals = report(results, options.episodes)
    print("| measure | measured | goal | reached |\n|---|---:|---:|---|")
    for what, measured, goal, reached in goals:
        print(f"| {what} | {measured} | {goal} | {'yes' if reached else 'no'} |")
    written = {"episodes": options.episodes, "goals": goals, "steps": results}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return int(not all(reached for *_, reached in goals))


if __name__ == "__main__":
    sys.exit(main())
