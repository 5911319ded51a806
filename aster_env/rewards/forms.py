r"""The forms in which an answer may be written, brought to those that math-verify reads; text only, bounded in time.

``tidy`` writes symbols, spaces, styles and numbers in plain LaTeX. ``split_unit`` takes a unit off: math-verify would
take any ``m`` or ``ab`` at the end for one, so that ``n - 3m`` would be ``n - 3``. A unit may be left out; where both
sides write a known one, it has to be the same, and nothing is converted. A bare letter is a variable, ``\text{m}`` a
unit. The base of a number may be left out as well; where both sides write it, the values are compared.
``1 1/2`` is a mixed number, and a year may say that it is AD; one that is BC is another.
"""

from __future__ import annotations

import re
from fractions import Fraction

_SYMBOLS = str.maketrans(
    {"−": "-", "×": "\\times ", "·": "\\cdot ", "π": "\\pi ", "∞": "\\infty ", "°": "^\\circ ", "∅": "\\emptyset "}
)
_REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^\*\*(.+)\*\*$", r"\1"),
        (r"\*\*", "^"),
        (r"(?<!\.)\.$", ""),
        (r"^–\s*(?=\d)", "-"),
        (r"√\s*(\d+|[a-z])", r"\\sqrt{\1}"),
        (r"√\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"(?<![\\A-Za-z])pi(?![A-Za-z])", r"\\pi "),
        (r"(?<![\w.\\])(\d+(?:\.\d+)?)[eE]([+-]?\d+)(?!\w)", r"\1\\times 10^{\2}"),
        (r"(?<=\d)(?:(?<!\\)\\[,;: ]|~)(?=\d{3}(?!\d))", ""),
        (r"^([+-]?[1-9]\d{0,2}) (\d{3})(?: (\d{3}))?$", r"\1\2\3"),
        (r"(?<!\\)\\[,;: ]|~|\\q?quad(?![A-Za-z])", " "),
        (r"(?:^|(?<==)|(?<== ))([+-]?\d+) (\d+)/(\d+)(?![\w.^/])", lambda found: _mixed(found)),
        (r"^(\d{3,4}) (?:AD|CE|A\.D\.?|C\.E\.?)$|^AD (\d{1,4})$", r"\1\2"),
        (r"\\[bB]igg?[lrm]?(?![A-Za-z])", ""),
        (r"\\(?:mathbf|boldsymbol|bm|pmb|underline)\s*(?=\{)", ""),
        (r"\\(?:text)?color\s*\{\w*\}", ""),
        (r"\\(?:mathrm|text)\s*\{([ei])\}|\{\\rm\s+([ei])\}", r"\1\2 "),
        (r"\\Bbb(?![A-Za-z])", r"\\mathbb"),
        (r"\\([lr])brace(?![A-Za-z])", lambda found: "\\{" if found[1] == "l" else "\\}"),
        (r"\\varnothing(?![A-Za-z])", r"\\emptyset"),
        (r"\\degree(?![A-Za-z])", r"^\\circ"),
        (r"\\colon(?![A-Za-z])", ":"),
        (r"\\log_(?:e|\{e\})(?![A-Za-z])", r"\\ln "),
        (
            r"\\(sin|cos|tan|cot|sec|csc)\s*[({]?\s*(\d+)\s*\^\s*\{?\s*\\circ\s*\}?\s*[)}]?",
            r"\\\1(\\frac{\2\\pi}{180})",
        ),
        (r"(?<![A-Za-z\\_{])i(?![A-Za-z_])", " i "),
    )
]
_REPEATING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar)\s*\{?(\d+)\}?")
_SCALES = {"dozen": "12", "thousand": "10^{3}", "million": "10^{6}", "billion": "10^{9}", "trillion": "10^{12}"}
_SCALE = re.compile(rf"(\d)\s*(\\text\s*\{{)?\s*({'|'.join(_SCALES)})(?![a-z])")
_EITHER = re.compile(r"\\pm(?![A-Za-z])")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_DOLLARS = re.compile(r"\\?\$\s*(?=[\d.])")
_QUANTITY = re.compile(r"\d|\\pi")
_UNIT = re.compile(
    r"(?P<rest>.*?[^\s,;])\s*"
    r"(?:\\(?:text|mathrm|mbox|textrm)\s*\{(?P<text>[^{}]*)\}|(?<=[\d}\s])(?P<bare>[A-Za-z][A-Za-z ]+))"
    r"\s*(?:\^\s*\{?(?P<power>[23])\}?)?"
)
_OTHER = re.compile(r"\b(?:or|and|not)\b.*\d")
_POWERS = {"square": "2", "sq": "2", "sq.": "2", "cubic": "3"}
_ABBREVIATIONS = (
    "mm:millimeter cm:centimeter m:meter km:kilometer in:inch inche:inch ft:foot feet:foot yd:yard mi:mile "
    "metre:meter centimetre:centimeter kilometre:kilometer mg:milligram g:gram kg:kilogram oz:ounce lb:pound "
    "ml:milliliter l:liter L:liter litre:liter s:second sec:second min:minute h:hour hr:hour a.m:am p.m:pm"
)
_SHORT = dict(pair.split(":") for pair in _ABBREVIATIONS.split(" "))
_SPEED = {"mph": "mile per hour", "miles per hour": "mile per hour"}
_LONG = {"day", "week", "month", "year", "dollar", "cent", "degree", *_SHORT.values()}
_UNITS = {**{name: name for name in _LONG}, **_SHORT, **_SPEED}
_JOINED = {"mm", "cm", "km", "kg"}
_BASED = re.compile(r"\(?(\d[\dA-Za-z]*)\)?_(?:\{\s*(?:\\text\s*\{)?)?(\d+|[a-z]+)\}{0,2}")
_BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
_ONLY_WORDS = re.compile(r"(?:\\(?:text|textbf|mathrm)\s*)?\{?\s*([A-Za-z][A-Za-z '-]{2,})\}?")
_PERCENT = re.compile(r"\s*\\?%$")
_PLAIN = re.compile(r"[+-]?\d+(\.\d+)?")


