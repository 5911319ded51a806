"""Attacks on the host process, the fork server and other sessions."""

from __future__ import annotations

from tests.kernels.hostile.case import NOT_THERE, all_in, case, family

# Where the sandbox fails, these must not take the machine with it: signal 0 asks for the right alone, and the host
# hears SIGURG.
PARENT = family(
    "parent",
    case("kill it", "os.getppid() == 0 or tried(os.kill, os.getppid(), 0)", True, "EPERM"),
    case("kill the host", "tried(os.kill, HOST, 0)", "ESRCH", "EPERM"),
    case("kill a thread of the host", "syscall('tgkill', HOST, HOST, 0)", "ESRCH", "EPERM"),
    case("queue the host a signal", "syscall('rt_sigqueueinfo', HOST, 23, (ctypes.c_uint64 * 16)(23))", "EPERM"),
    case("kill everything", "tried(os.kill, -1, signal.SIGURG)", "ESRCH", "EPERM", None),
    case(
        "kill everything that has a low number",
        "{tried(os.kill, n, 0) for n in range(2, 5000) if n != os.getpid()}",
        all_in("ESRCH", "EPERM"),
    ),
    case("outlive it", "libc.prctl(1, 0)", -1),
    case(
        "be looked into by it no more",
        "[syscall('prctl', option, 0, 0, 0, 0) for option in (4, 22, 38, 35, 36)]",
        all_in("EPERM"),
    ),
    case("wait for its children", "tried(os.waitpid, -1, os.WNOHANG)", "ECHILD"),
    case("leave its group", "[tried(os.setsid), tried(os.setpgid, 0, HOST)]", all_in("EPERM", "ESRCH")),
    case(
        "stop it by its group",
        "[tried(os.killpg, n, 0) for n in (HOST, os.getppid() or HOST)]",
        all_in("ESRCH", "EPERM"),
    ),
    case(
        "its control socket",
        """
import gc
gc.unfreeze()
kinds = lambda fd: os.fstat(fd).st_ino if stat.S_ISSOCK(os.fstat(fd).st_mode) else None
inodes = {tried(kinds, fd) for fd in range(256)} - {None, "EBADF"}
sockets = [thing for thing in gc.get_objects() if isinstance(thing, socket.socket)]
others = [thing for thing in sockets if thing.fileno() != kernel_fd()]
(len(inodes), {tried(thing.send, b'{"fork": 99}') for thing in others} - {"EBADF"})""",
        (1, set()),
    ),
    case(
        "its descriptors",
        "[tried(syscall, 'pidfd_open', HOST, 0), syscall('pidfd_getfd', 3, 0, 0)]",
        all_in("EPERM"),
    ),
    case(
        "its terminal",
        "[tried(os.open, '/dev/tty', os.O_RDWR), libc.ioctl(0, 0x5412, b'x'), libc.ioctl(1, 0x541C, b'x')]",
        lambda found: found[0] in (*NOT_THERE, "ENXIO") and found[1:] == [-1, -1],
    ),
)

SIBLINGS = family(
    "siblings",
    case("kill one", "tried(os.kill, NEIGHBOUR, signal.SIGKILL)", "ESRCH", "EPERM"),
    case("stop one", "tried(os.kill, NEIGHBOUR, signal.SIGSTOP)", "ESRCH", "EPERM"),
    case(
        "have the kernel kill one",
        """
ours, theirs = socket.socketpair()
import fcntl
fcntl.fcntl(ours, 10, signal.SIGKILL)  # F_SETSIG
owned = tried(fcntl.fcntl, ours, fcntl.F_SETOWN, NEIGHBOUR)
fcntl.fcntl(ours, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
theirs.send(b"x")""",
        1,
    ),
    case(
        "read one's memory",
        """
room, spot = (ctypes.c_char * 8)(), (ctypes.c_uint64 * 2)(0x400000, 8)
syscall('process_vm_readv', NEIGHBOUR, spot, 1, spot, 1, 0)""",
        "EPERM",
    ),
    case("write one's memory", "syscall('process_vm_writev', NEIGHBOUR, None, 0, None, 0, 0)", "EPERM"),
    case("trace one", "[syscall('ptrace', how, NEIGHBOUR, 0, 0) for how in (0, 16, 0x4206)]", all_in("EPERM")),
    case(
        "one's files",
        """
found = {name: tried(read, f'{NEIGHBOUR_FOLDER}/{name}') for name in ('mine.txt', '../s1/mine.txt')}
found""",
        all_in(*NOT_THERE),
    ),
    case("one's files, with the same path", "sorted(os.listdir())", []),
    case(
        "write into one's folder",
        "os.getcwd() == NEIGHBOUR_FOLDER or tried(write, NEIGHBOUR_FOLDER + '/x')",
        True,
        *NOT_THERE,
    ),
    case(
        "the folder of all",
        """
own_tree = os.path.dirname(NEIGHBOUR_FOLDER) == '/'
'ENOENT' if own_tree else tried(os.listdir, os.path.dirname(NEIGHBOUR_FOLDER))""",
        *NOT_THERE,
    ),
    case("move one to another processor", "tried(os.sched_setaffinity, NEIGHBOUR, {0})", "EPERM", "ESRCH"),
    case("slow one down", "tried(os.setpriority, os.PRIO_PROCESS, NEIGHBOUR, 19)", "EPERM", "ESRCH"),
    case("one's limits", "tried(resource.prlimit, NEIGHBOUR, resource.RLIMIT_AS)", "EPERM", "ESRCH", "PermissionError"),
    case(
        "memory shared by name",
        """
from multiprocessing import shared_memory
tried(shared_memory.SharedMemory, 'x', True, 100)""",
        "EPERM",
        *NOT_THERE,
        "ENOSYS",
    ),
    case("memory shared by key", "[syscall('shmget', 1, 4096, 0o1777), syscall('shmat', 1, 0, 0)]", all_in("EPERM")),
    case(
        "semaphores and queues",
        "[syscall(c, 1, 1, 0o1777, 0) for c in ('semget', 'msgget', 'semop', 'msgsnd', 'mq_open')]",
        all_in("EPERM"),
    ),
    case("wake one up", "syscall('pidfd_send_signal', 3, 9, None, 0)", "EPERM"),
)

CASES = [*PARENT, *SIBLINGS]
