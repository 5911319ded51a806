"""Check the reward on a question set: every gold answer must score 1 and every empty one 0.

python benchmarks/gold.py aime24 path/to/AIME24.jsonl
python benchmarks/gold.py gsm8k            # from the hub
"""

from __future__ import annotations

import argparse
import asyncio
import time

from aster_env.envs.python_math.tasks import GENERATORS
from aster_env.rewards.math import MathReward
from aster_env.tasks import load_tasks
from aster_env.types import StopReason, Task, Trajectory


async def score(reward: MathReward, task: Task, answer: str) -> float:
    """Return the reward of an episode that ends with ``answer``."""
    trajectory = Trajectory(task, stop=StopReason.ANSWERED, answer=answer)
    return (await reward(task, trajectory)).value


async def main() -> None:
    """Print how many gold and empty answers scored, and the gold ones that did not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", help="a preset, a path, a hub data set or a generated family")
    parser.add_argument("path", nargs="?", help="a local file for a preset")
    options = parser.parse_args()
    tasks = load_tasks(options.tasks, path=options.path, generators=GENERATORS)
    reward = MathReward()
    started = time.perf_counter()
    try:
        gold = await asyncio.gather(*(score(reward, task, task.answers[0]) for task in tasks))
        # The same value written in another way takes the road through the judge's processes.
        boxed = await asyncio.gather(*(score(reward, task, f"{task.answers[0]} + 0") for task in tasks))
        empty = await asyncio.gather(*(score(reward, task, "") for task in tasks))
    finally:
        await reward.close()
    seconds = time.perf_counter() - started
    print(f"{options.tasks}: {len(tasks)} tasks in {seconds:.1f} s")
    print(
        f"gold answers that score 1: {sum(gold):.0f}; written as 'gold + 0': {sum(boxed):.0f}; empty: {sum(empty):.0f}"
    )
    for task, value in zip(tasks, gold, strict=True):
        if value != 1.0:
            print(f"  {task.id}: gold {task.answers[0]!r} scores {value}")
    raise SystemExit(0 if sum(gold) == len(tasks) and not sum(empty) else 1)


if __name__ == "__main__":
    asyncio.run(main())
