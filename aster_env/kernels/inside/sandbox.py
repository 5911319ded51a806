"""The layers around a session, and the order in which they must be laid.

``enter`` is called once, in the fork server: namespaces and the file tree that all its sessions share. ``confine`` is
called in each session's process, between its fork and its first cell; what it does cannot be undone from inside.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

from . import landlock, linux, seccomp
from .settings import Settings
from .tree import build_root, readable_paths, scratch_folder

_USERS, _FIRST_USER, _NOBODY = 4096, 20_000, 65_534
RESERVE = 16 << 20
"""Bytes above a session's memory that are let go after a cell, so that running out of memory can be told."""


@dataclass(slots=True)
class Zone:
    """What ``enter`` set up for the sessions of one fork server.

    Args:
        mode: one of ``settings.MODES``.
        layers: by name, why a layer is on or off: ``(on, reason)``.
        uids: users that sessions may be given, if they can be given any.
        exclusive: whether no other fork server gives those users.
        proc: a descriptor of ``/proc``, for what a process says of itself before it is confined.
        pid_namespace: the fork server's own, to come back to after each fork.
        size: bytes of address space a fresh session has.
    """

    mode: str
    layers: dict[str, tuple[bool, str]] = field(default_factory=dict)
    uids: range = range(0)
    exclusive: bool = False
    proc: int = -1
    pid_namespace: int = -1
    size: int = 0

    def on(self, layer: str) -> bool:
        """Whether a layer is active."""
        return self.layers.get(layer, (False, ""))[0]


def make_namespaces(mode: str) -> None:
    """Leave the caller's user namespace (``"userns"``), and put the children to come into a pid namespace.

    Raises:
        OSError: this mode is not to be had here.
    """
    if mode == "userns":
        user, group = os.getuid(), os.getgid()
        linux.unshare(linux.CLONE_NEWUSER)
        proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
        map_user(user, group, proc)
        os.close(proc)
    if mode != "confined":
        linux.unshare(linux.CLONE_NEWPID)


def enter(mode: str, settings: Settings, keeper: int) -> Zone:
    """Set up what the sessions share; called by a process with one thread.

    Args:
        mode: one of ``settings.MODES``.
        settings: the limits.
        keeper: the keeper's process id, which no other living fork server has.

    Raises:
        OSError: this mode is not to be had here.
    """
    zone = Zone(mode, proc=os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    if mode != "userns":
        zone.uids, zone.exclusive = _free_users(keeper)
    if mode == "confined":
        for layer in ("mounts", "network", "pids"):
            zone.layers[layer] = (False, "no right to make namespaces")
    else:
        linux.unshare(linux.CLONE_NEWNS | linux.CLONE_NEWNET | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS)
        build_root(settings)
        os.environ.update(HOME=scratch_folder(), TMPDIR=scratch_folder())
        zone.pid_namespace = os.open("self/ns/pid", os.O_RDONLY | os.O_CLOEXEC, dir_fd=zone.proc)
        zone.layers |= {"mounts": (True, "a tree of its own, read-only but for the scratch folder")}
        zone.layers |= {"network": (True, "an empty network namespace"), "pids": (True, "a pid namespace a session")}
    if zone.uids:
        zone.layers["user"] = (True, "a user of its own for each session")
    elif mode == "userns":
        zone.layers["user"] = (True, "a user namespace of its own for each session")
    else:
        zone.layers["user"] = (False, "no right to change the user: sessions share the caller's")
    zone.layers["capabilities"] = (True, "none")
    zone.layers["limits"] = (True, "memory, CPU, files, file size" + ", threads" * zone.on("user"))
    version = landlock.abi()
    zone.layers["landlock"] = (version > 0, f"version {version}" if version else "this Linux has no Landlock")
    known = linux.machine() in seccomp.ARCHITECTURES
    zone.layers["seccomp"] = (known, linux.machine() if known else f"no table for {linux.machine()}")
    return zone


def measure(zone: Zone) -> None:
    """Note the size of what is loaded, and check that a fork will copy the whole process.

    Raises:
        RuntimeError: a library started threads, which a fork would lose.
    """
    with open(os.open("self/statm", os.O_RDONLY, dir_fd=zone.proc), encoding="ascii") as statm:
        zone.size = int(statm.read().split()[0]) * resource.getpagesize()
    folder = os.open("self/task", os.O_RDONLY | os.O_DIRECTORY, dir_fd=zone.proc)
    try:
        threads = len(os.listdir(folder))
    finally:
        os.close(folder)
    if threads != 1:
        raise RuntimeError(f"the fork server has {threads} threads; a library that it preloads starts them")


def missing(zone: Zone) -> list[str]:
    """Return what must not be missing, in words: files, system calls and signals must each be confined."""
    lacks = [f"{layer} ({zone.layers[layer][1]})" for layer in ("landlock", "seccomp") if not zone.on(layer)]
    if not zone.on("pids") and not zone.exclusive and landlock.abi() < 6:
        lacks.append("signals (they need a pid namespace, users that nobody else has, or Landlock 6)")
    return lacks


def confine(zone: Zone, settings: Settings, number: int, place: int) -> None:
    """Confine the calling process, for good.

    Args:
        zone: what ``enter`` returned.
        settings: the limits.
        number: tells this session from all others of its fork server.
        place: tells it from the others that live now, below ``len(zone.uids)`` if there are any.
    """
    os.setsid()
    _write_own(zone, "oom_score_adj", "1000")
    scratch = scratch_folder() if zone.on("mounts") else os.path.join(settings.folder, f"s{number}")
    uid = zone.uids[place] if zone.uids else os.getuid()
    if zone.on("mounts"):
        linux.unshare(linux.CLONE_NEWNS)
        options = f"size={settings.disk},nr_inodes={settings.inodes},mode=0700,uid={uid},gid={uid}"
        if not zone.uids:
            options = options.partition(",uid=")[0]
        linux.mount("tmpfs", scratch, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, options)
    else:
        os.mkdir(scratch, 0o700)
        if zone.uids:
            os.chown(scratch, uid, uid)
    os.chdir(scratch)
    if zone.mode == "userns":
        _own_user_namespace(zone)
    _limit(zone, settings)
    if zone.uids:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    linux.drop_capabilities()
    # Changing the user clears the death signal, so it comes after.
    linux.prctl(linux.PR_SET_PDEATHSIG, 9)
    linux.prctl(linux.PR_SET_DUMPABLE, 0)
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    if zone.on("landlock"):
        readable = ["/"] if zone.on("mounts") else list(readable_paths(settings.hidden))
        landlock.restrict(readable, [scratch, "/dev/null"], landlock.abi())
    os.environ.update(HOME=scratch, TMPDIR=scratch)
    if zone.on("seccomp"):
        seccomp.install(metadata=zone.on("mounts"))


def _limit(zone: Zone, settings: Settings) -> None:
    space = zone.size + settings.memory
    resource.setrlimit(resource.RLIMIT_AS, (space, space + RESERVE))
    bounds = {
        resource.RLIMIT_CPU: settings.cpu_seconds,
        resource.RLIMIT_FSIZE: settings.file_size,
        resource.RLIMIT_NOFILE: settings.open_files,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_RTPRIO: 0,
        resource.RLIMIT_SIGPENDING: 256,
    }
    if zone.on("user"):
        bounds[resource.RLIMIT_NPROC] = settings.threads
    for what, most in bounds.items():
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))


