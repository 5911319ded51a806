"""Configuration of ``dpo.py``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from aster_env.errors import UsageError, check_name
from aster_train.values import check_type

DPO: Mapping[str, Any] = {
    "bf16": False,
    "logging_steps": 1,
    "report_to": "none",
    "beta": 0.1,
    "learning_rate": 5e-6,
    "num_train_epochs": 3,
    "max_length": 8192,
}
"""The defaults of ``train`` in a DPO configuration: Tool-Star's (arXiv 2505.16410)."""

LORA: Mapping[str, Any] = {"r": 8}
"""The default of ``lora``: Tool-Star's rank."""


@dataclass(frozen=True, slots=True)
class DPOSettings:
    """What ``dpo.py`` reads.

    Args:
        model: the policy: a local folder, a name on the hub, or ``"embedded"``; the tokenizer comes with it. It samples
            the episodes, and is the reference.
        env: a Gymnasium id; its reward says which episode is the better one.
        env_kwargs: passed to ``gymnasium.make``; the tokenizer is added.
        policy_kwargs: of ``HFPolicy``: ``max_batch`` and ``max_cache_tokens``.
        max_concurrent: episodes that live at once in a process.
        sampling: of the episodes, see ``Sampling``: ``{prompts: 512, rollouts: 8}``.
        lora: ``peft.LoraConfig``, over rank 8; null trains the weights themselves, beside a second copy of them.
        train: TRL's ``DPOConfig`` over the defaults of ``DPO``; ``output_dir`` is required. Episodes of more than
            ``max_length`` tokens are in no pair.
    """

    model: str
    env: str = "ASTER/PythonMath-v0"
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    policy_kwargs: Mapping[str, Any] = field(default_factory=dict)
    max_concurrent: int = 64
    sampling: Mapping[str, Any] = field(default_factory=dict)
    lora: Mapping[str, Any] | None = field(default_factory=lambda: LORA)
    train: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the policy plays the episodes that are paired.

    Args:
        prompts: tasks, drawn at random without repetition; all where there are fewer.
        rollouts: episodes of each.
        temperature: above 0: greedy episodes of a task are all the same.
        top_p: nucleus sampling.
        threshold: the least reward of a chosen episode.
        pairs_per_task: at most.
    """

    prompts: int = 512
    rollouts: int = 8
    temperature: float = 1.0
    top_p: float = 1.0
    threshold: float = 1.0
    pairs_per_task: int = 1

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Sampling:
        """Return the settings of a configuration's values.

        Raises:
            UsageError: an unknown key, or a value that is not allowed.
        """
        kinds: Mapping[str, type] = {"int": int, "float": float}
        declared = {f.name: kinds[str(f.type)] for f in fields(cls)}
        for name, value in values.items():
            check_name("key of 'sampling'", name, declared)
            check_type(f"sampling.{name}", value, declared[name])
        made = cls(**values)
        for name, least in (("prompts", 1), ("rollouts", 2), ("pairs_per_task", 1)):
            if getattr(made, name) < least:
                raise UsageError(f"sampling.{name}={getattr(made, name)} is not allowed. Allowed: at least {least}.")
        if made.temperature <= 0 or not 0 < made.top_p <= 1:
            raise UsageError(
                f"sampling.temperature={made.temperature:g}, top_p={made.top_p:g} is not allowed. "
                "Allowed: temperature > 0, 0 < top_p <= 1."
            )
        return made
