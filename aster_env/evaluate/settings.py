"""What an evaluation is made of, and the published protocols."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aster_env.errors import UsageError, check_name
from aster_env.evaluate.policies import PolicySpec, Sampling
from aster_env.modules import check_modules

RESERVED = {
    "tasks": "--tasks",
    "tasks_path": "--tasks NAME=FILE",
    "split": "--split",
    "max_tokens": "--max-tokens",
    "max_tool_calls": "--max-tool-calls",
    "tokenizer": "--tokenizer",
    "view": "",
    "render_mode": "",
}
"""Arguments of an environment that `aster eval` gives itself, and the option that sets each."""

_MATH = ("gsm8k", "math500", "aime24", "aime25")
_QUESTIONS = ("hotpotqa", "2wikimultihopqa", "bamboogle", "musique")

PROTOCOLS: dict[str, dict[str, Any]] = {
    # ASTER's evaluation: arXiv 2602.01204. One run at 90K gives the accuracy at 30K too.
    "aster": {
        "k": 16,
        "temperature": 0.6,
        "top_p": 0.95,
        "max_tokens": 90 * 1024,
        "budgets": (30 * 1024, 90 * 1024),
        "max_tool_calls": 50,
        "tasks": {"ASTER/PythonMath-v0": ("aime24", "aime25", "hmmt25", "beyond_aime")},
    },
    # Tool-Star's: arXiv 2505.16410: three Python and three search calls.
    "tool-star": {
        "k": 1,
        "temperature": 0.0,
        "top_p": 1.0,
        "max_tool_calls": 6,
        "tasks": {"ASTER/MultiTool-v0": (*_MATH, *_QUESTIONS)},
        "env_kwargs": {
            "ASTER/MultiTool-v0": {
                "dialect": "tags",
                "reward": "f1",
                "timeout": 5.0,
                "max_output": {"python": 400},
                "tool_limits": {"python": 3, "search": 3},
            },
        },
    },
}
"""Presets by name; each value is only a default, and ``tasks`` and ``env_kwargs`` are by environment."""


@dataclass(frozen=True, slots=True)
class EvalSettings:
    """One evaluation.

    Args:
        environment: its id; ``"package:Name-v0"`` imports the package that registers it.
        policy: what plays.
        sampling: how; ``sampling.max_tokens`` bounds an episode, ``sampling.seed`` seeds everything.
        tasks: task sets, each a name or a path for the environment, or ``"NAME=FILE"`` for a local copy of a preset;
            none: the environment's own.
        env_kwargs: further arguments of the environment.
        split: which split of the tasks.
        limit: the first so many tasks of each set; None: all.
        task_ids: only these; none: all.
        k: samples a task.
        max_tool_calls: of an episode.
        max_seconds: of an episode; None: unlimited.
        budgets: token budgets at which the report gives the accuracy.
        concurrency: episodes that live at once.
        attempts: how often a sample is played before it counts as failed.
        protocol: the preset that the settings began with, if any.
        modules: around the policy, by name; see ``aster_env.modules``.

    Raises:
        UsageError: a value is not allowed.
    """

    environment: str
    policy: PolicySpec
    sampling: Sampling = field(default_factory=Sampling)
    tasks: tuple[str, ...] = ()
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    split: str | None = None
    limit: int | None = None
    task_ids: tuple[str, ...] = ()
    k: int = 1
    max_tool_calls: int = 50
    max_seconds: float | None = None
    budgets: tuple[int, ...] = ()
    concurrency: int = 16
    attempts: int = 3
    protocol: str = ""
    modules: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        bounds = (("k", 1), ("concurrency", 1), ("attempts", 1), ("max_tool_calls", 0), ("limit", 1))
        for name, least in bounds:
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < least):
                raise UsageError(f"{name}={value!r} is not allowed. Allowed: a whole number of at least {least}.")
        check_modules(self.modules)
        if self.modules and self.policy.kind == "chat":
            raise UsageError(
                f"modules {', '.join(self.modules)}: not allowed with a chat endpoint, which takes and gives text, for "
                "modules need a policy that takes token ids. Fix: --policy completions, vllm, transformers or "
                "module:function; or leave --modules out."
            )
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise UsageError(f"max_seconds={self.max_seconds!r} is not allowed. Allowed: more than 0; or leave it out.")
        for budget in self.budgets:
            if not 0 < budget <= self.sampling.max_tokens:
                raise UsageError(
                    f"budgets: {budget} is not allowed. Allowed: 1 to max_tokens ({self.sampling.max_tokens}), since "
                    "one run shows what smaller budgets would have given. Fix: raise --max-tokens, or leave it out."
                )
        for name in self.env_kwargs:
            if name in RESERVED:
                fix = f"pass {RESERVED[name]}" if RESERVED[name] else "leave it out"
                raise UsageError(f"env_kwargs[{name!r}] is set by the evaluation itself. Fix: {fix}.")
        names = [folder_name(tasks) for tasks in self.tasks]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UsageError(f"Two task sets are called {twice!r}. Fix: name each once, or evaluate them apart.")

    def recorded(self, tasks: str) -> dict[str, Any]:
        """Return what the manifest of one task set records: all that a sample depends on, as plain JSON."""
        policy = asdict(self.policy)
        policy["options"] = {n: v for n, v in policy["options"].items() if n not in _WORKING}
        row = {
            "policy": policy,
            **asdict(self.sampling),
            "env_kwargs": dict(self.env_kwargs),
            "tasks": tasks,
            **{name: getattr(self, name) for name in ("split", "limit", "k", "max_tool_calls", "max_seconds")},
            "task_ids": list(self.task_ids),
            "budgets": list(self.budgets),
            "protocol": self.protocol,
            **({"modules": list(self.modules)} if self.modules else {}),
        }
        return row


_WORKING = ("concurrency", "timeout", "retries")
"""Options of a policy that change how fast a run goes, not what it finds: a resumed run may have others."""


def apply_protocol(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that were given, over those of the protocol that they name.

    Raises:
        UsageError: the protocol is unknown, or is of another environment.
    """
    name, environment = given.get("protocol", ""), given["environment"]
    if not name:
        return dict(given)
    preset = dict(PROTOCOLS[check_name("protocol", name, PROTOCOLS)])
    tasks, kwargs = preset.pop("tasks"), preset.pop("env_kwargs", {})
    if environment not in tasks:
        raise UsageError(
            f"The protocol {name!r} has no tasks for {environment!r}, only for {', '.join(tasks)}, so its numbers "
            "could not be compared. Fix: leave --protocol out, and give --k, --temperature and so on yourself."
        )
    if not given.get("tasks"):
        preset["tasks"] = tasks[environment]
    most = given.get("max_tokens")
    if most is not None and "budgets" in preset:
        preset["budgets"] = tuple(budget for budget in preset["budgets"] if budget <= most)
    return {**preset, **given, "env_kwargs": {**kwargs.get(environment, {}), **given.get("env_kwargs", {})}}


def sample_seed(seed: int, task: str, sample: int) -> int:
    """Return the seed, below 2**31, of a sample: of these three alone, so that no order matters."""
    text = f"{seed}\0{sample}\0{task}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "big") >> 1


def folder_name(tasks: str) -> str:
    """Return a task set's name for folders and reports: the preset's, or the file's without its ending."""
    name = tasks.partition("=")[0] if "=" in tasks else tasks
    stem = Path(name).stem if name.endswith((".jsonl", ".json", ".parquet")) else name
    return re.sub(r"[^\w.-]+", "-", stem).strip("-.") or "tasks"
