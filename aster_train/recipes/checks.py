"""The checks that an entry point makes of its configuration, for a dry run to make the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aster_env.errors import UsageError
from aster_train.recipes.listing import Kind


def check_settings(kind: Kind, settings: Any) -> None:
    """Raise ``UsageError`` for what is wrong in a configuration beside ``train``.

    Args:
        kind: of the recipe.
        settings: of its entry point.
    """
    from aster_train.config import lora_config
    from aster_train.dpo_config import LORA, Sampling
    from aster_train.policies.hf import check_options

    defaults = LORA if kind == "dpo" else {}
    lora_config(None if settings.lora is None else {**defaults, **settings.lora})
    if kind != "sft":
        check_options(settings.policy_kwargs)
    if kind == "dpo":
        Sampling.read(settings.sampling)


def check_cache(longest: int, settings: Any) -> None:
    """Raise ``UsageError`` if the policy of a DPO recipe holds no episode of ``longest`` tokens."""
    from aster_train.policies.hf import OPTIONS

    most = {**OPTIONS, **settings.policy_kwargs}["max_cache_tokens"]
    if longest > most:
        raise UsageError(
            f"policy_kwargs.max_cache_tokens={most} holds no episode of env_kwargs.max_tokens={longest}. "
            "Fix: raise the one, or lower the other."
        )


def check_evaluation(train: Mapping[str, Any], defaults: Mapping[str, Any], gpus: int) -> None:
    """Raise ``UsageError`` if the GPUs do not hold whole groups of evaluation.

    Args:
        train: of the configuration, with ``per_device_eval_batch_size`` times the number of GPUs.
        defaults: of ``train``.
        gpus: of the run.
    """
    values = {**defaults, **train}
    group, batch = values.get("num_generations_eval") or values["num_generations"], values["per_device_eval_batch_size"]
    if values.get("eval_strategy", "no") == "no" or not isinstance(group, int) or not isinstance(batch, int):
        return
    if batch % group:
        raise UsageError(
            f"per_device_eval_batch_size={batch // gpus} on {gpus} GPUs makes {batch} episodes of evaluation at a "
            f"time, no multiple of num_generations_eval={group}. Fix: change one of the two, for instance "
            f"--num_generations_eval {batch}."
        )


def check_grpo(settings: Any, args: Any, micro: int, longest: int, tasks: int | None) -> None:
    """Raise ``UsageError`` where the trainer of ``grpo.py`` would.

    Args:
        settings: of ``grpo.py``.
        args: TRL's, with ``per_device_train_batch_size`` times the number of GPUs.
        micro: ``per_device_train_batch_size`` itself.
        longest: tokens that an episode may have, in training or evaluation.
        tasks: how many there are; None: not known.
    """
    from aster_train.ahead import check_ahead
    from aster_train.check import check_arguments, check_count, check_length
    from aster_train.policies.hf import OPTIONS
    from aster_train.recipe import Recipe

    check_arguments(args, None, settings.policy_kwargs)
    recipe = Recipe.read(settings.shaping, settings.penalties, settings.selection)
    batch, args.per_device_train_batch_size = args.per_device_train_batch_size, micro
    try:
        recipe.check(args)
    finally:
        args.per_device_train_batch_size = batch
    if settings.ahead:
        check_ahead(args, own_policy=False)
    check_length(longest, args, {**OPTIONS, **settings.policy_kwargs})
    recipe.penalties.check(settings.env_kwargs.get("max_tokens", longest))
    if tasks is not None:
        check_count(tasks, args)
