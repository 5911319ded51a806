"""Python, the GPU, memory, processors and disks."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

from aster_env.doctor.findings import Finding, clean, output
from aster_env.retrieval.cache import cache_folder

GIB = 2**30
NVIDIA_SMI = 3.0
"""Seconds that nvidia-smi has."""


def python() -> Iterator[Finding]:
    """The interpreter, and whether it is one of the project's own."""
    version, wanted = platform.python_version(), ">=3.11"
    with contextlib.suppress(metadata.PackageNotFoundError):
        wanted = (metadata.metadata("aster-gym").get_all("Requires-Python") or [wanted])[0]
    from packaging.specifiers import SpecifierSet

    fits = SpecifierSet(wanted).contains(version, prereleases=True)
    fix = "" if fits else f"python3.11 -m venv .venv && .venv/bin/pip install -e . (Python {wanted})"
    yield Finding("Python", "version", "ok" if fits else "bad", f"{version} ({sys.executable})", fix)
    own = sys.prefix != sys.base_prefix or "CONDA_PREFIX" in os.environ
    says = sys.prefix if own else "none: packages go into the system's Python"
    yield Finding("Python", "environment", "ok" if own else "warn", says, "" if own else "make setup")


def gpu() -> Iterator[Finding]:
    """The GPUs, and whether torch was built for their driver."""
    built = _torch_cuda()
    program = shutil.which("nvidia-smi")
    if program is None:
        status = "warn" if built else "absent"
        says = "no nvidia-smi: no NVIDIA GPU, or no driver" + (f"; torch is built for CUDA {built}" if built else "")
        yield Finding("GPU", "driver", status, says, "nvidia-smi (it comes with the driver)" if built else "")
        return
    fix = "nvidia-smi; if it fails there too, reinstall the driver or restart the machine"
    query = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    try:
        with ThreadPoolExecutor(2) as both:
            asked = [both.submit(output, command, NVIDIA_SMI) for command in (query, [program])]
        (failed, listed), (_, header) = (answer.result() for answer in asked)
    except TimeoutError:
        yield Finding("GPU", "driver", "bad", f"nvidia-smi did not answer within {NVIDIA_SMI:g} s: it hangs", fix)
        return
    except OSError as error:
        yield Finding("GPU", "driver", "bad", f"nvidia-smi could not be started: {error.strerror}", fix)
        return
    rows = [line.rsplit(",", 2) for line in listed.splitlines()]
    if failed or not rows or not all(len(row) == 3 and row[1].strip().isdigit() for row in rows):
        yield Finding("GPU", "driver", "bad", f"nvidia-smi says: {clean(listed, 120) or 'nothing'}", fix)
        return
    for number, (name, memory, driver) in enumerate(rows):
        says = f"{clean(name, 60)}, {int(memory) / 1024:.0f} GiB, driver {clean(driver, 20)}"
        yield Finding("GPU", f"GPU {number}", "ok", says)
    yield _fit(built, header)


def _fit(built: str | None, header: str) -> Finding:
    """Compare the driver's CUDA with torch's."""
    found = re.search(r"CUDA[\w ]*Version\s*:\s*(\d+)\.(\d+)", header)
    if importlib.util.find_spec("torch") is None:
        return Finding("GPU", "torch", "absent", "not installed", "pip install 'aster-gym[train]'")
    if built is None:
        return Finding("GPU", "torch", "bad", "it is built without CUDA", "pip install --force-reinstall torch")
    if found is None:
        return Finding("GPU", "torch", "warn", f"built for CUDA {built}; the driver does not say its own", "nvidia-smi")
    # Within a major version, a driver runs what was built for a later minor one.
    fits = int(found[1]) >= int(built.split(".")[0])
    says = f"built for CUDA {built}, and the driver runs up to {found[1]}.{found[2]}"
    fix = (
        "" if fits else f"a newer driver, or a torch for CUDA {found[1]}: pip install torch --index-url …/cu{found[1]}x"
    )
    return Finding("GPU", "torch", "ok" if fits else "bad", says, fix)


