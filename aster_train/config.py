"""Configuration of the entry points: one YAML file, ``--key value`` on the command line, and nothing unknown."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from aster_env.errors import UsageError, check_name

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
}
"""ASTER's objective (arXiv:2602.01204) in TRL's words: the defaults of ``train`` in a GRPO configuration.

Token-mean loss over all episodes of a batch (``dapo``), clipping at 1 - 0.2 and 1 + 0.28, no KL term, temperature 1,
advantages divided by their group's standard deviation.
"""

SFT: Mapping[str, Any] = {"bf16": False, "logging_steps": 1, "report_to": "none", "max_length": 32768}
"""The defaults of ``train`` in an SFT configuration."""


@dataclass(frozen=True, slots=True)
class GRPOSettings:
    """What ``grpo.py`` reads.

    Args:
        model: a local folder or a name on the hub; the tokenizer comes with it.
        env: a Gymnasium id.
        env_kwargs: passed to ``gymnasium.make``; the tokenizer is added.
        eval_env_kwargs: what differs in evaluation (another split, say); without it there is no evaluation.
        policy: where tokens are sampled: ``"hf"``.
        policy_kwargs: passed to the policy.
        max_concurrent: episodes that live at once in a process.
        train: TRL's ``GRPOConfig`` over the defaults of ``ASTER``; ``output_dir`` is required.
    """

    model: str
    env: str = "ASTER/PythonMath-v0"
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    eval_env_kwargs: Mapping[str, Any] | None = None
    policy: str = "hf"
    policy_kwargs: Mapping[str, Any] = field(default_factory=dict)
    max_concurrent: int = 64
    train: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SFTSettings:
    """What ``sft.py`` reads.

    Args:
        model: a local folder or a name on the hub; the tokenizer comes with it.
        data: a JSONL file of trajectories (what training and ``Trajectory.to_json`` write) or of ``messages``.
        dialect: renders ``messages``.
        train: TRL's ``SFTConfig``; ``output_dir`` is required. Examples of more than ``max_length`` tokens are
            dropped and counted.
    """

    model: str
    data: str
    dialect: str = "hermes"
    train: Mapping[str, Any] = field(default_factory=dict)


Settings = TypeVar("Settings", GRPOSettings, SFTSettings)


def read_settings(kind: type[Settings], arguments: Sequence[str], description: str) -> Settings:
    """Return the settings of ``--config FILE`` with ``--key value`` over them.

    A key of a mapping is written with a dot (``--train.learning_rate 1e-6``); values are YAML.

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
    for key, value in _pairs(rest):
        _put(values, key, value)
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
        allowed = Mapping if "Mapping" in declared else int if declared == "int" else str
        optional = "None" in declared and value is None
        if not optional and (not isinstance(value, allowed) or isinstance(value, bool)):
            raise UsageError(f"{name}: {value!r} is not allowed. Allowed: {_say(allowed)}.")
    for name, spec in fields.items():
        required = spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise UsageError(f"The configuration lacks {name!r}. Fix: add it to the file, or pass --{name} VALUE.")
    return kind(**values)


def training_arguments(kind: Any, defaults: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
    """Return TRL's or transformers' arguments, ``values`` over ``defaults``.

    Raises:
        UsageError: an unknown name, no ``output_dir``, or values that the library refuses.
    """
    allowed = tuple(f.name for f in dataclasses.fields(kind) if f.init)
    for name in values:
        check_name("key of 'train'", name, allowed)
    if not values.get("output_dir"):
        raise UsageError("'train' lacks 'output_dir'. Fix: add it, or pass --train.output_dir FOLDER.")
    try:
        return kind(**{**defaults, **values})
    except (ValueError, TypeError) as error:
        raise UsageError(f"'train' is refused by {kind.__name__}: {error}") from error


def check_model(name: str) -> None:
    """Raise ``UsageError`` if ``name`` looks like a local path and is none that holds a model."""
    local = name.startswith((".", "/", "~")) or name.count("/") > 1
    path = Path(name).expanduser()
    if local and not (path / "config.json").is_file():
        found = "is no folder" if not path.is_dir() else "has no config.json"
        raise UsageError(f"model: {name!r} {found}. Allowed: a folder that save_pretrained wrote, or a hub name.")


def resume_from(output_dir: str | os.PathLike[str]) -> str | None:
    """Return the last whole checkpoint in ``output_dir``, or None.

    A checkpoint is whole when its ``trainer_state.json`` is there: it is what is written last.
    """
    from transformers.trainer_utils import get_last_checkpoint

    folder = Path(output_dir)
    if not folder.is_dir():
        return None
    for broken in folder.glob("checkpoint-*"):
        if not (broken / "trainer_state.json").is_file():
            # A run killed in the middle of saving leaves such a folder; aside, it is neither resumed nor lost.
            broken.rename(broken.with_name("broken-" + broken.name))
    last: str | None = get_last_checkpoint(str(folder))
    return last


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        raise UsageError(f"--config {str(path)!r}: no such file. Beside it: {', '.join(near) or 'no YAML file'}.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
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
        pairs.append((name[2:], _scalar(value)))
        position += 1
    return pairs


def _scalar(text: str) -> Any:
    """Return a YAML value; numbers such as 1e-6, which YAML 1.1 takes for text, are numbers."""
    value = yaml.safe_load(text)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *outer, last = key.split(".")
    for name in outer:
        inner = values.get(name)
        values[name] = inner = dict(inner) if isinstance(inner, Mapping) else {}
        values = inner
    values[last] = value


def _say(kind: type) -> str:
    return {"Mapping": "a mapping", "int": "an integer", "str": "a string"}[kind.__name__]
