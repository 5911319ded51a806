"""Attacks on memory."""

from __future__ import annotations

from tests.kernels.hostile.case import case, family

MEMORY = family(
    "memory",
    case("at once", "tried(bytearray, 4 << 30)", "MemoryError"),
    case(
        "bit by bit",
        """
held = []
try:
    while True: held.append(bytearray(8 << 20))
except MemoryError: count = len(held)
del held
0 < count < 40""",
        True,
    ),
    case(
        "until the error, and kept",
        """
held = []
while True: held.append(bytearray(8 << 20))""",
        error="MemoryError",
        after="""
del held
kept + 1""",
    ),
    case(
        "in small things",
        """
held = []
while True: held.append([0] * 1000)""",
        error="MemoryError",
        after="""
del held
kept + 1""",
    ),
    case(
        "as an array",
        """
import numpy
tried(numpy.ones, 1 << 29)""",
        "_ArrayMemoryError",
        "MemoryError",
    ),
    case("as a number", "tried(lambda: 1 << (1 << 38))", "MemoryError", "OverflowError"),
    case("as a text", "tried(lambda: 'x' * 10**12)", "MemoryError"),
    case(
        "mapped",
        """
import mmap
tried(mmap.mmap, -1, 4 << 30)""",
        "ENOMEM",
    ),
    case(
        "mapped and shared",
        """
import mmap
[tried(mmap.mmap, -1, 64 << 20).__class__.__name__ for _ in range(8)][-1] == 'mmap' and len([1]) == 2""",
        False,
    ),
    case(
        "kept from one cell to the next",
        "held = bytearray(100 << 20)",
        after="tried(bytearray, 200 << 20)",
        then=("MemoryError",),
    ),
    case(
        "by recursion",
        """
def f(n): return f(n + 1)
f(0)""",
        error="RecursionError",
    ),
    case(
        "by recursion without a limit",
        """
held = bytearray(180 << 20)
sys.setrecursionlimit(10**9)
def f(n): return f(n + 1)
f(0)""",
        error="Error",
        state="",
    ),
    case(
        "by recursion in C",
        """
sys.setrecursionlimit(10**9)
x = []
for _ in range(10**5): x = [x]
repr(x)""",
        error="",
        state="lost",
    ),
    case("by an endless generator", "[*iter(int, 1)]", error="MemoryError"),
    case(
        "by a deep dictionary",
        """
x = {}
for _ in range(10**5): x = {0: x}
x""",
        error="RecursionError",
    ),
    case("by the parser", "eval('[' * 10**6)", error="SyntaxError|MemoryError"),
    case("by the compiler", "eval('-' * 10**5 + '1')", error="RecursionError|MemoryError"),
    case(
        "by packing a bomb",
        """
import zlib
bomb = zlib.compress(bytes(30 << 20))
tried(lambda: [zlib.decompress(bomb) for _ in range(20)])""",
        "MemoryError",
    ),
    case(
        "by a regular expression",
        """
import re
tried(re.compile, '(' * 10**5 + ')' * 10**5)""",
        "RecursionError",
        "MemoryError",
        "OverflowError",
    ),
    case(
        "in the captured output",
        """
for _ in range(100): tried(os.write, 1, bytes(1 << 20))
os.fstat(1).st_size <= 16 << 20""",
        True,
        after="os.fstat(1).st_size",
        then=(0,),
    ),
)

CASES = [*MEMORY]
