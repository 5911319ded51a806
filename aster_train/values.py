"""Values of YAML: how they are read, and whether they are of the types that a library declares."""

from __future__ import annotations

import re
import types
import typing
from typing import Any

import yaml

from aster_env.errors import UsageError

_SAY = {
    bool: "true or false", int: "an integer", float: "a number", str: "a string", list: "a list", dict: "a mapping",
    type(None): "null",
}  # fmt: skip


class _Loader(yaml.SafeLoader):
    """Takes 1e-6 for the number it is; YAML 1.1, which PyYAML reads, takes it for text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_yaml(text: str) -> Any:
    """Return what a YAML text says.

    Raises:
        yaml.YAMLError: it is none.
    """
    return yaml.load(text, Loader=_Loader)


def check_type(name: str, value: Any, hint: Any) -> None:
    """Raise ``UsageError`` if a value has none of the types that ``hint`` declares.

    A hint of other types than YAML's (an object of a library, say) allows everything.
    """
    kinds = _kinds(hint)
    if float in kinds:
        kinds |= {int}
    fits = bool in kinds if isinstance(value, bool) else isinstance(value, tuple(kinds))
    if kinds and not fits:
        allowed = " or ".join(
            text for kind, text in _SAY.items() if kind in kinds and not (kind is int and float in kinds)
        )
        raise UsageError(f"{name}: {value!r} is not allowed. Allowed: {allowed}.")


def _kinds(hint: Any) -> set[type]:
    """Return the types of YAML that a hint allows; none where it allows anything."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return {kind for part in typing.get_args(hint) for kind in _kinds(part)}
    if typing.get_origin(hint) is typing.Literal:
        return {type(value) for value in typing.get_args(hint)}
    return {typing.get_origin(hint) or hint} & {*_SAY}
