"""Numbers and foreign texts, as every form of the report writes them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

DASH = "–"
"""What stands where there is no number: NaN is never printed."""

_UNSEEN = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\ufffe\uffff]"
)
_KIB = 1024


def finite(value: Any) -> float | None:
    """Return ``value`` as a float, or None where it is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number + 0.0 if math.isfinite(number) else None


def number(value: Any, digits: int = 1) -> str:
    """Write a number with ``digits`` decimals and thousands separated, or a dash."""
    known = finite(value)
    return DASH if known is None else f"{round(known, digits) + 0.0:,.{digits}f}"


def count(value: Any) -> str:
    """Write a whole number, or a dash."""
    return number(value, 0)


def percent(value: Any, digits: int = 1) -> str:
    """Write a share in [0, 1] in per cent, without the sign."""
    known = finite(value)
    return DASH if known is None else number(100 * known, digits)


def signed(value: Any) -> str:
    """Write a difference of shares in percentage points, with its sign."""
    known = finite(value)
    if known is None:
        return DASH
    points = round(100 * known, 1) + 0.0
    return f"{points:+.1f}" if points else "0.0"


def estimate(value: Any) -> str:
    """Write ``{"value", "low", "high"}`` in per cent: ``82.3 [70.1, 91.0]``."""
    known = value if isinstance(value, Mapping) else {}
    middle, low, high = (percent(known.get(name)) for name in ("value", "low", "high"))
    return middle if DASH in (low, high) else f"{middle} [{low}, {high}]"


def middle(value: Any) -> float | None:
    """Return the value of an estimate, or None."""
    return finite(value.get("value")) if isinstance(value, Mapping) else None


def probability(value: Any) -> str:
    """Write a p value: four decimals, and a bound where these would all be zero."""
    known = finite(value)
    return DASH if known is None else "< 0.0001" if known < 0.0001 else f"{known:.4f}"


def budget(tokens: Any) -> str:
    """Write a budget of tokens: multiples of 1,024 as ``30K``."""
    known = finite(tokens)
    if known is None:
        return DASH
    return f"{known / _KIB:,.0f}K" if known >= _KIB and known % _KIB == 0 else count(known)


def clean(text: Any, limit: int = 80) -> str:
    r"""Return foreign text as one line that shows what it holds.

    Control characters, NUL, surrogates, and marks that would turn or hide the text around them are written as escapes
    (``\x00``, ``\u202e``); what is longer than ``limit`` characters loses its end to an ellipsis.
    """
    whole = text if isinstance(text, str) else _words(text)
    shown = _UNSEEN.sub(_escape, whole[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def _words(value: Any) -> str:
    """Return what is no text as words: no number, no value and no member as a dash."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return DASH
    return (", ".join(map(_words, value)) or DASH) if isinstance(value, list | tuple) else str(value)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    usual = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(match[0])
    return usual or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")
