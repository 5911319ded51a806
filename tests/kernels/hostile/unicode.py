"""Attacks by the text of the code."""

from __future__ import annotations

from tests.kernels.hostile.case import ANY, case, family

UNICODE = family(
    "unicode",
    case("half of a pair in the code", "x = '\ud800'", error="Unicode|utf-8|surrogates"),
    case("no character at all in the code", "x = 'a\0b'", error="null"),
    case("letters that look alike", "ｋept = 7\nkept", 7, then=(8,)),
    case("a direction that turns", "x = '\u202e' + ')x('  # \u2066\nlen(x)", 4),
    case("ten thousand accents", "'a' + '\u0301' * 10_000", ANY),
    case("a mark of order", "\ufeffkept", 41, error=ANY),
    case("digits of elsewhere", "int('٣' * 9)", 333333333),
    case(
        "a name of a file",
        r"""
write('\ud800'.encode('utf-8', 'surrogatepass').decode('utf-8', 'surrogateescape'))
os.listdir()""",
        ANY,
    ),
    case("all of it", "''.join(map(chr, range(0x110000)))", ANY),
    case("all of it, printed", "for n in range(0, 0x110000, 997): print(chr(n), end='')"),
    case("other line ends", "x = 1\rx += 1\r\nx\x0c", 2),
    case("a very long line", "x = '" + "é" * 200_000 + "'\nlen(x)", 200_000),
    case("very many lines", "x = 0\n" + "x += 1\n" * 20_000 + "x", 20_000),
    case("parentheses", "(" * 5000, error="SyntaxError|MemoryError"),
    case("nested blocks", "\n".join(" " * n + "if 1:" for n in range(150)), error="IndentationError|SyntaxError"),
    case(
        "an encoding that is none",
        """
# -*- coding: evil -*-
kept""",
        41,
        error=ANY,
    ),
    case("a string that never ends", "'''" + "x" * 10_000, error="SyntaxError"),
)

CASES = [*UNICODE]
