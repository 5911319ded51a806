"""seccomp: which system calls a session may make, on x86-64 and on aarch64 (seccomp(2), BPF of bpf(2)).

A list of refusals over a default of yes, since the libraries a session loads use more calls than can be foreseen.
Calls newer than the table answer ENOSYS; those of another architecture kill the process.
"""

from __future__ import annotations

import ctypes
import errno
import struct

from . import linux

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""AUDIT_ARCH values of ``linux/audit.h``."""

REFUSED: dict[str, tuple[int | None, int | None]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bind": (49, 200),
    "bpf": (321, 280),
    "capset": (126, 91),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "connect": (42, 203),
    "delete_module": (176, 106),
    "execve": (59, 221),
    "execveat": (322, 281),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "finit_module": (313, 273),
    "fork": (57, None),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "inotify_add_watch": (254, 27),
    "io_setup": (206, 0),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioperm": (173, None),
    "iopl": (172, None),
    "ioprio_set": (251, 30),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "landlock_add_rule": (445, 445),
    "landlock_create_ruleset": (444, 444),
    "landlock_restrict_self": (446, 446),
    "listen": (50, 201),
    "listmount": (458, 458),
    "lookup_dcookie": (212, 18),
    "mbind": (237, 235),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "migrate_pages": (256, 238),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "modify_ldt": (154, None),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "mq_getsetattr": (245, 185),
    "mq_notify": (244, 184),
    "mq_open": (240, 180),
    "mq_timedreceive": (243, 183),
    "mq_timedsend": (242, 182),
    "mq_unlink": (241, 181),
    "msgctl": (71, 187),
    "msgget": (68, 186),
    "msgrcv": (70, 188),
    "msgsnd": (69, 189),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pivot_root": (155, 41),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "remap_file_pages": (216, 234),
    "request_key": (249, 218),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "sched_setattr": (314, 274),
    "seccomp": (317, 277),
    "semctl": (66, 191),
    "semget": (64, 190),
    "semop": (65, 193),
    "semtimedop": (220, 192),
    "set_mempolicy": (238, 237),
    "setdomainname": (171, 162),
    "setfsgid": (123, 152),
    "setfsuid": (122, 151),
    "setgid": (106, 144),
    "setgroups": (116, 159),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "setpgid": (109, 154),
    "setpriority": (141, 140),
    "setregid": (114, 143),
    "setresgid": (119, 149),
    "setresuid": (117, 147),
    "setreuid": (113, 145),
    "setsid": (112, 157),
    "settimeofday": (164, 170),
    "setuid": (105, 146),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "shmdt": (67, 197),
    "shmget": (29, 194),
    "socket": (41, 198),
    "statmount": (457, 457),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "vfork": (58, None),
    "vhangup": (153, 58),
}
"""Calls answered with EPERM: their numbers on x86-64 and aarch64 (asm/unistd.h of Linux 6.12)."""

PRETENDED: dict[str, tuple[int, int]] = {
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
}
"""Calls that do nothing and answer success: ZeroMQ ends the process if it cannot set the default priority again."""

METADATA: dict[str, tuple[int | None, int | None]] = {
    "chmod": (90, None),
    "chown": (92, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "fremovexattr": (199, 16),
    "fsetxattr": (190, 7),
    "futimesat": (261, None),
    "lchown": (94, None),
    "lremovexattr": (198, 15),
    "lsetxattr": (189, 6),
    "removexattr": (197, 14),
    "truncate": (76, 45),
    "setxattr": (188, 5),
    "utime": (132, None),
    "utimensat": (280, 88),
    "utimes": (235, None),
}
"""Calls refused too where sessions share a file tree with the host: Landlock does not cover them."""

_BY_ARGUMENT: dict[str, tuple[int, int]] = {
    "clone": (56, 220),
    "clone3": (435, 435),
    "ioctl": (16, 29),
    "prctl": (157, 167),
    "prlimit64": (302, 261),
    "sched_setaffinity": (203, 122),
    "sendmmsg": (307, 269),
    "sendmsg": (46, 211),
    "sendto": (44, 206),
    "socketpair": (53, 199),
}
_NEWEST = 462

_CLONE_THREAD, _AF_UNIX = 0x10000, 1
_CONNECTED = (1, 5)  # SOCK_STREAM, SOCK_SEQPACKET: a datagram socket could send to any other
_HARMLESS_PRCTL = (3, 15, 16, 21, 23, 0x53564D41)  # PR_GET_DUMPABLE, PR_SET_NAME, PR_GET_NAME, PR_GET_SECCOMP, …
_TERMINAL_INPUT = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
_HARMLESS_IOCTL = (0x541B, 0x5421, 0x5451, 0x5450, 0x5401, 0x5413)  # FIONREAD, FIONBIO, FIO(N)CLEX, TCGETS, TIOCGWINSZ
_FAST_OPEN = 0x20000000  # MSG_FASTOPEN: a send that connects, unseen by the rules for connect

ALLOW, KILL, SUCCESS = 0x7FFF0000, 0x80000000, 0x50000
EPERM, ENOSYS = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
LOAD, AND, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
Instruction = tuple[int, int, int, int]
"""Operation, jump if true, jump if false, operand."""


def program(machine: str, *, metadata: bool = True) -> list[Instruction]:
    """Return the filter for ``machine``.

    Args:
        machine: a key of ``ARCHITECTURES``.
        metadata: whether files' modes, owners, times and attributes may be changed.

    Raises:
        KeyError: no table for this architecture.
    """
    column = list(ARCHITECTURES).index(machine)
    code: list[Instruction] = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, ARCHITECTURES[machine]), (RETURN, 0, 0, KILL)]
    code += [(LOAD, 0, 0, 0), (AT_LEAST, 0, 1, _NEWEST + 1), (RETURN, 0, 0, ENOSYS)]
    numbers = {name: row[column] for name, row in _BY_ARGUMENT.items()}
    code += [(EQUAL, 0, 1, numbers["clone3"]), (RETURN, 0, 0, ENOSYS)]
    code += _by_argument(numbers["clone"], 0, ANY_BIT, (_CLONE_THREAD,), ALLOW, EPERM)
    code += _socketpair(numbers["socketpair"])
    code += _by_argument(numbers["prctl"], 0, EQUAL, _HARMLESS_PRCTL, ALLOW, EPERM)
    code += _by_argument(numbers["prlimit64"], 0, EQUAL, (0,), ALLOW, EPERM)
    code += _by_argument(numbers["sched_setaffinity"], 0, EQUAL, (0,), ALLOW, EPERM)
    for name, argument in (("sendto", 3), ("sendmsg", 2), ("sendmmsg", 3)):
        code += _by_argument(numbers[name], argument, ANY_BIT, (_FAST_OPEN,), EPERM, ALLOW)
    if metadata:
        code += _by_argument(numbers["ioctl"], 1, EQUAL, _TERMINAL_INPUT, EPERM, ALLOW)
    else:
        code += _by_argument(numbers["ioctl"], 1, EQUAL, _HARMLESS_IOCTL, ALLOW, EPERM)
    for number in (row[column] for row in PRETENDED.values()):
        code += [(EQUAL, 0, 1, number), (RETURN, 0, 0, SUCCESS)]
    for row in (*REFUSED.values(), *(() if metadata else METADATA.values())):
        if (refused := row[column]) is not None:
            code += [(EQUAL, 0, 1, refused), (RETURN, 0, 0, EPERM)]
    return [*code, (RETURN, 0, 0, ALLOW)]


def install(*, metadata: bool = True) -> None:
    """Filter the calls of this thread and of those it will start, for good; see ``program``.

    Raises:
        OSError: the kernel refused.
    """
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program(linux.machine(), metadata=metadata))
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.prctl(linux.PR_SET_SECCOMP, 2, header)


def _by_argument(
    number: int, argument: int, test: int, values: tuple[int, ...], found: int, otherwise: int
) -> list[Instruction]:
    """Decide a call by the low half of one of its arguments (the kernel takes these arguments as 32 bits)."""
    body: list[Instruction] = [(LOAD, 0, 0, 16 + 8 * argument)]
    for value in values:
        body += [(test, 0, 1, value), (RETURN, 0, 0, found)]
    body.append((RETURN, 0, 0, otherwise))
    return [(EQUAL, 0, len(body), number), *body]


def _socketpair(number: int) -> list[Instruction]:
    body: list[Instruction] = [(LOAD, 0, 0, 16), (EQUAL, 1, 0, _AF_UNIX), (RETURN, 0, 0, EPERM)]
    body += [(LOAD, 0, 0, 24), (AND, 0, 0, 0xF)]
    for kind in _CONNECTED:
        body += [(EQUAL, 0, 1, kind), (RETURN, 0, 0, ALLOW)]
    body.append((RETURN, 0, 0, EPERM))
    return [(EQUAL, 0, len(body), number), *body]
