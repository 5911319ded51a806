"""Attacks on the network and by other programs."""

from __future__ import annotations

from tests.kernels.hostile.case import NOT_THERE, all_in, case, family

NETWORK = family(
    "network",
    case("a server of the host", "tried(socket.create_connection, ('127.0.0.1', PORT), 1)", "EPERM"),
    case(
        "every kind of socket",
        """
kinds = [(f, k) for f in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK, socket.AF_PACKET, 38, 40)
         for k in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET)]
{tried(socket.socket, *kind) for kind in kinds}""",
        all_in("EPERM"),
    ),
    case("names", "tried(socket.getaddrinfo, 'example.com', 80)", "gaierror", "EPERM"),
    case(
        "a web page",
        """
import urllib.request
tried(urllib.request.urlopen, f'http://127.0.0.1:{PORT}/', timeout=1)""",
        "URLError",
    ),
    case(
        "an asynchronous connection",
        """
try: await asyncio.open_connection('127.0.0.1', PORT)
except OSError as error: name = error.errno
name""",
        1,
    ),
    case("a server of its own", "tried(socket.create_server, ('127.0.0.1', 0))", "EPERM"),
    case(
        "a pair over the internet",
        "{tried(socket.socketpair, f) for f in (socket.AF_INET, socket.AF_INET6, 30)}",
        all_in("EPERM", "EOPNOTSUPP", "ValueError"),
    ),
    case(
        "a local server, by the kernel's own socket",
        """
mine = socket.socket(fileno=os.dup(kernel_fd()))
{tried(mine.connect, a) for a in (STREAMS, DATAGRAMS, ABSTRACT)}""",
        all_in("EPERM"),
    ),
    case(
        "a local server, by a datagram of a pair",
        """
def shoot():
    for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
        for address in (DATAGRAMS, ABSTRACT):
            socket.socketpair(socket.AF_UNIX, kind)[0].sendto(b"shot", address)
tried(shoot)""",
        "EPERM",
    ),
    case(
        "a local server, by a message that is addressed",
        """
pairs = [socket.socketpair(1, kind) for kind in (1, 5)]
[(tried(ours.sendto, b'shot', DATAGRAMS), theirs.recv(9) if ours.type == 5 else b'') for ours, theirs in pairs]""",
        [("EISCONN", b""), (4, b"shot")],
    ),
    case(
        "listening on what there is",
        """
mine = socket.socket(fileno=os.dup(kernel_fd()))
tried(mine.listen)""",
        "EPERM",
    ),
    case("a name for a local socket", "tried(socket.socketpair()[0].bind, 'socket')", "EPERM"),
    case("the interfaces", "tried(socket.if_nameindex)", "EPERM"),
)

PROCESSES = family(
    "processes",
    case("a fork", "tried(os.fork)", "EPERM"),
    case(
        "a fork for a terminal",
        """
import pty
tried(pty.fork)""",
        "EPERM",
        "ENOENT",
        "EACCES",
        "OSError",
    ),
    case(
        "a program",
        """
import subprocess
tried(subprocess.run, ['/bin/true'])""",
        "EPERM",
        *NOT_THERE,
    ),
    case(
        "this program",
        """
import subprocess
tried(subprocess.run, [sys.executable, '-c', 'pass'])""",
        "EPERM",
    ),
    case("a shell", "(os.system('id'), tried(lambda: os.popen('id').read()))", (-1, "EPERM"), (32512, "EPERM")),
    case("another program in its place", "tried(os.execv, sys.executable, ['python'])", "EPERM"),
    case("a spawn", "tried(os.posix_spawn, sys.executable, ['python'], {})", "EPERM"),
    case(
        "a pool of processes",
        """
import multiprocessing
tried(multiprocessing.get_context('fork').Process(target=print).start)""",
        "EPERM",
    ),
    case(
        "an executor of processes",
        """
from concurrent.futures import ProcessPoolExecutor
tried(lambda: ProcessPoolExecutor(1).submit(int).result(5))""",
        "EPERM",
        "ENOSYS",
        "ENOENT",
        "EACCES",
        "ImportError",
    ),
    case(
        "clones",
        "{flags: syscall('clone', flags, 0, 0, 0, 0) for flags in (17, 0, 0x4111, 0x100, 0x10000011)}",
        all_in("EPERM"),
    ),
    case("a clone by the newer call", "syscall('clone3', (ctypes.c_uint64 * 11)(0, 0, 0, 0, 17), 88)", "ENOSYS"),
    case("a bomb", "[tried(os.fork) for _ in range(1000)].count('EPERM')", 1000),
    case("a program without a file", "syscall('memfd_create', b'program', 0)", "EPERM"),
    case(
        "a program by descriptor",
        "syscall('execveat', os.open(sys.executable, os.O_RDONLY), b'', None, None, 0x1000)",
        "EPERM",
    ),
)

CASES = [*NETWORK, *PROCESSES]
