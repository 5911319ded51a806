"""What contradicts what in a GRPO configuration, said before an environment or a model is made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from trl import GRPOConfig

from aster_env.errors import UsageError, check_name
from aster_env.rollout import Policy
from aster_train.policies.hf import ATTENTION, check_options

LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo")
"""TRL's; it names a wrong one only at the first update."""
IMPORTANCE = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
"""TRL's modes of importance sampling; it names a wrong one only after the first episodes."""

UNUSED: Mapping[str, tuple[Any, str]] = {
    "top_k": (0, "train.top_p cuts the tail of the distribution"),
    "min_p": (None, "train.top_p cuts the tail of the distribution"),
    "repetition_penalty": (1.0, "leave it out: the loss would not know of it"),
    "max_completion_length": (512, "env_kwargs.max_tokens bounds an episode, its prompt and observations included"),
    "max_tool_calling_iterations": (None, "env_kwargs.max_tool_calls"),
    "chat_template_kwargs": (None, "env_kwargs.dialect and the tokenizer's template render the prompt"),
    "generation_kwargs": (None, "train.temperature and train.top_p"),
    "cache_implementation": (None, "policy_kwargs.max_cache_tokens"),
    "use_transformers_continuous_batching": (False, "leave it out: this policy batches continuously"),
    "use_transformers_paged": (False, "leave it out: this policy batches continuously"),
}
"""Keys of ``train`` that only TRL's own generation reads: the values that they may have, and what to write instead."""


def check_arguments(args: GRPOConfig, policy: Policy | None, policy_kwargs: Mapping[str, Any]) -> None:
    """Raise ``UsageError`` for arguments that contradict each other; reads no model."""
    if policy is not None and (policy_kwargs or args.use_vllm):
        other = "policy_kwargs" if policy_kwargs else "train.use_vllm"
        raise UsageError(f"{other} beside a policy that is made already is not allowed. Fix: leave out one of the two.")
    if args.use_vllm:
        _check_vllm(args, policy_kwargs)
    check_options(policy_kwargs)
    check_name("train.loss_type", args.loss_type, LOSSES)
    check_name("train.importance_sampling_level", args.importance_sampling_level, ("token", "sequence"))
    if args.temperature <= 0:
        raise UsageError(f"temperature={args.temperature} is not allowed: the loss divides by it. Allowed: above 0.")
    if args.multi_objective_aggregation != "sum_then_normalize" or args.scale_rewards not in ("group", "none"):
        raise UsageError(
            f"scale_rewards={args.scale_rewards!r} with {args.multi_objective_aggregation!r} is not allowed. "
            "Allowed: scale_rewards 'group' or 'none'."
        )
    if args.mask_truncated_completions:
        raise UsageError(
            "mask_truncated_completions=True is not allowed: TRL takes an episode for truncated whose last token is no "
            "end of a turn, so it would mask every episode that ends in a call or an observation. Fix: leave it out; "
            "'truncated_ratio' counts them."
        )
    _check_unused(args)
    _check_saving(args)


def check_length(max_tokens: int, args: GRPOConfig, policy_kwargs: Mapping[str, Any]) -> None:
    """Raise ``UsageError`` if an episode can be longer than what its policy holds."""
    if args.use_vllm:
        if args.vllm_max_model_length is not None and max_tokens > args.vllm_max_model_length:
            raise UsageError(
                f"train.vllm_max_model_length={args.vllm_max_model_length} holds no episode of env_kwargs.max_tokens="
                f"{max_tokens}. Fix: leave it out, and the engine's context is an episode's."
            )
        return
    most = policy_kwargs["max_cache_tokens"]
    if max_tokens > most:
        raise UsageError(
            f"policy_kwargs.max_cache_tokens={most} holds no episode of env_kwargs.max_tokens={max_tokens}. "
            "Fix: raise the one, or lower the other."
        )


def check_count(tasks: int, args: GRPOConfig) -> None:
    """Raise ``UsageError`` if the tasks do not fill one batch of episodes: TRL would train on none of them."""
    needed = args.generation_batch_size // args.num_generations
    if tasks < needed:
        raise UsageError(
            f"There are {tasks} tasks, and a batch of episodes takes {needed} (per_device_train_batch_size x processes "
            "x steps_per_generation / num_generations). Fix: lower one of the first three, or give more tasks."
        )


def _check_vllm(args: GRPOConfig, policy_kwargs: Mapping[str, Any]) -> None:
    if policy_kwargs:
        raise UsageError(
            f"policy_kwargs={dict(policy_kwargs)} are those of the transformers policy. "
            "Fix: leave them out beside train.use_vllm; its own are train.vllm_*."
        )
    if args.vllm_mode != "colocate":
        raise UsageError(
            f"train.vllm_mode={args.vllm_mode!r} is not allowed: one process would speak for all, and every episode "
            "would wait for the slowest. Allowed: 'colocate', an engine in each process."
        )
    if args.vllm_tensor_parallel_size != 1:
        raise UsageError(
            f"train.vllm_tensor_parallel_size={args.vllm_tensor_parallel_size} is not allowed: engines that share "
            "their layers must take the same requests at the same step, so their episodes would wait for each other. "
            "Allowed: 1, a whole engine on each GPU. For a model too large for one: quantize it, or shorten episodes."
        )
    if args.vllm_structured_outputs_regex is not None:
        raise UsageError("train.vllm_structured_outputs_regex is not allowed: the loss would not know of it.")
    if args.vllm_importance_sampling_mode not in IMPORTANCE:
        raise UsageError(
            f"train.vllm_importance_sampling_mode={args.vllm_importance_sampling_mode!r} is not allowed. "
            f"Allowed: {', '.join(map(repr, IMPORTANCE))}."
        )


def _check_unused(args: GRPOConfig) -> None:
    for name, (allowed, instead) in UNUSED.items():
        value = getattr(args, name)
        # Dr. GRPO's loss divides by this length, which is then no bound of generation.
        divides = name == "max_completion_length" and args.loss_type == "dr_grpo"
        if value != allowed and not divides:
            raise UsageError(
                f"train.{name}={value!r} is not allowed: TRL's own generation is not used. Fix: {instead}."
            )
    options = args.model_init_kwargs if isinstance(args.model_init_kwargs, Mapping) else {}
    attention = options.get("attn_implementation", ATTENTION[0])
    if attention not in ATTENTION:
        raise UsageError(
            f"attn_implementation={attention!r} is not allowed. Allowed: {', '.join(map(repr, ATTENTION))}."
        )


def updates_a_batch(args: GRPOConfig) -> int:
    """Return after how many optimizer steps a batch of episodes and a step end together."""
    cycle = args.steps_per_generation * args.num_iterations
    return math.lcm(cycle, args.gradient_accumulation_steps) // args.gradient_accumulation_steps


def _check_saving(args: GRPOConfig) -> None:
    updates = updates_a_batch(args)
    if args.save_strategy == "steps" and args.save_steps % updates:
        raise UsageError(
            f"save_steps={args.save_steps:g} would save between two updates on one batch of episodes, which a resumed "
            f"run could not repeat. Allowed: a multiple of {updates} "
            "(steps_per_generation x num_iterations / gradient_accumulation_steps)."
        )
