"""The files that a session may see: Python, its libraries, time zones and fonts; nothing of the host besides."""

from __future__ import annotations

import os
import site
import sys
from collections.abc import Iterable, Iterator

from . import linux
from .settings import Settings

_SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/usr/share/fonts", "/etc/localtime")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


def roots() -> list[str]:
    """Return the trees that a session needs, none of them inside another."""
    python = {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix, *site.getsitepackages()}
    resolved = {os.path.realpath(path) for path in python} | {os.path.abspath(path) for path in python}
    found = sorted(path for path in {*resolved, *_SYSTEM} if os.path.exists(path))
    return [path for path in found if not any(_inside(path, other) for other in found if other != path)]


def scratch_folder() -> str:
    """Return where sessions with a tree of their own have their scratch folder: where Python itself does not lie."""
    return "/scratch" if any(_inside(path, "/tmp") for path in roots()) else "/tmp"


def readable_paths(hidden: Iterable[str]) -> Iterator[str]:
    """Return what may be read where there is no tree of its own: ``roots`` and the devices, less ``hidden``."""
    avoided = [os.path.realpath(path) for path in hidden]
    for root in roots():
        yield from _around(root, avoided)
    yield from _DEVICES


def build_root(settings: Settings) -> None:
    """Make a tree of ``roots`` and devices alone, read-only, the root of the calling process's mount namespace."""
    linux.mount("none", "/", flags=linux.MS_REC | linux.MS_PRIVATE)
    os.umask(0o022)  # sessions of other users must pass through these folders
    new = os.path.join(settings.folder, "root")
    os.makedirs(new, exist_ok=True)
    linux.mount("tmpfs", new, "tmpfs", linux.MS_NOSUID, "size=1m,mode=0755")
    for path in roots():
        if os.path.islink(path):
            os.makedirs(new + os.path.dirname(path), exist_ok=True)
            os.symlink(os.readlink(path), new + path)
        else:
            _bind(path, new + path)
    for path in settings.hidden:
        if os.path.isdir(new + path):
            linux.mount("tmpfs", new + path, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "size=4k,mode=0555")
    devices = list(filter(os.path.exists, _DEVICES))
    for path in devices:
        _touch(new + path)
    scratch = scratch_folder()
    os.makedirs(new + scratch, exist_ok=True)
    linux.make_readonly(new)
    # The fork server's own; each session mounts another one over it.
    linux.mount("tmpfs", new + scratch, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "size=64m,mode=0700")
    # Devices of a tree mounted without devices do not open, so they come after.
    for path in devices:
        linux.mount(path, new + path, flags=linux.MS_BIND)
    linux.pivot_root(new)


def _bind(path: str, target: str) -> None:
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    else:
        _touch(target)
    linux.mount(path, target, flags=linux.MS_BIND | linux.MS_REC)


def _touch(path: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))


def _around(path: str, avoided: list[str]) -> Iterator[str]:
    """Return ``path``, or where it holds something to avoid, what else it holds."""
    real = os.path.realpath(path)
    if any(_inside(real, other) for other in avoided):
        return
    if not any(_inside(other, real) for other in avoided):
        yield path
        return
    for name in os.listdir(path):
        yield from _around(os.path.join(path, name), avoided)


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
