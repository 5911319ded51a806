"""Attacks by output."""

from __future__ import annotations

from tests.kernels.hostile.case import ANY, case, family

FULL = "printed more than 20000 characters"
STOPPED = {"timeout": 0.3, "timed_out": True}

OUTPUT = family(
    "output",
    case("for ever", "while True: print('x' * 1000)", error=FULL),
    case("for ever, in single letters", "while True: print('x', end='', flush=True)", error=FULL),
    case("for ever, on the other stream", "while True: print('x' * 1000, file=sys.stderr)", error=FULL),
    case("at once", "print('x' * 10**8)", error=FULL),
    case(
        "for ever, and swallowed",
        """
while True:
    try: print('x' * 1000)
    except Exception: pass""",
        **STOPPED,
    ),
    case(
        "for ever, from threads",
        """
def run():
    while True: print('x' * 100)
threads = [threading.Thread(target=run, daemon=True) for _ in range(4)]
for t in threads: t.start()
for t in threads: t.join()""",
    ),
    case("below Python", "for _ in range(1000): os.write(1, b'x' * 10_000)", error=ANY),
    case("below Python, both streams", "for _ in range(100): os.write(1, b'x' * 1000); os.write(2, b'y' * 1000)"),
    case(
        "by C",
        """
for _ in range(1000): libc.puts(b'x' * 1000)
libc.fflush(None) * 0""",
        0,
        -0,
        error=ANY,
    ),
    case("as a value", "'x' * 10**7", ANY),
    case("as a list", "list(range(10**6))", ANY),
    case("as an error", "raise ValueError('x' * 10**7)", error="ValueError"),
    case("as the name of an error", "raise type('E' * 10**7, (Exception,), {})()", error="EEEE"),
    case(
        "as the notes of an error",
        """
e = ValueError()
for _ in range(1000): e.add_note('n' * 1000)
raise e""",
        error="ValueError",
    ),
    case(
        "as a chain of errors",
        """
e = None
for n in range(2000):
    new = ValueError('x' * 1000)
    new.__cause__, e = e, new
raise e""",
        error="ValueError",
    ),
    case(
        "as a group of errors",
        """
e = ValueError('x' * 1000)
for n in range(300): e = ExceptionGroup('g', [e] * 3)
raise e""",
        error="Group",
        timeout=10,
    ),
    case(
        "as warnings",
        """
import warnings
for n in range(10**6): warnings.warn(f'{n}' * 100)""",
        error=FULL,
    ),
    case(
        "codes of a terminal",
        r"""
print('\x1b]0;title\x07\x1b[2J\x00\r')
raise ValueError('\x1b[31mred\x1b[0m')""",
        error=r"ValueError: red$",
    ),
    case(
        "half of a pair",
        r"""
print('\ud83d', '\udfff')
'\ud800'""",
        ANY,
    ),
    case(
        "to a stream that was closed",
        """
sys.stdout.close()
print('x')""",
        error=ANY,
    ),
    case(
        "to no stream",
        """
sys.stdout = sys.stderr = None
print('x')""",
    ),
    case(
        "to a stream of its own",
        """
class S:
    def write(self, text): raise KeyboardInterrupt
    flush = write
sys.stdout = sys.stderr = S()
print('x')""",
        error="KeyboardInterrupt",
    ),
    case("nothing but an endless line", "sys.stdout.write('x' * 10**7)", error=FULL),
    case(
        "bytes that are no text",
        r"""
os.write(1, bytes(range(256)) * 10)
sys.stdout.buffer.write(b'\xff\xfe') """,
        2,
    ),
    case(
        "a picture in between",
        """
class P:
    def _repr_html_(self): return 'x' * 10**7
    def __repr__(self): return 'P'
display(P())""",
    ),
)

CASES = [*OUTPUT]
