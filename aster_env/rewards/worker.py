r"""A worker process that judges mathematical equivalence: JSON lines in, JSON lines out; run by path.

In a process of its own, an answer that takes for ever, or all the memory, harms nothing: the parent kills the process.
It ends when its standard input closes, and with its parent, even in the middle of a long computation.

An answer to a question that has one value may be a chain of sides. math-verify looks at one side and passes over what
contradicts it (``13=12`` and ``12 \approx 13`` would be 12), so here the chain is right only if some side is equivalent
to the reference, and each other one holds too:

- a name may stand for what was asked for, and so may, but at the end, whatever holds two unknowns, or a function:
  ``x = 12``, ``12 = x``, ``m + n = 12``, ``f(2) = 12``; not ``2x = 12``, whose unknown has another value, but behind
  another name: ``A = \pi r^2 = 12``;
- a side after ``\approx`` may be the reference rounded or cut to the digits written: ``\frac13 \approx 0.333``;
- any other must be equivalent to the reference: ``2 + 10 = 12``, but not ``13 = 12`` or ``x = 13 = 12``.

Several statements (``x = 11 \text{ or } x = 12``) are judged one by one, and all of them have to be right.

Before math-verify reads a text it is tidied; units and bases are taken off: see ``aster_env.rewards.forms``.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import re
import resource
import signal
import sys
import threading
import time
from dataclasses import replace
from functools import lru_cache
from typing import Any

from aster_env.rewards.forms import split_base, split_unit, tidy, without_percent, words

MEMORY = 4 << 30
_ROUNDED = ("\\approx", "≈", "\\simeq", "\\sim", "\\doteq", "\\cong")
_ARROWS = ["to", "mapsto", "iff", "implies", "rightarrow", "longrightarrow", "leftrightarrow", "longleftrightarrow"]
_JOINS = (
    *("=", "＝", "\\equiv", "≡", "\\propto", "→", "⟶", "⇒", "⟹", "↔", "⇔", "⟺"),
    *(f"\\{name}" for arrow in _ARROWS for name in (arrow, arrow.capitalize())),
    *_ROUNDED,
)
_PIECE = re.compile(r"\\[A-Za-z]+|\\.|[<>!]=|=+|(?<![A-Za-z\\])(?:or|and)(?![A-Za-z])|.", re.DOTALL)
_IGNORED = re.compile(r"\\?\$|\\[()\[\]]|&|\\[pb]?mod\s*\{[^{}]*\}")
_NAME = re.compile(r"[A-Za-z](_(\w|\{\w+\}))?'*((\^(\{[^{}]*\}|\w))?\([^()]*\))?")
_TEXT = re.compile(r"\\(?:text[a-z]*|mathrm|mbox)\s*\{([^{}]*)\}")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_DIGIT = re.compile(r"\d")
_BETWEEN = re.compile(r"[,;]|\b(?:or|and)\b")
_SEPARATORS = (",", ";", "or", "and", "\\lor", "\\vee", "\\land", "\\wedge", "∨", "∧")
_DENIED = re.compile(r"\\(?:neg|lnot)(?![A-Za-z])|¬|^\s*(?:\\neq?(?![A-Za-z])|≠|!=)")
_DECIMAL = re.compile(r"([+-]?\d+(?:\.(\d+))?)(?:\\ldots|\\dots|\.{3}|…)?")


def judge(golds: list[str], answer: str) -> bool:
    """Whether ``answer`` is mathematically equivalent to any of ``golds``, all of them without a box."""
    tidied = tidy(answer)
    return any(_matches(tidy(gold), tidied) for gold in golds)


def _matches(gold: str, answer: str) -> bool:
    if words(gold) == words(answer) != "":
        return True
    (gold, gold_unit), (answer, unit) = split_unit(gold), split_unit(answer)
    if gold_unit and unit and gold_unit != unit:
        return False
    (gold, gold_value), (answer, value) = split_base(gold), split_base(answer)
    if gold_value is not None and value is not None:
        return gold_value == value
    if _number(read(gold)) and _denies(answer):
        return False
    chains = [split_chain(statement) for statement in split_statements(answer)]
    if any(len(sides) > 1 for sides in chains):
        return _holds(read(gold), chains, answer)
    return _equal(read(gold), read(answer)) or without_percent(gold, answer)


@lru_cache(maxsize=1024)
def read(text: str) -> list[Any]:
    """Return what math-verify finds in a text: SymPy objects, and the text itself."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    normalization = replace(LatexExtractionConfig().normalization_config, units=False)
    configuration = [LatexExtractionConfig(normalization_config=normalization), ExprExtractionConfig()]
    found: list[Any] = parse(
        f"\\boxed{{{text}}}", extraction_config=configuration, parsing_timeout=None, raise_on_error=False
    )
    return [_imaginary(value) for value in found]


