"""Attacks below Python and by what Python reads."""

from __future__ import annotations

from tests.kernels.hostile.case import ANY, case, family

CTYPES = family(
    "ctypes",
    case("read nothing", "ctypes.string_at(1)", state="lost"),
    case("write over the program", "ctypes.memset(id(None) & ~0xFFF, 0, 4096)", state="lost"),
    case(
        "write over read-only code",
        "ctypes.memmove(ctypes.cast(libc.getpid, ctypes.c_void_p).value, b'x' * 64, 64)",
        state="lost",
    ),
    case("a program by C", "(libc.system(b'id'), libc.fork(), libc.vfork())", (-1, -1, -1), (32512, -1, -1)),
    case("trace by C", "libc.ptrace(0, 0, 0, 0)", -1),
    case("a socket by C", "[libc.socket(2, 1, 0), libc.socket(1, 1, 0), libc.socket(16, 3, 0)]", [-1, -1, -1]),
    case("the end by C", "libc.exit(7)", state="lost"),
    case("the end by the system", "syscall('exit_group', 0)", state="lost"),
    case(
        "the old gate of 32 bits",
        """
import mmap
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20 (getpid); int 0x80; ret
ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()""",
        state="lost",
        machine="x86_64",
    ),
    case(
        "a call without a table",
        """
import mmap
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes.fromhex("b839000000" "0f05" "c3"))  # mov eax, 57 (fork); syscall; ret
ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()""",
        -1,
        machine="x86_64",
    ),
    case(
        "a broken instruction",
        r"""
import mmap
page = mmap.mmap(-1, 4096, prot=7)
page.write(b'\x0f\x0b' + bytes(64))
ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()""",
        state="lost",
    ),
    case(
        "the counters of the singletons",
        """
for _ in range(100): ctypes.pythonapi.Py_DecRef(ctypes.py_object(kept))
ctypes.c_long.from_address(id(None)).value = 1
x = [None] * 5
del x
None""",
        ANY,
        error=ANY,
        state="",
        timed_out=None,
        then=ANY,
    ),
    case(
        "a tuple that changes",
        """
t = (1,)
ctypes.c_void_p.from_address(id(t) + 24).value = id(2)
t""",
        (2,),
        error=ANY,
        state="",
    ),
    case(
        "code that is none",
        r"""
(lambda: 0).__code__.replace(co_code=b'\xff\xff' * 9)
exec((lambda: 0).__code__.replace(co_code=b'\x64\xff' * 40, co_consts=()))""",
        ANY,
        error=ANY,
        state="",
        timed_out=None,
    ),
    case(
        "a library of its own",
        """
import shutil
write('x.so', open(ctypes.__file__, 'rb').read(), 'wb')
tried(ctypes.CDLL, './x.so')""",
        "OSError",
        "ENOENT",
    ),
)

PICKLES = family(
    "pickles",
    case(
        "a program",
        """
import pickle
class P:
    def __reduce__(self): return os.system, ('id',)
pickle.loads(pickle.dumps(P()))""",
        -1,
        32512,
    ),
    case(
        "a secret",
        """
import pickle
class P:
    def __reduce__(self): return read, (SECRET_FILE,)
tried(pickle.loads, pickle.dumps(P()))""",
        "ENOENT",
        "EACCES",
    ),
    case(
        "the end",
        """
import pickle
class P:
    def __reduce__(self): return os._exit, (0,)
pickle.loads(pickle.dumps(P()))""",
        state="lost",
    ),
    case(
        "a bomb",
        """
import pickle
x = 'x' * 10**5
for _ in range(6): x = [x] * 40
data = pickle.dumps(x)
(len(data) < 10**6, tried(lambda: str(pickle.loads(data))))""",
        (True, "MemoryError"),
    ),
    case(
        "too deep",
        """
import pickle
x = []
for _ in range(10**5): x = [x]
tried(pickle.dumps, x)""",
        "RecursionError",
    ),
    case(
        "no pickle",
        """
import pickle
{tried(pickle.loads, os.urandom(200)).__class__.__name__ for _ in range(200)} != set()""",
        True,
    ),
    case(
        "an array with objects",
        """
import io, numpy
buffer = io.BytesIO()
numpy.save(buffer, numpy.array([os.system], dtype=object))
buffer.seek(0)
tried(numpy.load, buffer)""",
        "ValueError",
    ),
    case(
        "the session itself",
        """
import pickle
tried(pickle.dumps, sys._getframe())""",
        "TypeError",
    ),
    case(
        "marshal",
        r"""
import marshal
tried(marshal.loads, b'\xe3' + bytes(60)).__class__.__name__""",
        ANY,
        error=ANY,
        state="",
    ),
)

CASES = [*CTYPES, *PICKLES]
