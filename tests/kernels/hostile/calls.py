"""Attacks by system calls."""

from __future__ import annotations

from tests.kernels.hostile.case import ANY, REFUSED, all_in, case, family

NAMESPACES = family(
    "namespaces",
    case(
        "leave each",
        """
flags = (0x20000, 0x10000000, 0x20000000, 0x40000000, 0x8000000, 0x4000000, 0x2000000, 0x80, 0x400)
{syscall('unshare', flag) for flag in flags}""",
        all_in("EPERM"),
    ),
    case("enter one", "[syscall('setns', fd, 0) for fd in (0, kernel_fd())]", all_in("EPERM")),
    case(
        "a thread in another",
        "[syscall('clone', 0x10900 | flag, 0, 0, 0, 0) for flag in (0x10000000, 0x20000, 0x40000000)]",
        all_in("EPERM", "EINVAL"),
    ),
    case(
        "mount",
        """
[syscall('mount', b'none', b'/tmp', kind, 0, None) for kind in (b'tmpfs', b'proc', b'sysfs', b'overlay')]""",
        all_in("EPERM"),
    ),
    case("mount what is there, writable", "syscall('mount', b'', b'/', b'', 0x1020, None)", "EPERM"),
    case(
        "mount by the newer calls",
        """
calls = ('fsopen', 'fsmount', 'fsconfig', 'fspick', 'move_mount', 'open_tree', 'mount_setattr')
[syscall(call, 0, 0, 0, 0, 0) for call in calls]""",
        all_in("EPERM"),
    ),
    case("unmount", "syscall('umount2', b'/tmp', 2)", "EPERM"),
    case("another root", "[tried(os.chroot, '.'), syscall('pivot_root', b'.', b'.')]", all_in("EPERM")),
    case(
        "user zero",
        "[tried(os.setuid, 0), tried(os.setgid, 0), tried(os.setgroups, [0]), tried(os.setresuid, 0, 0, 0)]",
        all_in("EPERM"),
    ),
    case(
        "capabilities",
        """
header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(*[2**32 - 1] * 6)
got = (ctypes.c_uint32 * 6)()
libc.capget(header, got)
(syscall('capset', header, sets), list(got))""",
        ("EPERM", [0] * 6),
    ),
    case(
        "another machine's name",
        "[syscall('sethostname', b'x', 1), syscall('setdomainname', b'x', 1)]",
        all_in("EPERM"),
    ),
)

SYSCALLS = family(
    "syscalls",
    case(
        "all that the table refuses",
        """
refused = [name for name in NUMBERS if name not in ALLOWED]
{name: syscall(name, 0, 0, 0, 0, 0, 0) for name in refused}""",
        all_in(*REFUSED, 0),
    ),
    case(
        "with the numbers of x32",
        "[syscall(0x40000000 | n, 0, 0, 0) for n in (39, 41, 57, 59, 101, 520, 521)]",
        all_in("ENOSYS"),
        machine="x86_64",
    ),
    case(
        "that are newer than the filter",
        "[syscall(n, 0, 0, 0) for n in (463, 470, 500, 1000, 2**31 - 1)]",
        all_in("ENOSYS"),
    ),
    case("by the old gate", "[syscall(n, 0, 0, 0) for n in (-1, -39)]", all_in("ENOSYS")),
    case(
        "a ring for input and output",
        """
[syscall(c, 8, (ctypes.c_uint64 * 15)()) for c in ('io_uring_setup', 'io_uring_enter', 'io_uring_register')]""",
        all_in("EPERM"),
    ),
    case("all slots of native asynchronous input", "syscall('io_setup', 60000, (ctypes.c_ulong * 1)())", "EPERM"),
    case("programs for the kernel", "syscall('bpf', 0, (ctypes.c_uint64 * 15)(), 120)", "EPERM"),
    case(
        "the keyring",
        """
asked = [syscall('keyctl', 0, -3, 0), syscall('add_key', b'user', b'k', b'v', 1, -3)]
[*asked, syscall('request_key', b'user', b'k', None, 0)]""",
        all_in("EPERM"),
    ),
    case(
        "page faults and counters",
        "[syscall(c, 0, 0, 0, 0, 0) for c in ('userfaultfd', 'perf_event_open', 'kcmp')]",
        all_in("EPERM"),
    ),
    case(
        "a file by its handle",
        """
handle = (ctypes.c_uint32 * 40)(128)
named = syscall('name_to_handle_at', -100, b'/', handle, (ctypes.c_int * 1)(), 0)
[named, syscall('open_by_handle_at', 3, handle, 0)]""",
        all_in("EPERM"),
    ),
    case(
        "to watch a folder of the host",
        """
watch = syscall('inotify_init1', 0)
watch if isinstance(watch, str) else syscall('inotify_add_watch', watch, FOLDER.encode(), 0xFFF)""",
        *REFUSED,
    ),
    case(
        "another filter",
        "[syscall('seccomp', 0, 0, None), syscall('seccomp', 1, 0, None), libc.prctl(22, 1, 0, 0, 0)]",
        all_in("EPERM", -1),
    ),
    case(
        "another Landlock",
        "[syscall(f'landlock_{c}', 0, 0, 0, 0) for c in ('create_ruleset', 'add_rule', 'restrict_self')]",
        all_in("EPERM"),
    ),
    case(
        "the machine off",
        """
asked = [syscall('reboot', 0xFEE1DEAD, 672274793, 0x4321FEDC, 0), syscall('kexec_load', 0, 0, 0, 0)]
[*asked, *(syscall(call, 0, 0, 0) for call in ('swapoff', 'acct', 'syslog', 'vhangup'))]""",
        all_in("EPERM"),
    ),
    case(
        "the clock",
        "[tried(time.clock_settime, time.CLOCK_REALTIME, 0), syscall('settimeofday', None, None)]",
        all_in("EPERM"),
    ),
    case(
        "higher limits",
        """
names = [name for name in dir(resource) if name.startswith("RLIMIT")]
raised = []
for name in names:
    number = getattr(resource, name)
    soft, hard = resource.getrlimit(number)
    if hard != resource.RLIM_INFINITY and tried(resource.setrlimit, number, (soft, hard + 1)) is None:
        raised.append(name)
bounded = [name for name in ("AS", "CPU", "FSIZE", "NOFILE", "CORE", "MEMLOCK")
           if resource.getrlimit(getattr(resource, "RLIMIT_" + name))[1] == resource.RLIM_INFINITY]
(raised, bounded)""",
        ([], []),
    ),
    case(
        "a higher priority",
        "[tried(os.nice, -5), tried(os.setpriority, os.PRIO_PROCESS, 0, -5)]",
        all_in("EPERM", "EACCES"),
    ),
    case(
        "real time",
        """
tried(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(1))
os.sched_getscheduler(0)""",
        0,
    ),
    case(
        "locked memory",
        "libc.mlockall(7)",
        -1,
        0,
        after="len(bytearray(1 << 20))",
        then=(1 << 20,),
        error=ANY,
        state="",
    ),
    case("no randomised addresses", "syscall('personality', 0x40000)", "EPERM"),
)

CASES = [*NAMESPACES, *SYSCALLS]