def _imaginary(value: Any) -> Any:
    """Put the imaginary unit where math-verify reads a name, but where it is an index."""
    import sympy
    from sympy.concrete.expr_with_limits import ExprWithLimits

    name = sympy.Symbol("i", real=False)
    if not isinstance(value, sympy.Expr) or name not in value.free_symbols or value.has(ExprWithLimits):
        return value
    return value.xreplace({name: sympy.I})


def _number(found: list[Any]) -> bool:
    import sympy

    return bool(found) and isinstance(found[0], sympy.Expr) and bool(found[0].is_number)


def _denies(answer: str) -> bool:
    r"""Whether an answer negates a number, or words open a bracket that holds one: ``13 \text{ (not } 12)``."""
    inside = _TEXT.findall(answer)
    return bool(_DENIED.search(answer)) or any(
        text.count(first) != text.count(last) for text in inside for first, last in ("()", "[]")
    )


def split_statements(text: str) -> list[str]:
    """Return what commas, "or" and "and" keep apart, in words too; those inside brackets do not count."""
    text = _THOUSANDS.sub("{,}", _IGNORED.sub("", text))
    text = _TEXT.sub(_apart, text)
    statements, depth = [""], 0
    for piece in _PIECE.findall(_unwrap(text.strip())):
        depth += (piece in "([{") - (piece in ")]}")
        if depth == 0 and piece in _SEPARATORS:
            statements.append("")
        else:
            statements[-1] += piece
    return [statement.strip() for statement in statements if statement.strip(" .")] or [text]


def _apart(words: re.Match[str]) -> str:
    """Write words that keep statements apart as a comma, and a number among them, but at the start, as a statement."""
    parts = _BETWEEN.split(words[1])
    numbers = [part for part in parts if _DIGIT.search(part)]
    if len(parts) == 1 or (numbers and words.start() == 0):
        return words[0]
    return ",".join(["", *numbers, ""])


def split_chain(text: str) -> list[tuple[str, str]]:
    """Return the sides of a chain, each with the sign before it; signs inside brackets do not count."""
    sides = [("", "")]
    depth = 0
    for piece in _PIECE.findall(_unwrap(_IGNORED.sub("", text).strip())):
        depth += (piece in "([{") - (piece in ")]}")
        sign = "=" if piece.startswith("=") else piece
        if depth == 0 and sign in _JOINS:
            sides.append((sign, ""))
        else:
            sides[-1] = (sides[-1][0], sides[-1][1] + piece)
    shown = [(sign, side.strip().rstrip(".,;")) for sign, side in sides]
    return [(sign, side) for sign, side in shown if side] or [("", text)]


