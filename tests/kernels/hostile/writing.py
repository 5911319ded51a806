"""Attacks on files: outside the scratch folder, through links, and on the disk itself."""

from __future__ import annotations

from tests.kernels.hostile.case import NOT_THERE, UNWRITABLE, all_in, case, family

WRITE = family(
    "write",
    case(
        "outside the scratch folder",
        """
folders = ("", "/etc", "/usr/lib", "/dev", "/dev/shm", "/var/tmp", "/root", FOLDER)
folders += (sys.prefix, os.path.dirname(os.__file__))
{folder: tried(write, folder + "/made-by-a-session") for folder in folders}""",
        all_in(*UNWRITABLE),
    ),
    case("a secret file", "tried(write, SECRET_FILE)", *UNWRITABLE),
    case("a secret file, by cutting it", "tried(os.truncate, SECRET_FILE, 0)", *UNWRITABLE),
    case("the standard library", "tried(write, os.__file__, b'', 'ab')", *UNWRITABLE),
    case(
        "a start file of Python",
        """
import site
tried(write, site.getsitepackages()[0] + '/evil.pth')""",
        *UNWRITABLE,
    ),
    case("a folder at the root", "tried(os.mkdir, '/folder')", *UNWRITABLE),
    case("a file away", "[tried(os.unlink, SECRET_FILE), tried(os.rename, SECRET_FILE, 'mine')]", all_in(*UNWRITABLE)),
    case("a file in by another name", "tried(os.link, SECRET_FILE, 'mine')", *UNWRITABLE),
    case("rights of a secret file", "tried(os.chmod, SECRET_FILE, 0o666)", *UNWRITABLE),
    case("the owner of a secret file", "tried(os.chown, SECRET_FILE, os.getuid(), os.getgid())", *UNWRITABLE),
    case("times of a secret file", "tried(os.utime, SECRET_FILE, (1, 1))", *UNWRITABLE),
    case("attributes of a secret file", "tried(os.setxattr, SECRET_FILE, 'user.mark', b'1')", *UNWRITABLE),
    case(
        "flags of the library",
        """
import fcntl
tried(fcntl.ioctl, os.open(os.__file__, os.O_RDONLY), 0x40086602, b'\\x40' + b'\\0' * 7)  # FS_IOC_SETFLAGS""",
        *UNWRITABLE,
    ),
    case("rights of the library", "tried(os.chmod, os.__file__, 0o777)", *UNWRITABLE),
    case(
        "a swapped file",
        """
write('mine')
tried(os.replace, 'mine', SECRET_FILE)""",
        *UNWRITABLE,
    ),
    case("a named pipe", "tried(os.mkfifo, 'pipe')", "EPERM"),
    case("a device", "tried(os.mknod, 'device', stat.S_IFBLK | 0o600, os.makedev(8, 0))", "EPERM"),
    case(
        "the scratch folder itself away",
        """
import shutil
shutil.rmtree('.', ignore_errors=True)
os.listdir()""",
        [],
    ),
)

SYMLINKS = family(
    "symlinks",
    case(
        "to a secret file",
        """
os.symlink(SECRET_FILE, 'link')
tried(read, 'link')""",
        *NOT_THERE,
    ),
    case(
        "to a secret file, written through",
        """
os.symlink(SECRET_FILE, 'link')
tried(write, 'link')""",
        *UNWRITABLE,
    ),
    case(
        "to the root",
        """
os.symlink('/', 'root')
tried(read, 'root/etc/shadow')""",
        *NOT_THERE,
    ),
    case(
        "to the kernel's files",
        """
os.symlink('/proc/self/root', 'root')
tried(os.listdir, 'root')""",
        *NOT_THERE,
    ),
    case(
        "to itself",
        """
os.symlink('loop', 'loop')
tried(read, 'loop')""",
        "ELOOP",
    ),
    case(
        "in a long chain",
        """
for n in range(60): os.symlink(f'l{n + 1}', f'l{n}')
write('l60')
tried(read, 'l0')""",
        "ELOOP",
    ),
    case(
        "to the neighbour's folder",
        """
os.symlink(NEIGHBOUR_FOLDER, 'it')
tried(read, 'it/mine.txt')""",
        *NOT_THERE,
    ),
    case("instead of the scratch folder", "tried(os.rename, os.getcwd(), os.getcwd() + '2')", *UNWRITABLE, "EBUSY"),
    case(
        "for whoever cleans up",
        """
os.symlink(FOLDER, 'down')
os.symlink(SECRET_FILE, 'file')
sorted(os.listdir())""",
        ["down", "file"],
    ),
)

DISK = family(
    "disk",
    case(
        "fill it",
        """
block, written = bytes(1 << 20), 0
try:
    for number in range(40):
        with open(f"file{number // 8}", "ab") as file:
            written += file.write(block) >> 20
except OSError as error:
    print(errno.errorcode[error.errno])
written < 20""",
        True,
        differs={"confined": {"got": (False,)}},
    ),
    case(
        "one big file",
        """
written = tried(write, 'big', bytes(17 << 20))
(written, os.path.getsize('big') <= 16 << 20)""",
        ("EFBIG", True),
        ("ENOSPC", True),
    ),
    case(
        "a sparse file",
        """
write('sparse')
tried(os.ftruncate, os.open('sparse', os.O_RDWR), 1 << 40)""",
        "EFBIG",
    ),
    case(
        "a file reserved ahead",
        """
write('file')
tried(os.posix_fallocate, os.open('file', os.O_RDWR), 0, 1 << 34)""",
        "EFBIG",
        "ENOSPC",
    ),
    case(
        "all inodes",
        """
made = 0
for made in range(5000):
    if tried(write, f'f{made}', b''):
        break
made < 4999""",
        True,
        differs={"confined": {"got": (False,)}},
    ),
    case(
        "a very deep tree",
        """
for depth in range(1500):
    if tried(os.mkdir, "d") or tried(os.chdir, "d"):
        break
depth""",
        lambda depth: depth > 1000,
    ),
    case("a name too long", "tried(write, 'x' * 300)", "ENAMETOOLONG"),
    case(
        "a bomb in a zip",
        """
import io, zipfile
packed_up = io.BytesIO()
with zipfile.ZipFile(packed_up, "w", zipfile.ZIP_DEFLATED) as archive:
    with archive.open("bomb", "w", force_zip64=True) as file:
        for _ in range(40):
            file.write(bytes(1 << 20))
tried(zipfile.ZipFile(packed_up).extractall)""",
        "EFBIG",
        "ENOSPC",
    ),
    case(
        "a file that holds its space unnamed",
        """
held = [open(f'f{n}', 'wb') for n in range(4)]
for file in held: tried(file.write, bytes(5 << 20)); tried(file.flush); os.unlink(file.name)
os.listdir()""",
        [],
    ),
    case("the captured output as a disk", "tried(os.ftruncate, 1, 1 << 40)", "EFBIG"),
    case(
        "rights taken from the own folder",
        """
tried(os.chmod, '.', 0)
tried(write, 'mine')""",
        *UNWRITABLE,
        None,
    ),
)

CASES = [*WRITE, *SYMLINKS, *DISK]
