"""The seccomp filter, run by a small interpreter of BPF: what it says to every call, on both architectures."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aster_env.kernels.inside import seccomp
from aster_env.kernels.inside.seccomp import ALLOW, ENOSYS, EPERM, KILL, SUCCESS

MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
PROGRAMS = {
    (name, metadata): seccomp.program(name, metadata=metadata) for name in MACHINES for metadata in (True, False)
}
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
X32 = 0x40000000
CLONE_THREAD = 0x10000
THREAD = 0x3D0F00  # what pthread_create asks for

WORD = 0xFFFFFFFF
LONGS = st.integers(0, 2**64 - 1)
ALWAYS_REFUSED = re.findall(
    r"\w+",
    """
    socket connect bind listen execve execveat ptrace process_vm_readv process_vm_writev memfd_create io_uring_setup
    io_uring_enter io_uring_register bpf mount umount2 move_mount open_tree fsopen fsmount fsconfig fspick mount_setattr
    pivot_root chroot unshare setns pidfd_open pidfd_getfd pidfd_send_signal shmget shmat shmctl semget semop msgget
    msgsnd msgrcv keyctl add_key request_key userfaultfd perf_event_open name_to_handle_at open_by_handle_at mknodat
    setuid setgid setresuid setresgid setgroups capset seccomp personality reboot kexec_load init_module finit_module
    sethostname settimeofday clock_settime swapon syslog acct quotactl kcmp mq_open fanotify_init
    io_setup inotify_add_watch listmount statmount
    """,
)


@dataclass(frozen=True)
class Call:
    """A system call as a filter sees it (struct seccomp_data), and which filter."""

    machine: str
    number: int
    arguments: tuple[int, ...] = ()
    arch: int | None = None
    metadata: bool = True

    def data(self) -> bytes:
        arch = MACHINES[self.machine] if self.arch is None else self.arch
        words = [*self.arguments, *[0] * (6 - len(self.arguments))]
        head = (self.number & WORD).to_bytes(4, "little") + arch.to_bytes(4, "little") + bytes(8)
        return head + b"".join(word.to_bytes(8, "little") for word in words)


FAST_OPEN = 0x20000000


def answer(call: Call) -> int:
    """Run the filter on one call."""
    program, data, at, value = PROGRAMS[call.machine, call.metadata], call.data(), 0, 0
    while True:
        operation, yes, no, operand = program[at]
        at += 1
        match operation:
            case 0x20:
                value = int.from_bytes(data[operand : operand + 4], "little")
            case 0x54:
                value &= operand
            case 0x05:
                at += operand
            case 0x15:
                at += yes if value == operand else no
            case 0x25:
                at += yes if value > operand else no
            case 0x35:
                at += yes if value >= operand else no
            case 0x45:
                at += yes if value & operand else no
            case 0x06:
                return operand
            case _:
                pytest.fail(f"operation {operation:#x} is not known to this interpreter")


def numbers(machine: str) -> dict[str, int]:
    """Return every call that the table names."""
    column = list(seccomp.ARCHITECTURES).index(machine)
    rows = {**seccomp.REFUSED, **seccomp.METADATA, **seccomp.PRETENDED, **seccomp._BY_ARGUMENT}
    return {name: row[column] for name, row in rows.items() if row[column] is not None}


def model(call: Call) -> int:
    """Say what the filter should, in Python."""
    if call.arch not in (None, MACHINES[call.machine]):
        return KILL
    if call.number & WORD > seccomp._NEWEST:
        return ENOSYS
    name = {number: name for name, number in numbers(call.machine).items()}.get(call.number)
    first, second = (word & WORD for word in (*call.arguments, 0, 0)[:2])
    match name:
        case "clone3":
            return ENOSYS
        case "clone":
            return ALLOW if first & CLONE_THREAD else EPERM
        case "socketpair":
            # Type 2, and 3 which is 2 to Linux: a datagram goes to any address without connect().
            return ALLOW if first == 1 and second & 0xF in (1, 5) else EPERM
        case "prctl":
            return ALLOW if first in (3, 15, 16, 21, 23, 0x53564D41) else EPERM
        case "prlimit64" | "sched_setaffinity":
            return ALLOW if first == 0 else EPERM
        case "ioctl" if call.metadata:
            return EPERM if second in (0x5412, 0x541C) else ALLOW
        case "ioctl":
            return ALLOW if second in (0x541B, 0x5421, 0x5451, 0x5450, 0x5401, 0x5413) else EPERM
        case "sendto" | "sendmsg" | "sendmmsg":
            flags = (*call.arguments, 0, 0, 0, 0)[2 if name == "sendmsg" else 3]
            return EPERM if flags & FAST_OPEN else ALLOW
        case "sched_setscheduler" | "sched_setparam":
            return SUCCESS
        case None:
            return ALLOW
    return ALLOW if call.metadata and name in seccomp.METADATA else EPERM


def call(machine: str, name: str, *arguments: int) -> int:
    return answer(Call(machine, numbers(machine)[name], arguments))


machines = pytest.mark.parametrize("machine", MACHINES)


@machines
@pytest.mark.parametrize("metadata", [True, False])
def test_the_program_is_one_that_linux_takes(machine, metadata):
    program = PROGRAMS[machine, metadata]
    assert len(program) <= 4096
    for at, (operation, yes, no, operand) in enumerate(program):
        assert 0 <= yes < 256
        assert 0 <= no < 256
        assert 0 <= operand <= WORD
        if operation & 7 == 5:
            assert at + 1 + max(yes, no) < len(program)
        if operation == 0x20:
            assert operand % 4 == 0
            assert operand < 64
    assert program[-1][0] == 0x06


@machines
def test_every_refused_call_answers_eperm_whatever_its_arguments(machine):
    column = list(seccomp.ARCHITECTURES).index(machine)
    for row in seccomp.REFUSED.values():
        if row[column] is not None:
            for word in (0, 1, WORD, 2**64 - 1):
                assert answer(Call(machine, row[column], (word,) * 6)) == EPERM


@machines
@pytest.mark.parametrize("name", ALWAYS_REFUSED)
def test_the_calls_of_the_design_are_refused(machine, name):
    assert call(machine, name) == EPERM


@machines
def test_metadata_of_files_is_changed_only_where_no_file_is_the_hosts(machine):
    for name in {"fchmod", "fchmodat", "fchown", "fchownat", "utimensat", "setxattr"} | set(seccomp.METADATA):
        number = numbers(machine).get(name)
        if number is not None:
            assert answer(Call(machine, number)) == ALLOW
            assert answer(Call(machine, number, metadata=False)) == EPERM


@machines
def test_priorities_are_not_set_and_libraries_do_not_notice(machine):
    for name in ("sched_setscheduler", "sched_setparam"):
        assert call(machine, name, 0, 1) == SUCCESS


@pytest.mark.parametrize("name", ["fork", "vfork", "mknod", "iopl", "ioperm", "modify_ldt"])
def test_the_calls_that_only_x86_has_are_refused_there(name):
    assert call("x86_64", name) == EPERM
    assert name not in numbers("aarch64")


@machines
def test_calls_newer_than_the_table_and_impossible_ones_are_not_there(machine):
    for number in (seccomp._NEWEST + 1, 467, 500, 1000, 0x7FFFFFFF, 0xFFFFFFFF):
        assert answer(Call(machine, number)) == ENOSYS


@machines
def test_x32_numbers_are_not_there(machine):
    for number in range(1024):
        assert answer(Call(machine, X32 | number)) == ENOSYS


@machines
@pytest.mark.parametrize("arch", [0x40000003, 0xC000003E ^ 1, 0x28, 0xC00000B7 ^ 2, 0, WORD])
def test_another_architecture_is_killed(machine, arch):
    # 0x40000003 is i386, by int 0x80; 0x28 is 32-bit arm.
    for number in (0, 1, 11, 59, 221, 500, X32 | 59):
        assert answer(Call(machine, number, arch=arch)) == KILL


@machines
def test_the_other_machines_calls_are_killed(machine):
    other = next(name for name in MACHINES if name != machine)
    assert answer(Call(machine, 59, arch=MACHINES[other])) == KILL


@machines
def test_clone_makes_threads_and_no_processes(machine):
    assert call(machine, "clone", THREAD) == ALLOW
    assert call(machine, "clone3", THREAD) == ENOSYS
    for flags in (0, 17, 0x4111, 0x10000000, 0x20000000, 0x7E020000, CLONE_THREAD << 32):
        assert call(machine, "clone", flags) == EPERM, hex(flags)


@machines
def test_a_socketpair_is_a_local_stream_and_nothing_that_can_be_addressed(machine):
    nonblocking, cloexec = 0o4000, 0o2000000
    for kind in (1, 5, 1 | nonblocking, 1 | cloexec, 5 | nonblocking | cloexec):
        assert call(machine, "socketpair", 1, kind) == ALLOW
    for kind in (2, 3, 2 | cloexec, 3 | nonblocking, 0, 4, 10):
        assert call(machine, "socketpair", 1, kind) == EPERM, kind
    for family in (0, 2, 10, 16, 17, 30, 38, 40, 1 << 16, WORD):
        assert call(machine, "socketpair", family, 1) == EPERM, family


@machines
def test_prctl_may_name_a_thread_and_little_else(machine):
    for option in (15, 16, 3, 21):
        assert call(machine, "prctl", option) == ALLOW
    # PDEATHSIG, DUMPABLE, KEEPCAPS, SECCOMP, CAPBSET, SECUREBITS, MM, SUBREAPER, NO_NEW_PRIVS, CAP_AMBIENT, PTRACER
    for option in (1, 4, 8, 22, 24, 28, 35, 36, 38, 47, 0x59616D61, 0, WORD):
        assert call(machine, "prctl", option) == EPERM, option


@machines
def test_limits_and_processors_are_set_for_oneself_only(machine):
    for name in ("prlimit64", "sched_setaffinity"):
        assert call(machine, name, 0, 7) == ALLOW
        for process in (1, 1000, WORD):
            assert call(machine, name, process, 7) == EPERM


@machines
def test_no_keys_are_pressed_on_a_terminal(machine):
    for request in (0x5412, 0x541C, 0x5412 | 1 << 32):
        assert call(machine, "ioctl", 0, request) == EPERM
    for request in (0x5401, 0x541B, 0x5421):
        assert call(machine, "ioctl", 0, request) == ALLOW


@machines
def test_what_python_lives_on_is_allowed(machine):
    generic = {"read": 63, "write": 64, "openat": 56, "close": 57, "mmap": 222, "munmap": 215, "futex": 98}
    x86 = {"read": 0, "write": 1, "openat": 257, "close": 3, "mmap": 9, "munmap": 11, "futex": 202}
    for number in (x86 if machine == "x86_64" else generic).values():
        assert answer(Call(machine, number)) == ALLOW


@given(
    st.sampled_from(list(MACHINES)),
    st.integers(0, 520) | st.integers(X32, X32 + 600) | st.integers(0, WORD),
    st.tuples(*[LONGS | st.integers(0, 64)] * 6),
    st.booleans(),
)
def test_any_call_is_answered_as_the_model_says(machine, number, arguments, metadata):
    made = Call(machine, number, arguments, metadata=metadata)
    assert answer(made) == model(made)


@machines
@pytest.mark.parametrize("name", sorted(seccomp._BY_ARGUMENT))
def test_calls_decided_by_their_arguments_are_answered_as_the_model_says(machine, name):
    words = [0, 1, 2, 3, 4, 5, 10, 15, 16, 21, 22, 23, 38, 0x80801, 0x80802, 0x5412, 0x541C, THREAD, 17, 1 << 32, WORD]
    for first in words:
        for second in words:
            for metadata in (True, False):
                made = Call(machine, numbers(machine)[name], (first, second, FAST_OPEN, second), metadata=metadata)
                assert answer(made) == model(made), (hex(first), hex(second))


@machines
def test_a_send_that_connects_is_refused(machine):
    assert call(machine, "sendto", 3, 0, 5, FAST_OPEN | 0x4000) == EPERM
    assert call(machine, "sendmsg", 3, 0, FAST_OPEN) == EPERM
    assert call(machine, "sendmmsg", 3, 0, 1, FAST_OPEN) == EPERM
    assert call(machine, "sendto", 3, 0, 5, 0x4000) == ALLOW


@given(st.sampled_from(list(MACHINES)), st.integers(0, 600), st.integers(0, WORD))
def test_only_the_own_architecture_is_ever_allowed(machine, number, arch):
    made = Call(machine, number, arch=arch)
    assert (answer(made) == KILL) == (arch != MACHINES[machine])


@machines
def test_the_numbers_are_those_of_the_kernels_headers(machine):
    header = HEADERS[machine]
    if not header.exists():
        pytest.skip(f"there is no {header}")
    pattern = re.compile(r"#define __NR(?:3264)?_(\w+)\s+(\d+)$", re.MULTILINE)
    official = {name: int(number) for name, number in pattern.findall(header.read_text())}
    assert len(official) > 250
    ours = numbers(machine)
    missing = set(ours) - set(official)
    # Older headers lack the newest calls, and those of other architectures only.
    assert len(missing) < 10, missing
    assert {name: ours[name] for name in ours if name in official} == {
        name: official[name] for name in ours if name in official
    }


@machines
def test_no_number_is_in_the_table_twice(machine):
    found = list(numbers(machine).values())
    assert len(found) == len(set(found))
    assert max(found) <= seccomp._NEWEST
