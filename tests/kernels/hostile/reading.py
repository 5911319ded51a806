"""Attacks on what the host has: its files, its environment, its memory."""

from __future__ import annotations

from tests.kernels.hostile.case import NOT_THERE, UNWRITABLE, all_in, case, family

ENVIRONMENT = [
    "HOME", "LANG", "MALLOC_ARENA_MAX", "MKL_NUM_THREADS", "MPLBACKEND", "NUMEXPR_NUM_THREADS", "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS", "PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONHASHSEED", "TMPDIR",
]  # fmt: skip
ABSENT = ("ModuleNotFoundError", "ImportError", *NOT_THERE)

READ = family(
    "read",
    case("the host's passwords", "tried(read, '/etc/shadow')", *NOT_THERE),
    case("the host's users", "tried(read, '/etc/passwd')", *NOT_THERE),
    case("a secret file by its path", "tried(read, SECRET_FILE)", *NOT_THERE),
    case("a secret file without a file descriptor to read", "tried(os.open, SECRET_FILE, os.O_RDWR)", *NOT_THERE),
    case("up and out of the scratch folder", "tried(read, '../' * 40 + SECRET_FILE.lstrip('/'))", *NOT_THERE),
    case("the folder that holds a secret", "tried(os.listdir, FOLDER)", *NOT_THERE),
    case(
        "the repository",
        "{f: tried(os.listdir, f'{REPOSITORY}/{f}') for f in ('tests', '.git', 'envs', 'aster_env')}",
        all_in(*NOT_THERE),
    ),
    case("a grader's source", "tried(read, f'{REPOSITORY}/aster_env/__init__.py')", *NOT_THERE),
    case(
        "the home folder",
        """
[tried(read, f'{HOST_HOME}/{f}') for f in ('.ssh/id_rsa', '.netrc', '.bashrc', '.profile', '.gitconfig')]""",
        all_in(*NOT_THERE),
    ),
    case(
        "the gym by import",
        """
[tried(__import__, name) for name in ('aster_env', 'aster_train', 'tests.support', 'tests.kernels', 'keeper')]""",
        all_in(*ABSENT),
    ),
    case(
        "the gym by import with the repository on the path",
        """
sys.path.insert(0, REPOSITORY)
[tried(__import__, name) for name in ('aster_env', 'aster_train', 'envs')]""",
        all_in(*ABSENT),
    ),
    case("the environment", "sorted(os.environ)", ENVIRONMENT),
    case(
        "the environment that C sees",
        """
found, block = [], ctypes.POINTER(ctypes.c_char_p).in_dll(libc, "environ")
while block[len(found)]:
    found.append(block[len(found)].decode())
sorted({line.partition("=")[0] for line in found} - {"LINES", "COLUMNS"})  # readline sets these""",
        ENVIRONMENT,
    ),
    case("the command line", "[word for word in sys.argv + sys.orig_argv if '/' in word or '{' in word]", []),
    case(
        "devices",
        """
names = ("mem", "kmem", "port", "sda", "vda", "nvme0", "kvm", "fuse", "tty", "ptmx", "kmsg", "shm/x", "loop0")
[tried(read, "/dev/" + name) for name in names]""",
        all_in(*NOT_THERE),
    ),
    case(
        "folders that were left open",
        "[fd for fd in range(256) if tried(lambda: stat.S_ISDIR(os.fstat(fd).st_mode)) is True]",
        [],
    ),
    case(
        "a way out through any descriptor",
        "{tried(os.open, SECRET_FILE.lstrip('/'), os.O_RDONLY, dir_fd=fd) for fd in range(256)}",
        all_in("EBADF", "ENOTDIR"),
    ),
    case(
        "the whole tree, by walking it",
        """
prey, found = ("aster_env", "aster_train", "aster-test-secret.txt", "test_hostile.py", "id_rsa"), []
for folder, folders, files in os.walk("/"):
    found += [f"{folder}/{name}" for name in folders + files if name in prey and tried(read, f"{folder}/{name}") != 0]
    if folder.count("/") > 7:
        folders.clear()
[path for path in found if tried(os.listdir, path) not in (*('ENOENT', 'EACCES'), [], "ENOTDIR")]""",
        [],
    ),
    case(
        "what is in memory, by the garbage collector",
        """
import gc
gc.unfreeze()
modules = {str(getattr(type(thing), "__module__", "")).partition(".")[0] for thing in gc.get_objects()}
words = ["hu" + "sh-", "ASTER_TEST_" + "SEC"]
texts = [text for thing in gc.get_objects() if type(thing) is dict for text in thing.values() if type(text) is str]
found = [word for word in words for text in texts if word in text]
(modules & {"aster_env", "aster_train", "envs", "tests"}, found)""",
        (set(), ["ASTER_TEST_SEC"]),
        (set(), []),
    ),
    case("modules of the gym", "[m for m in sys.modules if m.startswith(('aster', 'tests', 'envs'))]", []),
)

PROC = family(
    "proc",
    case(
        "reading",
        """
paths = [f"/proc/{who}/{what}" for who in ("self", "1", HOST, NEIGHBOUR, "thread-self")
         for what in ("environ", "mem", "maps", "cmdline", "root/etc/shadow", "cwd/x", "mountinfo", "ns/user")]
paths += [f"/proc/{name}" for name in ("kcore", "kallsyms", "cpuinfo", "mounts", "net/tcp", "sys/kernel/hostname")]
{path: tried(read, path) for path in paths}""",
        all_in(*NOT_THERE, "EINVAL"),
    ),
    case(
        "listing",
        "[tried(os.listdir, path) for path in ('/proc', '/proc/self/fd', '/sys', '/sys/fs/cgroup', '/run')]",
        all_in(*NOT_THERE),
    ),
    case(
        "opening to write",
        """
paths = ("/proc/sysrq-trigger", "/proc/self/oom_score_adj", "/proc/self/mem", f"/proc/{HOST}/mem", "/proc/self/uid_map",
         "/proc/sys/kernel/core_pattern", "/proc/sys/vm/drop_caches", "/sys/power/state",
         "/sys/fs/cgroup/memory/cgroup.procs")
{path: tried(os.open, path, os.O_WRONLY) for path in paths}  # writing would harm where it can be done""",
        all_in(*UNWRITABLE),
    ),
    case(
        "mounting it",
        """
os.mkdir('p')
tried(libc.mount, b'proc', b'p', b'proc', 0, None), os.listdir('p')""",
        (-1, []),
    ),
    case(
        "the table of mounts, by newer calls",
        """
ask, room = (ctypes.c_uint64 * 4)(24, 2**64 - 1, 0, 0), (ctypes.c_uint64 * 512)()
[syscall('listmount', ask, room, 512, 0), syscall('statmount', ask, room, 4096, 0)]""",
        all_in("EPERM", "ENOSYS"),
    ),
)

CASES = [*READ, *PROC]