def _torch_cuda() -> str | None:
    """Return the CUDA that torch was built for, read from its file: importing it takes seconds."""
    with contextlib.suppress(ImportError, ValueError, OSError, SyntaxError):
        spec = importlib.util.find_spec("torch")
        if spec is not None and spec.origin is not None:
            for node in ast.parse(Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")).body:
                target = node.target if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [None])[0]
                if isinstance(target, ast.Name) and target.id == "cuda":
                    value = getattr(node, "value", None)
                    return str(value.value) if isinstance(value, ast.Constant) and value.value else None
    return None


def resources() -> Iterator[Finding]:
    """Processors and memory, as far as this process may use them."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    says = f"{platform.system()} {platform.release()} {platform.machine()}; {mine} of {os.cpu_count()} processors"
    yield Finding("Machine", "processors", "ok", says)
    sizes = {}
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            sizes[line.split(":")[0]] = int(line.split()[1]) * 1024
    whole, left, limit = sizes.get("MemTotal"), sizes.get("MemAvailable"), memory_limit()
    if whole is None or left is None:
        yield Finding("Machine", "memory", "absent", "/proc/meminfo cannot be read")
        return
    most = min(left, limit or left)
    says = f"{left / GIB:.1f} of {whole / GIB:.1f} GiB free"
    says += f"; the control group allows {limit / GIB:.1f} GiB" if limit and limit < whole else ""
    enough = most >= 2 * GIB
    fix = "" if enough else "end what uses it (ps aux --sort -rss | head), or raise the container's limit"
    yield Finding("Machine", "memory", "ok" if enough else "warn", says, fix)


def memory_limit(root: str = "/sys/fs/cgroup", own: str = "/proc/self/cgroup") -> int | None:
    """Return the bytes that the control groups above this process allow, or None: the least of all."""
    limits = []
    with contextlib.suppress(OSError):
        for line in Path(own).read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            base, file = (f"{root}/memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
            folder = Path(base + path)
            for group in (folder, *folder.parents):
                # Both are there for a group without a limit: "max", or a number near 2**63.
                with contextlib.suppress(OSError, ValueError):
                    limits.append(int((group / file).read_text(encoding="ascii")))
    known = [limit for limit in limits if limit < 1 << 60]
    return min(known) if known else None


def disks() -> Iterator[Finding]:
    """What is free where files go, and whether they may."""
    hub = os.environ.get("HF_HUB_CACHE") or os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    places = {
        "runs": (Path("runs"), 5, "cd to another disk, or remove old runs"),
        "Hugging Face cache": (Path(hub), 20, "export HF_HOME=FOLDER on another disk, or: hf cache prune"),
        "cache": (cache_folder(), 2, "export ASTER_CACHE=FOLDER on another disk"),
        "temporary files": (Path(os.environ.get("TMPDIR") or tempfile.gettempdir()), 1, "export TMPDIR=FOLDER"),
    }
    for name, (path, least, fix) in places.items():
        yield _disk(name, path, least * GIB, fix)
    shared = Path("/dev/shm")
    if not shared.is_dir():
        yield Finding("Disk", "/dev/shm", "absent", "there is none")
        return
    size = shutil.disk_usage(shared).total
    fix = "" if size >= GIB else "docker run --shm-size=8g …; or sudo mount -o remount,size=8G /dev/shm"
    yield Finding(
        "Disk", "/dev/shm", "warn" if fix else "ok", f"{size / GIB:.1f} GiB: vLLM and NCCL share memory in it", fix
    )


def _disk(name: str, path: Path, least: int, fix: str) -> Finding:
    there = path.expanduser().absolute()
    with contextlib.suppress(PermissionError):
        while not there.exists() and there != there.parent:
            there = there.parent
    try:
        free = shutil.disk_usage(there).free
    except OSError as error:
        return Finding("Disk", name, "bad", f"{clean(str(path))}: {error.strerror}", fix)
    says = f"{free / GIB:.1f} GiB free at {clean(str(path))}"
    if not os.access(there, os.W_OK):
        return Finding("Disk", name, "bad", f"{says}, where nothing may be written", fix)
    if free < least:
        status = "bad" if free < least / 10 else "warn"
        return Finding("Disk", name, status, f"{says}, less than {least / GIB:.0f} GiB", f"{fix} (df -h shows all)")
    return Finding("Disk", name, "ok", says)
