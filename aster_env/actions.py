"""Reading an action, whatever form a caller gives it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from aster_env.dialects.base import Dialect, Parsed, Schemas
from aster_env.errors import UsageError
from aster_env.tokenizers import Tokenizer
from aster_env.tools.base import Tool, check_call
from aster_env.types import Turn


class Action(NamedTuple):
    """What a caller gives ``step``: ids, log-probabilities (None if unknown), and what a ``Completion`` brings else."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...] | None = None
    seconds: float = 0.0
    back: int = 0
    module: str = ""


def read_action(action: Any, view: str, tokenizer: Tokenizer) -> Action:
    """Return an action in one form.

    Args:
        action: ids, a ``Completion``, or with ``view="text"`` a string.
        view: the environment's.
        tokenizer: bounds the ids, and encodes a string.

    Raises:
        UsageError: the action is none of these, an id is out of range, or there is not one log-probability for
            each id.
    """
    if hasattr(action, "ids"):
        ids = _read_ids(action.ids, "A completion's 'ids'", tokenizer)
        logprobs = _read_logprobs(getattr(action, "logprobs", None), len(ids))
        seconds, back = float(getattr(action, "seconds", 0.0)), getattr(action, "back", 0)
        if not isinstance(back, int) or back < 0:
            raise UsageError(f"A completion's back={back!r} is not allowed. Allowed: how many turns, 0 or more.")
        return Action(ids, logprobs, seconds, back, getattr(action, "module", ""))
    if view == "text":
        if not isinstance(action, str):
            raise UsageError(f"With view='text' an action is a str, not a {type(action).__name__}.")
        return Action(tuple(tokenizer.encode(action)))
    return Action(_read_ids(action, "An action", tokenizer))


def read_turn(action: Action, dialect: Dialect, schemas: Schemas, tools: Mapping[str, Tool]) -> tuple[Turn, Parsed]:
    """Return an action as a turn, its call checked but not run, and what the dialect read in it.

    Args:
        action: see ``read_action``.
        dialect: reads it.
        schemas: of the tools, by name.
        tools: what can be called, by name.
    """
    text = dialect.tokenizer.decode(action.ids)
    parsed = dialect.parse(text, schemas)
    calls = (check_call(parsed.call, tools),) if parsed.call else ()
    # What a module wrote has no probability under this context, whatever its policy says of another.
    logprobs = None if action.module else action.logprobs
    turn = Turn("model", action.ids, text, logprobs, calls=calls, seconds=action.seconds, module=action.module)
    return turn, parsed


def _read_ids(value: Any, what: str, tokenizer: Tokenizer) -> tuple[int, ...]:
    if not isinstance(value, np.ndarray | list | tuple):
        raise UsageError(f"{what} must be a sequence of token ids, not a {type(value).__name__}.")
    try:
        ids = np.asarray(value)
    except ValueError as error:
        raise UsageError(f"{what} must be one-dimensional and of integers: {error}.") from error
    if ids.size and (ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer)):
        raise UsageError(f"{what} must be one-dimensional and of integers, not {ids.dtype} of shape {ids.shape}.")
    if ids.size and not (ids.min() >= 0 and ids.max() < tokenizer.vocab_size):
        raise UsageError(
            f"{what} must be the tokenizer's, not from {ids.min()} to {ids.max()}. Allowed: 0 to "
            f"{tokenizer.vocab_size - 1}. Fix: give the environment the model's tokenizer; let no policy sample ids "
            "that only pad a model's vocabulary."
        )
    return tuple(ids.tolist()) if ids.size else ()


def _read_logprobs(value: Any, count: int) -> tuple[float, ...] | None:
    if value is None:
        return None
    try:
        logprobs = tuple(float(chance) for chance in value)
    except (TypeError, ValueError) as error:
        raise UsageError(f"A completion's 'logprobs' must be numbers, one for each id, or None: {error}.") from error
    if len(logprobs) != count:
        raise UsageError(
            f"A completion has {len(logprobs)} 'logprobs' for {count} ids. Allowed: one for each id, or None."
        )
    return logprobs
