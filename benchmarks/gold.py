"""Check the reward on question sets: every gold answer must score 1 and every empty one 0.

python benchmarks/gold.py                                  # the generated family: needs nothing
python benchmarks/gold.py aime24 path/to/AIME24.jsonl      # a preset from a local file
python benchmarks/gold.py gsm8k                            # a preset from the hub
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import Any

from aster_env.envs.python_math.tasks import GENERATORS
from aster_env.presets import PRESETS
from aster_env.rewards.math import MathReward
from aster_env.tasks import TaskSet, load_tasks
from aster_env.types import StopReason, Task, Trajectory


async def score(reward: MathReward, task: Task, answer: str) -> float:
    """Return the reward of an episode that ends with ``answer``."""
    trajectory = Trajectory(task, stop=StopReason.ANSWERED, answer=answer)
    return (await reward(task, trajectory)).value


async def check(name: str, tasks: TaskSet) -> dict[str, Any]:
    """Return how many gold and empty answers scored, and the gold ones that did not."""
    reward = MathReward()
    started = time.perf_counter()
    try:
        gold = await asyncio.gather(*(score(reward, task, task.answers[0]) for task in tasks))
        # The same value written in another way takes the road through the judge's processes.
        added = await asyncio.gather(*(score(reward, task, f"{task.answers[0]} + 0") for task in tasks))
        empty = await asyncio.gather(*(score(reward, task, "") for task in tasks))
    finally:
        await reward.close()
    return {
        "tasks": name,
        "count": len(tasks),
        "gold": sum(gold),
        "gold + 0": sum(added),
        "empty": sum(empty),
        "failed": {t.id: t.answers[0] for t, value in zip(tasks, gold, strict=True) if value != 1.0},
        "seconds": round(time.perf_counter() - started, 2),
    }


def main() -> None:
    """Print the table, write it as JSON, and exit with 1 if an answer scored wrongly."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="?", default="generated", help="a preset, a path, a hub data set or a family")
    parser.add_argument("path", nargs="?", help="a local file for a preset")
    parser.add_argument("--json", type=Path, default=Path("runs/bench/gold.json"), help="where the numbers are written")
    options = parser.parse_args()
    generated = options.tasks == "generated"
    tasks = load_tasks(
        options.tasks, path=options.path, generators=GENERATORS, options={"size": 256} if generated else None
    )
    row = asyncio.run(check(options.tasks, tasks))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
    columns = ("tasks", "count", "gold", "gold + 0", "empty", "seconds")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    print(f"| {' | '.join(f'{row[c]:g}' if isinstance(row[c], float) else str(row[c]) for c in columns)} |")
    for name, answer in row["failed"].items():
        print(f"{name}: gold {answer!r} does not score 1")
    if generated:
        print(f"For a public set, pass its name, and its file where there is no hub: {', '.join(PRESETS)}.")
    raise SystemExit(0 if row["gold"] == len(tasks) and not row["empty"] else 1)


if __name__ == "__main__":
    main()