def _own_user_namespace(zone: Zone) -> None:
    """Count this session's threads apart from its siblings', which have the same user outside."""
    uid, gid = os.getuid(), os.getgid()
    linux.unshare(linux.CLONE_NEWUSER)
    map_user(uid, gid, zone.proc)


def map_user(uid: int, gid: int, proc: int) -> None:
    """Keep the caller's user and group in the user namespace it just made."""
    for name, text in (("uid_map", f"{uid} {uid} 1"), ("setgroups", "deny"), ("gid_map", f"{gid} {gid} 1")):
        fd = os.open(f"self/{name}", os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)


def _write_own(zone: Zone, name: str, text: str) -> None:
    fd = os.open(f"self/{name}", os.O_WRONLY | os.O_CLOEXEC, dir_fd=zone.proc)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _free_users(keeper: int) -> tuple[range, bool]:
    """Return user ids for the sessions of one fork server, and whether nobody else has them.

    The range is empty where the user cannot be changed.
    """
    needed = 1 << linux.CAP_SETUID | 1 << linux.CAP_SETGID | 1 << linux.CAP_KILL
    if linux.capabilities() & needed != needed:
        return range(0), False
    end = max(first + count for first, count in _mapped_users())
    if end >= 1 << 31:
        # 2**18 fork servers, told apart by their keepers' process ids.
        first = (1 << 30) + keeper % (1 << 18) * _USERS
        return range(first, first + _USERS), True
    # In a container that has few users, ranges far from those of the system; other fork servers may have the same.
    parts = (min(end, _NOBODY) - _FIRST_USER) // _USERS
    first = _FIRST_USER + keeper % max(1, parts) * _USERS
    return (range(first, first + _USERS) if parts > 0 else range(0)), False


def _mapped_users() -> Iterator[tuple[int, int]]:
    with open("/proc/self/uid_map", encoding="ascii") as lines:
        for line in lines:
            first, _, count = map(int, line.split())
            yield first, count


assert sys.platform == "linux", "sandbox.py is for Linux"
