"""A recipe in small: two updates on the embedded model, on a CPU, with every part that the recipe switches on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aster_env.errors import UsageError

GROUP = 4
"""Episodes of a group."""
TOKENS: Mapping[str, int] = {"hermes": 100, "tags": 400}
"""Of an episode, by dialect: the prompt of ``tags`` describes its tools in words."""
_TRAIN: Mapping[str, Any] = {
    "max_steps": 2, "num_train_epochs": 1, "gradient_accumulation_steps": 1, "save_strategy": "no", "use_cpu": True,
    "bf16": False, "gradient_checkpointing": False, "logging_steps": 1, "report_to": "none", "disable_tqdm": True,
}  # fmt: skip


def scaled(settings: Any, folder: str | Path, model: str = "embedded") -> list[str]:
    """Return the command line that makes a recipe small: ``--key value`` over its file.

    What the recipe is stays: its objective, shaping, penalties, selection, dialect, reward, and the number of updates
    on a batch. Lengths, batches, tasks and the model are small, and a curriculum has no run to follow.

    Args:
        settings: of the recipe.
        folder: where the run is written.
        model: a folder, or ``"embedded"``.

    Raises:
        UsageError: a recipe of ``dpo.py``, which trains on pairs, and random weights give none.
    """
    if hasattr(settings, "sampling"):
        raise UsageError(
            "A recipe of dpo.py has no small form: its pairs need a model that is right now and then. "
            "Fix: name one, accelerate launch aster_train/dpo.py --config FILE --model FOLDER."
        )
    values = _sft(settings, folder) if hasattr(settings, "data") else _grpo(settings)
    values = {"model": model, **values, **{f"train.{name}": value for name, value in _TRAIN.items()}}
    values["train.output_dir"] = str(folder)
    return [part for name, value in values.items() for part in (f"--{name}", json.dumps(value))]


def write_examples(path: str | Path) -> None:
    """Write eight conversations, as the file of an SFT recipe holds them."""
    rows = []
    for n in range(8):
        answer = f"<think>{n} + 1 = {n + 1}</think><answer>\\boxed{{{n + 1}}}</answer>"
        rows.append([{"role": "user", "content": f"{n} + 1?"}, {"role": "assistant", "content": answer}])
    Path(path).write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows), encoding="utf-8")


def _grpo(settings: Any) -> dict[str, Any]:
    env, train = settings.env_kwargs, settings.train
    most = TOKENS[env.get("dialect", "hermes")]
    updates = max(1, train["steps_per_generation"] // train.get("gradient_accumulation_steps", 1))
    values = {
        "env_kwargs.tasks": "generated",
        "env_kwargs.task_options": {"level": 1, "size": 64},
        "env_kwargs.instruction": "",
        "env_kwargs.max_tokens": most,
        "env_kwargs.max_tool_calls": 2,
        "env_kwargs.timeout": 10,
        "eval_env_kwargs": None,
        "curriculum": None,
        "max_concurrent": 64,
        "train.eval_strategy": "no",
        "train.use_vllm": False,
        "train.num_generations": GROUP,
        # Two groups a batch, in as many updates as the recipe makes of one.
        "train.per_device_train_batch_size": max(1, 2 * GROUP // updates),
        "train.steps_per_generation": updates,
    }
    if "retriever" in env:
        values |= {
            "env_kwargs.fields": None,
            "env_kwargs.retriever": "lexical",
            "env_kwargs.retriever_options": None,
            "env_kwargs.world": {"passages": 1000},
            "env_kwargs.max_tokens": 800,
        }
    buffer = (settings.penalties or {}).get("overlong")
    if buffer is not None:
        values["penalties.overlong"] = max(1, int(buffer * most / env["max_tokens"]))
    return values


def _sft(settings: Any, folder: str | Path) -> dict[str, Any]:
    path = Path(folder) / "examples.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_examples(path)
    return {"data": str(path), "train.per_device_train_batch_size": 2, "train.max_length": 2048}
