"""Check the rewards on question sets: every gold answer must score 1, and every empty or perturbed one 0.

python benchmarks/gold.py                                  # the generated family: needs nothing
python benchmarks/gold.py aime24 path/to/AIME24.jsonl      # a preset from a local file
python benchmarks/gold.py gsm8k                            # a preset from the hub
python benchmarks/gold.py nq --perturbed                   # perturbed gold answers as well

A perturbed answer is, for a number, the number plus and minus one, its negative, one with a digit changed, and those
with a digit dropped; for other mathematics, the answer plus one and its negative; for a text, each gold with a token
dropped, and the gold answers of the next question. One that is a gold answer of the same question (the negative of 0,
"the" dropped) is left out and counted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import time
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

from aster_env.envs.python_math.tasks import GENERATORS
from aster_env.presets import PRESETS
from aster_env.rewards.base import Reward
from aster_env.rewards.math import MathReward
from aster_env.rewards.qa import QAReward
from aster_env.tasks import TaskSet, load_tasks
from aster_env.types import StopReason, Task, Trajectory

_NUMBER = re.compile(r"-?\d+(\.\d+)?")
COLUMNS = ("tasks", "count", "golds", "right", "gold + 0", "empty", "perturbed", "scored", "left out", "seconds")


async def score(reward: Reward, task: Task, answer: str) -> float:
    """Return the reward of an episode that ends with ``answer``."""
    trajectory = Trajectory(task, stop=StopReason.ANSWERED, answer=answer)
    return (await reward(task, trajectory)).value


def perturb(task: Task, other: Task) -> tuple[list[str], int]:
    """Return wrong answers made from a task's gold ones, and how many were left out for being gold ones."""
    if task.kind == "qa":
        made = [text for gold in task.answers for text in _shorter(gold.split(), " ")] + list(other.answers)
        same = {_letters(gold) for gold in task.answers}
        kept = [text for text in made if _letters(text) not in same]
    else:
        made = [text for gold in task.answers for text in _other_values(gold)]
        same = {_value(gold) for gold in task.answers}
        kept = [text for text in made if _value(text) not in same]
    return list(dict.fromkeys(kept)), len(made) - len(kept)


def _other_values(gold: str) -> list[str]:
    plain = gold.replace(",", "")
    if not _NUMBER.fullmatch(plain):
        return [f"{gold} + 1", f"-({gold})"]
    number = Decimal(plain)
    place = next(n for n, character in enumerate(plain) if character.isdigit())
    changed = plain[:place] + str((int(plain[place]) + 3) % 10) + plain[place + 1 :]
    dropped = [text for text in _shorter(list(plain), "") if _NUMBER.fullmatch(text)]
    return [str(number + 1), str(number - 1), str(-number), changed, *dropped]


def _shorter(parts: list[str], between: str) -> list[str]:
    """Return the whole without one part, for each of them."""
    return [between.join(parts[:n] + parts[n + 1 :]) for n in range(len(parts)) if len(parts) > 1]


def _value(answer: str) -> Decimal | str:
    plain = answer.replace(",", "")
    return Decimal(plain) if _NUMBER.fullmatch(plain) else answer


def _letters(text: str) -> str:
    """Return what tells answers apart at all: letters and digits without articles, so not the reward's own rule."""
    words = re.sub(r"\b(a|an|the)\b", " ", text.lower())
    return "".join(filter(str.isalnum, words)) or "".join(text.lower().split())


async def check(name: str, tasks: TaskSet, perturbed: bool = False) -> dict[str, Any]:
    """Return how many gold, empty and perturbed answers scored, and which of them did wrongly.

    Args:
        name: for the table.
        tasks: the questions, all of them of one kind.
        perturbed: whether perturbed answers are scored too.
    """
    mathematical = tasks[0].kind != "qa"
    reward: Reward = MathReward(timeout=30) if mathematical else QAReward("em")
    golds = [(task, gold) for task in tasks for gold in task.answers]
    wrong = [(perturb(task, tasks[(n + 1) % len(tasks)]), task) for n, task in enumerate(tasks) if perturbed]
    changed = [(task, answer) for (answers, _), task in wrong for answer in answers]
    # The same value written in another way takes the road through the judge's processes.
    road = " + 0" if mathematical else ""

    async def each(pairs: Iterable[tuple[Task, str]]) -> list[float]:
        return await asyncio.gather(*(score(reward, task, answer) for task, answer in pairs))

    started = time.perf_counter()
    try:
        right = await each(golds)
        added = await each((task, gold + road) for task, gold in golds)
        empty = await each((task, "") for task in tasks)
        scored = await each((task, answer + road) for task, answer in changed)
    finally:
        await reward.close()
    return {
        "tasks": name,
        "count": len(tasks),
        "golds": len(golds),
        "right": sum(right),
        "gold + 0": sum(added),
        "empty": sum(empty),
        "perturbed": len(changed),
        "scored": sum(scored),
        "left out": sum(left for (_, left), _ in wrong),
        "failed": [f"{t.id}: gold {gold!r}" for (t, gold), *v in zip(golds, right, added, strict=True) if min(v) < 1]
        + [f"{t.id}: {answer!r} for {t.answers}" for (t, answer), v in zip(changed, scored, strict=True) if v],
        "seconds": round(time.perf_counter() - started, 2),
    }


def main() -> None:
    """Print the table, write it as JSON, and exit with 1 if an answer scored wrongly."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="?", default="generated", help="a preset, a path, a hub data set or a family")
    parser.add_argument("path", nargs="?", help="a local file for a preset")
    parser.add_argument("--perturbed", action="store_true", help="score perturbed gold answers as well")
    parser.add_argument("--json", type=Path, default=Path("runs/bench/gold.json"), help="where the numbers are written")
    options = parser.parse_args()
    generated = options.tasks == "generated"
    tasks = load_tasks(
        options.tasks, path=options.path, generators=GENERATORS, options={"size": 256} if generated else None
    )
    row = asyncio.run(check(options.tasks, tasks, options.perturbed))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    print(f"| {' | '.join(f'{row[c]:g}' if isinstance(row[c], float) else str(row[c]) for c in COLUMNS)} |")
    for line in row["failed"]:
        print(f"scored wrongly: {line}")
    if generated:
        print(f"For a public set, pass its name, and its file where there is no hub: {', '.join(PRESETS)}.")
    raise SystemExit(1 if row["failed"] or row["empty"] else 0)


if __name__ == "__main__":
    main()
