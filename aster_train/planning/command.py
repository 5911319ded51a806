"""`aster plan`: what a configuration needs on its GPUs and hosts, before anything is started."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from aster_env.errors import UsageError
from aster_train.planning.fit import Request, changes, make_plan
from aster_train.planning.memory import GiB, Training
from aster_train.planning.model import KNOWN, libraries, read_shape
from aster_train.planning.sampling import Sampling
from aster_train.planning.text import as_json, text

if TYPE_CHECKING:
    from aster_train.config import GRPOSettings

_CONTEXT = 32768
"""``max_tokens`` of an environment that does not say."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments; this module needs no more than the gym does, for every subcommand's parser comes here."""
    number: dict[str, Any] = {"type": int, "metavar": "N"}
    known = f"one of {', '.join(KNOWN)}"
    parser.add_argument("--config", metavar="FILE", help="of grpo.py; the options below say otherwise where given")
    parser.add_argument("--model", help=f"a folder, a hub name while online, or {known}")
    parser.add_argument("--context", **number, help="tokens of an episode (32768)")
    parser.add_argument("--gpus", **number, help="of the whole run (1)")
    parser.add_argument("--gpu-memory", type=float, metavar="GIB", help="of each GPU (80)")
    parser.add_argument("--episodes", **number, help="that live at once on each GPU (64)")
    parser.add_argument("--micro-batch", **number, help="episodes of an update's forward pass on each GPU (1)")
    parser.add_argument("--zero", **number, help="stage of DeepSpeed's ZeRO; 0: none (3 on several GPUs, else 0)")
    parser.add_argument("--lora", **number, help="rank of adapters to train instead of the weights")
    on = argparse.BooleanOptionalAction
    parser.add_argument("--gradient-checkpointing", action=on, help="compute activations again (yes)")
    parser.add_argument("--bf16", action=on, help="compute in bf16 (yes)")
    parser.add_argument("--vllm-memory", type=float, metavar="SHARE", help="of the GPU for vLLM (0.3); 0: HFPolicy")
    parser.add_argument("--sleep", action=on, help="vLLM's memory is free during the update (no)")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON, sizes in bytes")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print a plan; 1 if it does not fit.

    Raises:
        UsageError: no such model, a number out of its range, or a wrong configuration.
        MissingExtraError: the extra 'train' is not installed.
    """
    plan = make_plan(make_request(options))
    if not plan.fits:
        plan.changes.extend(changes(plan.request))
    said = json.dumps(as_json(plan), indent=2) if options.json else text(plan)
    sys.stdout.write(said + "\n")
    return 0 if plan.fits else 1


def make_request(options: argparse.Namespace) -> Request:
    """Return what is asked: the options over the configuration over what follows from both.

    Raises:
        UsageError: no model is named, or there is none of that name.
    """
    libraries()
    settings = _read(options.config) if options.config else None
    given = _given(options)
    model = given.pop("model", settings.model if settings else None)
    if model is None:
        raise UsageError("No model is named. Fix: --model NAME, or --config FILE of grpo.py.")
    memory = int(given.pop("memory", 80) * GiB)
    training, sampling = _configured(settings) if settings else (Training(), Sampling())
    of_training = {name: given.pop(name) for name in list(given) if name in Training.__slots__}
    training = replace(training, **of_training)
    if "zero" not in of_training and training.gpus > 1:
        training = replace(training, zero=3)
    if settings:
        _check_loading(settings, training)
    if "episodes" in given:
        # Those that are served at once follow, unless the file bounds them.
        given["rows"] = min(given["episodes"], sampling.rows) if settings else given["episodes"]
    return Request(read_shape(model), training, replace(sampling, **given), memory)


def _read(file: str) -> GRPOSettings:
    from aster_train.config import GRPOSettings, read_settings

    return read_settings(GRPOSettings, ["--config", file], "")


def _given(options: argparse.Namespace) -> dict[str, Any]:
    names = {"model": "model", "context": "context", "gpus": "gpus", "gpu_memory": "memory", "episodes": "episodes",
             "micro_batch": "micro_batch", "zero": "zero", "lora": "lora", "bf16": "bf16", "sleep": "sleeps",
             "gradient_checkpointing": "checkpointing", "vllm_memory": "share"}  # fmt: skip
    return {to: value for name, to in names.items() if (value := getattr(options, name)) is not None}


def _configured(settings: GRPOSettings) -> tuple[Training, Sampling]:
    """Return what a file of ``grpo.py`` says, with TRL's defaults where it says nothing."""
    train, policy = settings.train, settings.policy_kwargs
    micro = _whole("train.per_device_train_batch_size", train, 8)
    training = Training(
        bf16=bool(train.get("bf16", False)),
        lora=_whole("lora.r", settings.lora, 8) if settings.lora is not None else 0,
        checkpointing=bool(train.get("gradient_checkpointing", True)),
        micro_batch=micro,
        context=_whole("env_kwargs.max_tokens", settings.env_kwargs, _CONTEXT),
    )
    # TRL: an engine serves at once no more than a batch of episodes has on a GPU.
    accumulated = _whole("train.gradient_accumulation_steps", train, 1)
    episodes = min(settings.max_concurrent, micro * _whole("train.steps_per_generation", train, accumulated))
    if train.get("use_vllm", False):
        share, sleeps = train.get("vllm_gpu_memory_utilization", 0.3), train.get("vllm_enable_sleep_mode", False)
        return training, Sampling(share, bool(sleeps), episodes, episodes)
    rows = min(episodes, _whole("policy_kwargs.max_batch", policy, settings.max_concurrent))
    return training, Sampling(0.0, False, episodes, rows, _whole("policy_kwargs.max_cache_tokens", policy, 0))


def _whole(name: str, values: Mapping[str, Any], default: int) -> int:
    """Return the integer that ``values`` has under the last part of ``name``."""
    from aster_train.values import check_type

    value = values.get(name.rpartition(".")[2])
    check_type(name, default if value is None else value, int)
    return default if value is None else int(value)


def _check_loading(settings: GRPOSettings, training: Training) -> None:
    """Raise ``UsageError`` where the model is loaded as no formula here describes."""
    options = settings.train.get("model_init_kwargs") or {}
    expected: dict[str, tuple[str, ...]] = {"attn_implementation": ("sdpa",), "dtype": ("float32",)}
    if training.zero and training.bf16:
        # DeepSpeed turns whatever was loaded into bf16.
        expected["dtype"] = ("float32", "bfloat16", "auto")
    for name, allowed in expected.items():
        if options.get(name, allowed[0]) not in allowed:
            raise UsageError(
                f"train.model_init_kwargs.{name}={options[name]!r}: this command has no formula for it. "
                f"Allowed: {', '.join(map(repr, allowed))}."
            )