def _unwrap(text: str) -> str:
    """Return a text without brackets around the whole of it."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character in "({") - (character in ")}")
        if depth == 0:
            whole = position == len(text) - 1 and text[0] in "({"
            return text[1:-1] if whole else text
    return text


def _equal(gold: list[Any], target: list[Any]) -> bool:
    """Ask math-verify, but where a decimal number is among the two: it compares six places, however small they are."""
    import sympy
    from math_verify import verify

    values = [found[0] for found in (gold, target) if found and isinstance(found[0], sympy.Expr)]
    numbers = [value.doit() for value in values if any(each.has(sympy.Float) for each in values)]
    if len(numbers) == 2 and all(number.is_number and number.is_finite for number in numbers):
        difference, size = abs(numbers[0] - numbers[1]).evalf(30), max(abs(n).evalf(30) for n in numbers)
        if difference > size / 10**4:
            return False
        if difference <= size / 10**12:
            return True
    return bool(verify(gold, target, allow_set_relation_comp=True, timeout_seconds=None))


def _holds(gold: list[Any], chains: list[list[tuple[str, str]]], answer: str) -> bool:
    """Whether every statement is right for one reference; see the module's text."""
    import sympy

    value = gold[0] if gold else None
    if not isinstance(value, sympy.Expr) or isinstance(value, sympy.MatrixExpr):
        # A point, a set, an equation: there the signs are part of the answer's form, which math-verify knows.
        return _equal(gold, read(answer))
    # The names before a sign may be several: "x, y = 12".
    while len(chains) > 1 and len(chains[0]) == 1 and _NAME.fullmatch(chains[0][0][1]):
        chains = chains[1:]
    return all(_chain_holds(gold, sides) for sides in chains)


def _chain_holds(gold: list[Any], sides: list[tuple[str, str]]) -> bool:
    right = [_equal(gold, read(side)) for _, side in sides]
    return any(right) and all(
        equal or _asked_for(sides, number, gold[0]) or (sign in _ROUNDED and _rounds(gold[0], side))
        for number, (equal, (sign, side)) in enumerate(zip(right, sides, strict=True))
    )


def _asked_for(sides: list[tuple[str, str]], number: int, value: Any) -> bool:
    """Whether a side may stand for what was asked for; see the module's text."""
    import sympy
    from sympy.core.function import AppliedUndef

    side = sides[number][1]
    if _NAME.fullmatch(side):
        return True
    if number == len(sides) - 1:
        return False
    found = read(side)
    if not found or not isinstance(found[0], sympy.Basic):
        return not any(character.isdigit() for character in side)
    if value.free_symbols:
        return isinstance(found[0], sympy.Symbol | AppliedUndef)
    expression = found[0].xreplace({call: sympy.Dummy() for call in found[0].atoms(AppliedUndef)})
    unknowns = expression.free_symbols
    if len(unknowns) != 1 or not isinstance(expression, sympy.Add | sympy.Mul | sympy.Pow):
        return bool(unknowns)
    named = any(_NAME.fullmatch(before) and before not in map(str, unknowns) for _, before in sides[:number])
    return named or expression.has(sympy.Function)


def _rounds(value: Any, side: str) -> bool:
    """Whether a decimal number is a value rounded or cut to the digits written."""
    import sympy

    written = _DECIMAL.fullmatch(re.sub(r"[\s,]|\\[,!]", "", side))
    if written is None or value.free_symbols or not value.is_real:
        return False
    exact, number, unit = value.evalf(30), sympy.Rational(written[1]), sympy.Rational(1, 10 ** len(written[2] or ""))
    difference = abs(exact - number)
    return bool(difference <= unit / 2 or (difference < unit and abs(number) <= abs(exact)))


def end_with_parent(parent: int) -> None:
    """End with the parent: by the kernel's signal where there is one, for native code may let no thread run."""
    if sys.platform == "linux":
        set_death_signal = 1
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL, 0, 0, 0)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    if os.getppid() != parent:
        os._exit(1)
    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    """Answer one request a line until the input closes."""
    logging.disable(logging.CRITICAL)
    end_with_parent(int(sys.argv[1]))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    judge(["1"], "1.0")
    print("ready", flush=True)  # noqa: T201
    for line in sys.stdin:
        request = json.loads(line)
        try:
            verdict: bool | None = judge(request["golds"], request["answer"])
        except Exception:  # noqa: BLE001 (the libraries behind raise anything on hostile input: "not judged")
            verdict = None
        print(json.dumps(verdict), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
