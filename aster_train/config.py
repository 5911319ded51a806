"""Configuration of the entry points: one YAML file, ``--key value`` on the command line, and nothing unknown."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from aster_env.errors import UsageError, check_name
from aster_train.values import check_type, read_yaml

ASTER: Mapping[str, Any] = {
    "loss_type": "dapo",
    "epsilon": 0.2,
    "epsilon_high": 0.28,
    "beta": 0.0,
    "temperature": 1.0,
    "scale_rewards": "group",
    "num_generations": 8,
    "bf16": False,
    "logging_steps": 1,
    "save_only_model": False,
    "report_to": "none",
    "vllm_mode": "colocate",
    "vllm_importance_sampling_mode": "token_truncate",
    "vllm_importance_sampling_clip_max": 2.0,
}
"""ASTER's objective (arXiv:2602.01204) in TRL's words: the defaults of ``train`` in a GRPO configuration.

Token-mean loss over all episodes of a batch (``dapo``), clipping at 1 - 0.2 and 1 + 0.28, no KL term, temperature 1,
advantages divided by their group's standard deviation. Where another engine samples, each token is weighted by the
ratio of its probabilities in the trainer and in the engine, cut at 2 (truncated importance sampling); TRL's own default
would drop a whole episode for one token.
"""

_NO_OUTPUT = "'train' lacks 'output_dir'. Fix: add it, or pass --train.output_dir FOLDER."
_MODELS = "Allowed: a folder that save_pretrained wrote, a hub name while online, or 'embedded'."

SFT: Mapping[str, Any] = {"bf16": False, "logging_steps": 1, "report_to": "none", "max_length": 32768}
"""The defaults of ``train`` in an SFT configuration."""


@dataclass(frozen=True, slots=True)
class GRPOSettings:
    """What ``grpo.py`` reads.

    Args:
        model: a local folder, a name on the hub, or ``"embedded"`` (half a million random weights, made in
            ``output_dir``); the tokenizer comes with it.
        env: a Gymnasium id.
        env_kwargs: passed to ``gymnasium.make``; the tokenizer is added.
        eval_env_kwargs: what differs in evaluation (another split, say); without it there is no evaluation.
        policy_kwargs: of ``HFPolicy``, which samples unless ``train.use_vllm`` is set: ``max_batch`` and
            ``max_cache_tokens``.
        max_concurrent: episodes that live at once in a process.
        ahead: whether the next batch of episodes is played while the model is updated on this one: one step
            off-policy, corrected by the importance ratio. Costs a second copy of the weights, unless vLLM has one.
        patience: seconds for which a batch is tried again of which not one episode could be played.
        shaping: of advantages, see ``aster_train.shaping``: ``{name: aspo}``.
        penalties: of rewards, see ``aster_train.penalties``: ``{overlong: 4096}``.
        selection: of episodes, see ``aster_train.selection``: ``{resample: 2}``.
        curriculum: of tasks, see ``aster_train.curriculum``: ``{after: FOLDER}``.
        modules: around the policy, see ``aster_env.modules``: ``[code_debugger, backtracker]``. What one writes under
            another context than the episode's is not trained.
        lora: ``peft.LoraConfig``: trains adapters of the model instead of its weights; null trains these.
        train: TRL's ``GRPOConfig`` over the defaults of ``ASTER``; ``output_dir`` is required.
    """

    model: str
    env: str = "ASTER/PythonMath-v0"
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    eval_env_kwargs: Mapping[str, Any] | None = None
    policy_kwargs: Mapping[str, Any] = field(default_factory=dict)
    max_concurrent: int = 64
    ahead: bool = False
    patience: int = 120
    shaping: Mapping[str, Any] | None = None
    penalties: Mapping[str, Any] | None = None
    selection: Mapping[str, Any] | None = None
    curriculum: Mapping[str, Any] | None = None
    modules: Sequence[str] = ()
    lora: Mapping[str, Any] | None = None
    train: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SFTSettings:
    """What ``sft.py`` reads.

    Args:
        model: a local folder or a name on the hub; the tokenizer comes with it.
        data: a JSONL file of trajectories (what training and ``Trajectory.to_json`` write) or of ``messages``.
        env: the environment whose tools the prompt of ``messages`` describes, where a line has no ``tools`` of its own;
            null describes none.
        env_kwargs: passed to ``gymnasium.make``.
        dialect: renders ``messages``.
        lora: ``peft.LoraConfig``: trains adapters of the model instead of its weights; null trains these.
        train: TRL's ``SFTConfig``; ``output_dir`` is required. Examples of more than ``max_length`` tokens are
            dropped and counted.
    """

    model: str
    data: str
    env: str | None = "ASTER/PythonMath-v0"
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    dialect: str = "hermes"
    lora: Mapping[str, Any] | None = None
    train: Mapping[str, Any] = field(default_factory=dict)


Settings = TypeVar("Settings", GRPOSettings, SFTSettings)


def read_settings(kind: type[Settings], arguments: Sequence[str], description: str, training: Any = None) -> Settings:
    """Return the settings of ``--config FILE`` with ``--key value`` over them.

    A key of a mapping is written with a dot (``--train.learning_rate 1e-6``); values are YAML. A name that is no key
    but one of TRL's arguments goes to ``train``: ``--use_vllm true``.

    Args:
        kind: the settings.
        arguments: of the command line.
        description: of the command.
        training: TRL's arguments, a dataclass.

    Raises:
        UsageError: no such file, no mapping, an unknown key, a missing one, or a value of the wrong type.
    """
    keys = "\n".join(f"  {f.name}" for f in dataclasses.fields(kind))
    parser = argparse.ArgumentParser(
        description=description,
        epilog=f"keys of FILE, each also as --key VALUE (with a dot inside a mapping: --train.max_steps 10):\n{keys}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="a YAML file; aster_train/configs holds examples")
    known, rest = parser.parse_known_args(list(arguments))
    values = _read_yaml(Path(known.config)) if known.config else {}
    own, theirs = ({f.name for f in dataclasses.fields(k)} if k else set() for k in (kind, training))
    for key, value in _pairs(rest):
        _put(values, f"train.{key}" if key in theirs - own else key, value)
    return build(kind, values)


def build(kind: type[Settings], values: Mapping[str, Any]) -> Settings:
    """Return settings made of ``values``.

    Raises:
        UsageError: an unknown key, a missing one, or a value of the wrong type.
    """
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for name, value in values.items():
        check_name("configuration key", name, tuple(fields))
        declared = str(fields[name].type)
        kinds = {"int": int, "bool": bool, "Sequence[str]": list}
        allowed = Mapping if "Mapping" in declared else kinds.get(declared, str)
        optional = "None" in declared and value is None
        fits = isinstance(value, allowed) and isinstance(value, bool) == (allowed is bool)
        if not optional and not fits:
            raise UsageError(f"{name}: {value!r} is not allowed. Allowed: {_say(allowed)}.")
    for name, spec in fields.items():
        required = spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise UsageError(f"The configuration lacks {name!r}. Fix: add it to the file, or pass --{name} VALUE.")
    return kind(**values)


def training_arguments(kind: Any, defaults: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
    """Return TRL's or transformers' arguments, ``values`` over ``defaults``.

    Raises:
        UsageError: an unknown name, a value of another type, no ``output_dir``, or values that the library refuses.
    """
    allowed = tuple(f.name for f in dataclasses.fields(kind) if f.init)
    for name in values:
        check_name("key of 'train'", name, allowed)
    if not values.get("output_dir"):
        raise UsageError(_NO_OUTPUT)
    hints = typing.get_type_hints(kind)
    for name, value in values.items():
        check_type(f"train.{name}", value, hints[name])
    _check_report_to(values.get("report_to"))
    try:
        return kind(**{**defaults, **values})
    except (ValueError, TypeError) as error:
        raise UsageError(f"'train' is refused by {kind.__name__}: {error}") from error


def lora_config(values: Mapping[str, Any] | None) -> Any:
    """Return peft's ``LoraConfig`` of these values, for a causal language model; None of None.

    Every linear layer gets an adapter unless ``target_modules`` says which.

    Raises:
        UsageError: an unknown name, or values that peft refuses.
    """
    if values is None:
        return None
    from peft import LoraConfig

    for name in values:
        check_name("key of 'lora'", name, tuple(f.name for f in dataclasses.fields(LoraConfig) if f.init))
    try:
        return LoraConfig(**{"task_type": "CAUSAL_LM", "target_modules": "all-linear", **values})
    except (ValueError, TypeError) as error:
        raise UsageError(f"'lora' is refused by peft: {error}") from error


def find_model(name: str, output_dir: str | None = None) -> str:
    """Return the folder of a local model, ``~`` expanded, or a hub name as it is.

    Args:
        name: ``"embedded"`` makes the model of ``aster_train.tiny.embedded`` in ``output_dir``; before training
            arguments, which may have ZeRO-3 split every model that is made.
        output_dir: of the run.

    Raises:
        UsageError: it is a path, and none that holds a model; or ``"embedded"`` has nowhere to be made.
    """
    if name == "embedded":
        if not output_dir:
            raise UsageError(_NO_OUTPUT)
        from aster_train.tiny.embedded import make_embedded

        return make_embedded(output_dir)
    path = Path(name).expanduser()
    if (path / "config.json").is_file():
        return str(path)
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or path.exists():
        found = "has no config.json" if path.is_dir() else "is no folder"
        raise UsageError(f"model: {name!r} {found}.{_near(path)} {_MODELS}")
    return name


def load_tokenizer(model: str) -> Any:
    """Return the tokenizer of a model, once its configuration is seen to be there too.

    Raises:
        UsageError: either cannot be read.
    """
    from transformers import AutoConfig, AutoTokenizer

    try:
        AutoConfig.from_pretrained(model)
        return AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        said = str(error).strip().splitlines()[0]
        raise UsageError(f"model: {model!r} could not be loaded: {said}{_near(Path(model))} {_MODELS}") from error


def _check_report_to(value: Any) -> None:
    from transformers.integrations import get_available_reporting_integrations
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    installed = get_available_reporting_integrations()
    for name in [value] if isinstance(value, str) else value or ():
        check_name("value of 'train.report_to'", name, (*INTEGRATION_TO_CALLBACK, "none", "all"))
        if name not in ("none", "all", *installed):
            raise UsageError(
                f"train.report_to={name!r} needs the package {name!r}, which is not installed. Fix: pip install "
                f"{name}, or choose among what is: {', '.join(map(repr, installed)) or 'nothing'}, 'none'."
            )


def _near(path: Path) -> str:
    """Return a hint at the folder beside ``path`` whose name is nearest."""
    beside = [p.name for p in path.parent.iterdir() if p.is_dir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, beside, n=1, cutoff=0.5)
    return f" Did you mean {str(path.with_name(near[0]))!r}?" if near and near != [path.name] else ""


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        raise UsageError(f"--config {str(path)!r}: no such file. Beside it: {', '.join(near) or 'no YAML file'}.")
    try:
        values = read_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path} holds a {type(values).__name__}. Allowed: a mapping of keys to values.")
    return values


def _pairs(rest: Sequence[str]) -> list[tuple[str, Any]]:
    pairs = []
    position = 0
    while position < len(rest):
        name, joined, value = rest[position].partition("=")
        if not name.startswith("--"):
            raise UsageError(f"{rest[position]!r} was not expected. Allowed: --key value.")
        if not joined:
            position += 1
            if position == len(rest):
                raise UsageError(f"{name} has no value. Fix: {name} VALUE.")
            value = rest[position]
        pairs.append((name[2:], read_yaml(value)))
        position += 1
    return pairs


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *outer, last = key.split(".")
    for name in outer:
        inner = values.get(name)
        values[name] = inner = dict(inner) if isinstance(inner, Mapping) else {}
        values = inner
    values[last] = value


def _say(kind: type) -> str:
    return {"Mapping": "a mapping", "int": "an integer", "bool": "true or false", "str": "a string"}[kind.__name__]
