"""Dialects: how families of models write tool calls and read results."""

from __future__ import annotations

from aster_env.dialects.base import Dialect, Parsed
from aster_env.dialects.hermes import Hermes
from aster_env.dialects.tags import Tags
from aster_env.errors import check_name
from aster_env.tokenizers import Tokenizer

DIALECTS: dict[str, type[Dialect]] = {"hermes": Hermes, "tags": Tags}

__all__ = ["DIALECTS", "Dialect", "Hermes", "Parsed", "Tags", "make_dialect"]


def make_dialect(name: str, tokenizer: Tokenizer) -> Dialect:
    """Return the dialect called ``name`` for ``tokenizer``.

    Raises:
        UnknownNameError: there is no such dialect.
        UsageError: the tokenizer's chat template cannot express it.
    """
    return DIALECTS[check_name("dialect", name, DIALECTS)](tokenizer)
