"""One pool a layer set, a neighbour in it, and things of the host that no session may find."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from aster_env.kernels import open_pool
from aster_env.kernels.inside import linux, seccomp
from tests.kernels.hostile.case import GRACE, MAX_OUTPUT, MODES, TOOLS
from tests.kernels.refusals import refusal

LIMITS = {"memory": 256, "disk": 16, "threads": 32, "max_output": MAX_OUTPUT, "grace": GRACE, "spares": 0}
OTHER_NUMBERS = {
    "getpid": (39, 172),
    "inotify_init1": (294, 26),
    "inotify_add_watch": (254, 27),
    "io_setup": (206, 0),
    "statmount": (457, 457),
    "listmount": (458, 458),
    "sched_setaffinity": (203, 122),
    "tgkill": (234, 131),
    "timer_create": (222, 107),
    "setxattr": (188, 5),
    "exit_group": (231, 94),
}


@dataclass
class Host:
    """What lies on the host while hostile cells run."""

    folder: Path
    secret: str
    tcp: socket.socket
    streams: socket.socket
    datagrams: socket.socket
    abstract: socket.socket

    @property
    def file(self) -> Path:
        return self.folder / "aster-test-secret.txt"

    def received(self) -> list[bytes]:
        """Return what arrived at any of the sockets."""
        found = []
        for listener in (self.tcp, self.streams, self.abstract):
            with contextlib.suppress(BlockingIOError):
                listener.accept()[0].close()
                found.append(b"a connection")
        with contextlib.suppress(BlockingIOError):
            found.append(self.datagrams.recv(100))
        return found

    def names(self) -> dict[str, Any]:
        """Return what an attacker knows of the host: everything but the secret."""
        return {
            "HOST": os.getpid(),
            "FOLDER": str(self.folder),
            "SECRET_FILE": str(self.file),
            "STREAMS": self.streams.getsockname(),
            "DATAGRAMS": self.datagrams.getsockname(),
            "ABSTRACT": self.abstract.getsockname().decode(),
            "PORT": self.tcp.getsockname()[1],
            "REPOSITORY": str(Path(__file__).parents[3]),
            "HOST_HOME": os.path.expanduser("~"),
            "NUMBERS": numbers(),
            "ALLOWED": sorted(set(numbers()) - set(seccomp.REFUSED)),
        }


@dataclass
class World:
    """A pool of one layer set, on its event loop, with a neighbour of every attacker."""

    mode: str
    host: Host
    pool: Any
    run: Callable[[Any], Any]
    neighbour: Any = None
    names: dict[str, Any] = field(default_factory=dict)
    trouble: list[Any] = field(default_factory=list)
    visits: int = 0

    async def settle(self) -> None:
        """Start the neighbour."""
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.trouble.append(context))
        signal.signal(signal.SIGURG, lambda number, _: self.trouble.append(number))
        self.neighbour = await self.pool.start()
        await self.neighbour.execute("import os\nmine, visits = 'untouched', 0\nopen('mine.txt', 'w').write('mine')")
        folder = (await self.neighbour.execute("print(os.getcwd())")).stdout.strip()
        self.names = {**self.host.names(), "NEIGHBOUR": pid(self.neighbour), "NEIGHBOUR_FOLDER": folder}

    async def attacker(self) -> Any:
        """Return a fresh session that has the tools."""
        kernel = await self.pool.start()
        known = "\n".join(f"{name} = {value!r}" for name, value in self.names.items())
        cell = await kernel.execute(f"{known}\n{TOOLS}")
        assert cell.error is None, cell.error
        return kernel

    async def visit(self) -> None:
        """Check that the neighbour and the host's things are as they were."""
        self.visits += 1
        cell = await self.neighbour.execute("visits += 1\n(mine, visits, os.listdir(), open('mine.txt').read())")
        assert cell.value == str(("untouched", self.visits, ["mine.txt"], "mine")), cell
        assert pid(self.neighbour) == self.names["NEIGHBOUR"]
        assert self.host.received() == []
        assert self.host.file.read_text() == self.host.secret
        status = self.host.file.stat()
        assert (status.st_mode & 0o7777, status.st_mtime, status.st_nlink) == (0o600, 1e9, 1)
        assert sorted(os.listdir(self.host.folder)) == ["aster-test-secret.txt", "datagrams", "streams"]
        trouble, self.trouble = self.trouble, []
        assert trouble == []


def numbers() -> dict[str, int]:
    """Return the numbers of system calls on this machine, by name."""
    column = list(seccomp.ARCHITECTURES).index(linux.machine())
    rows = {**OTHER_NUMBERS, **seccomp.REFUSED, **seccomp._BY_ARGUMENT}
    return {name: row[column] for name, row in rows.items() if row[column] is not None}


def pid(kernel: Any) -> int:
    """Return a session's process id, as the host sees it."""
    lines = Path(f"/proc/self/fdinfo/{kernel._session._pidfd}").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Pid:")).split()[1])


@pytest.fixture(scope="package")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("host")
    secret = f"hush-{uuid.uuid4()}"
    # Sessions of other users get as far as the folder's rights let them: the sandbox must hold them back.
    for open_to_all in (folder, folder.parent, folder.parent.parent):
        open_to_all.chmod(0o755)
    with contextlib.ExitStack() as stack:
        made = {
            "tcp": socket.create_server(("127.0.0.1", 0)),
            "streams": socket.socket(socket.AF_UNIX),
            "datagrams": socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM),
            "abstract": socket.socket(socket.AF_UNIX),
        }
        for name, listener in made.items():
            stack.enter_context(listener)
            listener.setblocking(False)
            if name != "tcp":
                listener.bind(f"\0aster-{uuid.uuid4()}" if name == "abstract" else str(folder / name))
            if name in ("streams", "abstract"):
                listener.listen()
        for name in ("streams", "datagrams"):
            (folder / name).chmod(0o777)
        host = Host(folder, secret, **made)
        host.file.write_text(secret)
        host.file.chmod(0o600)
        os.utime(host.file, (1e9, 1e9))
        os.environ["ASTER_TEST_SECRET"] = secret
        yield host
        del os.environ["ASTER_TEST_SECRET"]


@pytest.fixture(scope="package", params=MODES)
def world(request: pytest.FixtureRequest, host: Host) -> Iterator[World]:
    with asyncio.Runner() as runner:
        pool = open_pool("zygote", isolation=request.param, **LIMITS)
        made = World(request.param, host, pool, runner.run)
        try:
            if reason := refusal(request.param):
                pytest.skip(reason)
            runner.run(made.settle())
            yield made
        finally:
            runner.run(pool.close())
            signal.signal(signal.SIGURG, signal.SIG_DFL)
