"""Attacks on time: cells that do not end."""

from __future__ import annotations

from tests.kernels.hostile.case import ANY, case, family

SHORT = 0.3
STOPPED = {"timeout": SHORT, "timed_out": True}
DEAF = {**STOPPED, "state": "lost"}

TIME = family(
    "time",
    case("a loop", "while True: pass", **STOPPED),
    case("sleep", "time.sleep(10**6)", **STOPPED),
    case("a power", "10**10**8", **STOPPED, state=""),
    case(
        "a number as text",
        """
sys.set_int_max_str_digits(0)
str(3**10**7)""",
        **STOPPED,
    ),
    case(
        "a regular expression",
        """
import re
re.match('(a+)+$', 'a' * 60 + 'b')""",
        **STOPPED,
    ),
    case(
        "a lock held for ever",
        """
lock = threading.Lock()
lock.acquire()
lock.acquire()""",
        **STOPPED,
    ),
    case("await", "await asyncio.sleep(10**6)", **STOPPED),
    case("an event", "threading.Event().wait()", **STOPPED),
    case("a read from itself", "os.read(os.pipe()[0], 1)", **STOPPED),
    case(
        "factors",
        """
import sympy
sympy.factorint(sympy.nextprime(10**30) * sympy.nextprime(10**31))""",
        **STOPPED,
    ),
    case(
        "an endless representation",
        """
class R:
    def __repr__(self):
        while True: pass
R()""",
        **STOPPED,
    ),
    case(
        "an endless message",
        """
class E(Exception):
    def __str__(self):
        while True: pass
raise E""",
        **STOPPED,
    ),
    case(
        "an endless end",
        """
class D:
    def __del__(self):
        while True: pass
x = D()
del x""",
        **STOPPED,
    ),
    case(
        "swallowed once",
        """
try:
    while True: pass
except KeyboardInterrupt: print('caught')""",
        **STOPPED,
    ),
    case(
        "swallowed for ever",
        """
while True:
    try:
        while True: time.sleep(0.001)
    except BaseException: pass""",
        **DEAF,
    ),
    case(
        "an interrupt that is ignored",
        """
signal.signal(signal.SIGINT, signal.SIG_IGN)
while True: pass""",
        **DEAF,
    ),
    case(
        "an interrupt that is blocked",
        """
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64))
while True: pass""",
        **DEAF,
    ),
    case(
        "an interrupt of its own kind",
        """
signal.signal(signal.SIGINT, lambda *_: 1 / 0)
while True: pass""",
        **STOPPED,
    ),
    case(
        "swallowed while it awaits",
        """
async def f():
    while True:
        try: await asyncio.sleep(9)
        except BaseException: pass
await f()""",
        **DEAF,
    ),
    case(
        "deep in C",
        """
import numpy
for _ in range(99): numpy.linalg.svd(numpy.random.rand(900, 900))""",
        **STOPPED,
        state="",
    ),
    case(
        "the ladder itself",
        """
signal.signal(signal.SIGINT, lambda *_: time.sleep(100))
while True: pass""",
        **DEAF,
    ),
    case(
        "a limit of its own, for the next cell",
        """
signal.signal(signal.SIGALRM, lambda *_: 1 / 0)
signal.setitimer(signal.ITIMER_REAL, 0.05)""",
        ANY,
        (0.0, 0.0),
        after="""
time.sleep(0.2)
kept + 1""",
    ),
)

CASES = [*TIME]
