"""Attacks on Python inside the session: its objects, its names, its hooks."""

from __future__ import annotations

from tests.kernels.hostile.case import ANY, case, family

ODD = "class Odd{base}:\n    def {method}(self, *a): {body}\n"


def odd(base: str, method: str, body: str) -> str:
    return ODD.format(base=base, method=method, body=body)


INTERPRETER = family(
    "interpreter",
    case("a representation that raises", odd("", "__repr__", "1 / 0") + "Odd()", error="ZeroDivisionError"),
    case("a representation that exits", odd("", "__repr__", "sys.exit()") + "Odd()", error="SystemExit"),
    case("a representation that is none", odd("", "__repr__", "return 7") + "Odd()", error="TypeError"),
    case("a representation without an end", odd("", "__repr__", "return 'x' * 10**9") + "Odd()", error="MemoryError"),
    case("a message that raises", odd("(Exception)", "__str__", "1 / 0") + "raise Odd", error="Odd"),
    case(
        "a message that interrupts",
        odd("(Exception)", "__str__", "raise KeyboardInterrupt") + "raise Odd",
        error="Odd",
    ),
    case("a message that is none", odd("(Exception)", "__str__", "return 7") + "raise Odd", error="Odd"),
    case("an equality that raises", odd("", "__eq__", "1 / 0") + "Odd()", ANY, error=ANY),
    case("a truth that raises", odd("", "__bool__", "1 / 0") + "Odd()", ANY, error=ANY),
    case("attributes that raise", odd("", "__getattribute__", "1 / 0") + "Odd()", ANY, error=ANY),
    case("an error whose attributes raise", odd("(Exception)", "__getattribute__", "1 / 0") + "raise Odd", error=ANY),
    case(
        "an error without a base",
        """
class E(BaseException): pass
raise E('x')""",
        error="E: x",
    ),
    case(
        "an error of generators",
        """
def g():
    try: yield 1
    finally: yield 2
x = g(); next(x); x.close()""",
        error="RuntimeError",
    ),
    case(
        "causes in a circle",
        """
a, b = ValueError('a'), ValueError('b')
a.__cause__, b.__cause__ = b, a
raise a""",
        error="ValueError: a",
    ),
    case(
        "a line that is none",
        "raise SyntaxError('x', ('Cell In[2]', 'no number', 1, 'text'))",
        error="SyntaxError",
        timeout=5,
    ),
    case(
        "a file that is none",
        """
e = SyntaxError('x')
e.filename = e.text = e.offset = e.msg = 7
raise e""",
        error="SyntaxError",
        timeout=5,
    ),
    case("a column far out", "raise SyntaxError('x', ('Cell In[2]', 1, 10**10, 'text'))", error="SyntaxError"),
    case(
        "a traceback that is made up",
        """
import types
def f(): 1 / 0
try: f()
except Exception as e:
    e.__traceback__ = types.TracebackType(e.__traceback__, sys._getframe(), 0, 10**9)
    raise""",
        error="ZeroDivisionError",
    ),
    case(
        "an error that changes its class",
        r"""
class E(Exception): pass
E.__name__ = 'ValueError: \x1b[31m'
raise E('x')""",
        error="ValueError",
    ),
    case(
        "other built-in names",
        """
import builtins
for n in ('len', 'str', 'isinstance', 'print', 'repr', 'type', 'callable', 'bool'):
    setattr(builtins, n, None)""",
        state="",
        then=ANY,
        error=ANY,
    ),
    case(
        "no built-in names",
        """
import builtins
builtins.__dict__.clear()""",
        state="",
        then=ANY,
        error=ANY,
    ),
    case(
        "another eval",
        """
import builtins
builtins.eval = builtins.compile = lambda *a, **k: 666""",
        state="",
        then=ANY,
    ),
    case(
        "another import",
        """
import builtins
builtins.__import__ = None""",
    ),
    case(
        "another json",
        """
json.dumps = json.loads = json.JSONEncoder.encode = json.JSONDecoder.decode = None
json.encoder.encode_basestring_ascii = None""",
        state="",
        then=ANY,
        timeout=5,
    ),
    case(
        "another socket",
        "socket.socket.recv = socket.socket.sendall = socket.socket.send = None",
        state="",
        then=ANY,
    ),
    case(
        "another struct",
        "struct.pack = struct.unpack = os.write = os.read = os.fstat = os.pread = os.ftruncate = None",
        state="",
        then=ANY,
        error=ANY,
        timeout=5,
    ),
    case("no modules", "sys.modules.clear()", error=ANY, then=ANY, state=""),
    case(
        "the kernel's modules changed",
        """
import inside.kernel as k, inside.cell as c
k.Kernel._send = k.Outcome = c.pretty = c.plain = None""",
        state="",
        then=ANY,
        error=ANY,
        timeout=3,
        timed_out=None,
        after_timeout=1.0,
    ),
    case(
        "a trace that is left on",
        """
def t(*a): raise ValueError('traced')
sys.settrace(t)""",
        error=ANY,
        then=ANY,
        state="",
    ),
    case("a profile that is left on", "sys.setprofile(lambda *a: 1 / 0)", error=ANY, then=ANY, state=""),
    case(
        "an audit that refuses",
        """
def hook(event, *a):
    if event in ('compile', 'exec', 'object.__getattr__'): raise RuntimeError(event)
sys.addaudithook(hook)""",
        then=ANY,
        error=ANY,
    ),
    case(
        "an audit that refuses all",
        """
def hook(*a): raise RuntimeError
sys.addaudithook(hook)""",
        then=ANY,
        error=ANY,
        state="",
    ),
    case("no room to recurse", "sys.setrecursionlimit(60)", error=ANY, then=ANY, state=""),
    case(
        "hooks",
        """
sys.excepthook = sys.displayhook = threading.excepthook = sys.unraisablehook = lambda *a: os._exit(1)
1 / 0""",
        error="ZeroDivisionError",
    ),
    case(
        "at exit",
        """
import atexit
atexit.register(lambda: time.sleep(1000))
sys.exit()""",
        error="SystemExit",
    ),
    case("an end that fights back", odd("", "__del__", "globals().update(x=Odd())") + "x = Odd()\ndel x"),
    case(
        "a loop of its own left running",
        """
loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
loop.call_soon(os._exit, 0)
await asyncio.sleep(0)""",
    ),
    case(
        "a task left behind",
        """
async def f():
    while True: await asyncio.sleep(0)
t = asyncio.create_task(f())
await asyncio.sleep(0)""",
        error=ANY,
    ),
    case(
        "the loop closed",
        """
asyncio.get_running_loop().stop()
await asyncio.sleep(0.05)""",
        error=ANY,
        after="""
await asyncio.sleep(0)
kept + 1""",
    ),
    case("a loop that is stopped twice", "asyncio.get_event_loop_policy().get_event_loop().close()", error=ANY),
    case(
        "no main module",
        """
del sys.modules['__main__']
globals().pop('__builtins__')
None""",
    ),
    case(
        "its own names",
        """
__name__ = __builtins__ = _ = In = Out = 7
kept""",
        41,
    ),
    case(
        "everything that can be collected",
        """
import gc
gc.unfreeze(); gc.collect(); gc.set_threshold(1)
for _ in range(1000): []""",
    ),
    case(
        "every class made weird",
        """
n = 0
for c in list(object.__subclasses__()):
    n += tried(setattr, c, '__repr__', None) is None
n > 0""",
        True,
        state="",
        error=ANY,
        then=ANY,
    ),
    case("magics", "%run evil.py", error="UsageError"),
    case("shells", "!id", error="UsageError"),
    case("input", "input('password? ')", error="StdinNotImplementedError"),
    case(
        "a password",
        """
import getpass
getpass.getpass()""",
        error=ANY,
    ),
    case("a debugger", "breakpoint()", error=ANY, after="kept + 1"),
)

CASES = [*INTERPRETER]