def tidy(text: str) -> str:
    """Return a text with its symbols, spaces, styles and numbers in the LaTeX that math-verify reads."""
    text = text.strip().translate(_SYMBOLS)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = _REPEATING.sub(_fraction, text)
    text = _SCALE.sub(lambda found: f"{found[1]}\\times {_SCALES[found[3]]} {found[2] or ''}", text)
    if len(_EITHER.findall(text)) == 1 and "," not in text:
        # math-verify knows the sign between two terms only.
        return ", ".join(_EITHER.sub(sign, text) for sign in "+-")
    return text.strip()


def _mixed(number: re.Match[str]) -> str:
    whole, top, bottom = number.groups()
    return f"{whole}\\frac{{{top}}}{{{bottom}}}" if int(top) < int(bottom) else number[0]


def _fraction(repeating: re.Match[str]) -> str:
    whole, once, again = repeating.groups(default="")
    top = int(whole + once + again) - int((whole + once) or 0)
    return f"\\frac{{{top}}}{{{'9' * len(again) + '0' * len(once)}}}"


def split_unit(text: str) -> tuple[str, str]:
    """Return a text without the unit behind (or the dollar before) it, and the unit's name, "" if it is not known."""
    if text.count("$") == 1 and (money := _DOLLARS.match(text)):
        return text[money.end() :], "dollar"
    found = _UNIT.fullmatch(text)
    if found is None or not _QUANTITY.search(found["rest"]) or _OTHER.search(found["text"] or ""):
        return text, ""
    rest, names, power = found["rest"], (found["text"] or found["bare"] or "").split(), found["power"] or ""
    if names and names[0].lower() in _POWERS:
        power = _POWERS[names.pop(0).lower()]
    name = " ".join(names).rstrip(".")
    name = _UNITS.get(name) or _UNITS.get(name.lower().removesuffix("s")) or ""
    if found["bare"] and not _is_unit(found["bare"], rest, name, text[found.start("bare") - 1].isspace()):
        return text, ""
    return rest, name and name + power


def _is_unit(bare: str, rest: str, name: str, apart: bool) -> bool:
    """Whether letters behind a number are a unit or a word, not a product of names as in ``2mg`` or ``2 x y``."""
    if re.search("[A-Za-z]", _COMMAND.sub("", rest)):
        return False
    if name:
        return apart or len(bare) > 2 or bare in _JOINED
    return apart and max(map(len, bare.split())) > 3


def split_base(text: str) -> tuple[str, int | None]:
    """Return a text without the subscript that names the base of a number, and the number's value."""
    found = _BASED.fullmatch(text)
    if found is None:
        return text, None
    try:
        return found[1], int(found[1], _BASES.get(found[2]) or int(found[2]))
    except ValueError:
        # A subscript that is no base, or digits that it does not have: an index.
        return text, None


def words(text: str) -> str:
    """Return the words of a text of nothing else, in lower case, or ""; fewer than three letters may be variables."""
    found = _ONLY_WORDS.fullmatch(text)
    return "" if found is None else " ".join(found[1].lower().split())


def without_percent(gold: str, answer: str) -> bool:
    """Whether one decimal number has the sign that the other leaves out; math-verify does this for integers."""
    bare, signs = zip(*(_PERCENT.subn("", text) for text in (gold, answer)), strict=True)
    numbers = [Fraction(text) for text in bare if _PLAIN.fullmatch(text)]
    return sum(signs) == 1 and len(numbers) == 2 and numbers[0] == numbers[1]
