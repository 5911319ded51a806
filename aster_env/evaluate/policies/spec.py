"""Which policy an evaluation asks for, checked before anything is opened."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aster_env.endpoints import base_url, read_key
from aster_env.errors import UsageError, check_name

_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def _count(least: int) -> tuple[Callable[[Any], bool], str]:
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= least, f"a whole number from {least} on"


def _real(most: float) -> tuple[Callable[[Any], bool], str]:
    return (
        lambda v: isinstance(v, int | float) and not isinstance(v, bool) and 0 < v <= most,
        f"a number above 0, at most {most:g}",
    )


def _choice(*allowed: Any) -> tuple[Callable[[Any], bool], str]:
    return lambda v: any(v is a or (isinstance(v, str) and v == a) for a in allowed), " or ".join(map(repr, allowed))


_DTYPES = _choice("auto", "float32", "bfloat16", "float16")
_ENDPOINT = {"concurrency": _count(1), "timeout": _real(86_400), "retries": _count(0)}
OPTIONS: Mapping[str, Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    "chat": _ENDPOINT,
    "completions": {**_ENDPOINT, "processed_logprobs": _choice(True, False)},
    "python": {"concurrency": _count(1)},
    "transformers": {"max_batch": _count(1), "max_cache_tokens": _count(16), "dtype": _DTYPES},
    "vllm": {"dtype": _DTYPES, "gpu_memory_utilization": _real(1), "max_num_seqs": _count(1)},
}
"""By kind of policy: its options, what tells a value that is allowed, and how that is said."""


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """A policy as asked for; nothing is opened yet.

    Args:
        kind: ``"chat"``, ``"completions"``, ``"vllm"``, ``"transformers"`` or ``"python"``.
        model: an endpoint's name of the model; a folder or a name on the hub; or ``"module:function"``.
        url: of an endpoint.
        key_variable: environment variable with the endpoint's key.
        tokenizer: folder or name on the hub; "" takes the model's own for ``vllm`` and ``transformers``, and the byte
            tokenizer for ``chat`` and ``python``.
        options: ``concurrency``, ``timeout`` (seconds for a turn, all attempts together) and ``retries`` of endpoints,
            ``processed_logprobs`` of ``completions`` (the server says that it runs with this mode), ``concurrency`` of
            ``python``, ``max_batch``, ``max_cache_tokens`` and ``dtype`` of ``transformers``, ``dtype``,
            ``gpu_memory_utilization`` and ``max_num_seqs`` of ``vllm``.

    Raises:
        UsageError: something is not allowed, is missing, or has no meaning for this kind.
    """

    kind: str
    model: str = ""
    url: str = ""
    key_variable: str = "OPENAI_API_KEY"
    tokenizer: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name("policy", self.kind, OPTIONS)
        for name, value in self.options.items():
            allows, said = OPTIONS[self.kind][check_name(f"option of --policy {self.kind}", name, OPTIONS[self.kind])]
            if not allows(value):
                raise UsageError(f"{name}={value!r} is not allowed. Allowed: {said}.")
        if self.kind in ("chat", "completions"):
            if not self.url:
                raise UsageError(f"--policy {self.kind} needs the endpoint's address. Fix: --url http://HOST:PORT/v1.")
            base_url(self.url)
            read_key(self.key_variable)
        elif self.url:
            raise UsageError(
                f"--url has no meaning with --policy {self.kind}. Fix: leave it out, or --policy chat or completions."
            )
        elif not self.model:
            raise UsageError(f"--policy {self.kind} needs a model. Fix: --model FOLDER, or its name on the hub.")
        if self.kind == "completions" and not self.tokenizer:
            raise UsageError(
                "--policy completions sends and receives token ids, so it needs the tokenizer of the served model. "
                "Fix: --tokenizer FOLDER (the model's own), or --policy chat."
            )


def read_spec(policy: str, **given: Any) -> PolicySpec:
    """Return the policy that a command line asks for.

    Args:
        policy: a kind, or ``"module:function"``.
        **given: the other arguments of ``PolicySpec``.

    Raises:
        UsageError: see ``PolicySpec``.
    """
    if ":" not in policy:
        if policy == "python":
            raise UsageError("policy 'python' names no function. Fix: --policy MODULE:FUNCTION.")
        return PolicySpec(check_name("policy", policy, [*OPTIONS.keys() - {"python"}, "module:function"]), **given)
    if not _MODULE.fullmatch(policy):
        raise UsageError(f"policy {policy!r} is not allowed. Allowed: MODULE:FUNCTION, as in my_agent:play.")
    if given.pop("model", ""):
        raise UsageError(
            f"--model has no meaning with --policy {policy}: the function is the model. Fix: leave it out."
        )
    return PolicySpec("python", policy, **given)
