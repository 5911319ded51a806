"""Policies of an evaluation: an endpoint, a model in this process, or a Python function."""

from __future__ import annotations

import importlib

from aster_env.errors import MissingExtraError
from aster_env.evaluate.policies.base import OpenPolicy, Sampling
from aster_env.evaluate.policies.spec import PolicySpec, read_spec

__all__ = ["OpenPolicy", "PolicySpec", "Sampling", "open_policy", "read_spec"]

_OPENERS = {
    "chat": "aster_env.evaluate.policies.chat:open_chat",
    "completions": "aster_env.evaluate.policies.completions:open_completions",
    "python": "aster_env.evaluate.policies.python:open_python",
    # The trainer's, which the gym knows by name alone.
    "transformers": "aster_train.policies.opening:open_transformers",
    "vllm": "aster_train.policies.opening:open_vllm",
}


async def open_policy(spec: PolicySpec, sampling: Sampling) -> OpenPolicy:
    """Open a policy: contact its endpoint, load its model, or import its function.

    Raises:
        UsageError: the endpoint refuses the key or does not know the model, or what was named is not there.
        PolicyError: the endpoint cannot be reached.
        MissingExtraError: a library that the policy needs is not installed.
    """
    module, _, function = _OPENERS[spec.kind].partition(":")
    try:
        opener = getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing == "aster_env":
            raise
        raise MissingExtraError(missing, "train", f"--policy {spec.kind}") from error
    opened: OpenPolicy = await opener(spec, sampling)
    return opened
