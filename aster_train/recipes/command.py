"""`aster recipes`: the published recipes, what each would do here, and each in small."""

from __future__ import annotations

import argparse
import importlib
import json
import shlex
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from aster_env.errors import MissingExtraError, UsageError
from aster_train.recipes.listing import RECIPES, Entry, find, table

_EPILOG = (
    "With --dry-run and --tiny also --key value of the recipe's entry point after NAME, such as --model FOLDER or "
    "--train.max_steps 10."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments; this module needs no more than the gym does, for every subcommand's parser comes here."""
    parser.epilog = _EPILOG
    parser.add_argument("name", nargs="?", help="which one; without it, they are listed")
    _options(parser)
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="…", help="options, and --key value of the recipe")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """List the recipes, or show one, plan it or run it in small; 1 where a dry run finds something missing.

    Raises:
        UsageError: no such recipe, or a wrong configuration.
        MissingExtraError: the extra 'train' is not installed.
    """
    parser = argparse.ArgumentParser(
        prog=f"aster recipes {options.name or 'NAME'}",
        usage="%(prog)s [options] [--key value ...]",
        description="Show this recipe's file; with an option, plan it here, or run it in small.",
        epilog=_EPILOG,
        allow_abbrev=False,
        exit_on_error=False,
    )
    _options(parser)
    try:
        late, overrides = parser.parse_known_args(options.rest)
    except argparse.ArgumentError as error:
        raise UsageError(f"aster recipes {options.name}: {error}") from error
    given: dict[str, Any] = {**vars(options), **vars(late)}
    _check_flags(given)
    try:
        import yaml  # noqa: F401  (what every way below reads files with)
    except ImportError as error:
        raise MissingExtraError("yaml", "train", "`aster recipes`") from error
    if options.name is None:
        _print(json.dumps([e.summary() for e in RECIPES], indent=2) if given.get("json") else table(RECIPES))
        return 0
    entry = find(options.name)
    if given.get("tiny"):
        return _tiny(entry, overrides)
    if given.get("dry_run"):
        return _dry_run(entry, overrides, given)
    if overrides:
        raise UsageError(f"{' '.join(overrides)} changes nothing that is shown. Fix: add --dry-run or --tiny.")
    whole = {**entry.summary(), "values": entry.values()}
    _print(json.dumps(whole, indent=2) if given.get("json") else entry.path.read_text(encoding="utf-8").rstrip())
    return 0


def _options(parser: argparse.ArgumentParser) -> None:
    """Add the options that may stand before the name and after it; each is there only where it was given."""
    absent: Any = {"default": argparse.SUPPRESS}
    parser.add_argument(
        "--dry-run", action="store_true", help="what it would do here, without loading weights", **absent
    )
    parser.add_argument("--tiny", action="store_true", help="run two updates of it on the embedded model", **absent)
    parser.add_argument("--json", action="store_true", help="print as JSON", **absent)
    parser.add_argument("--gpus", type=int, metavar="N", help="of a dry run (those it is written for)", **absent)
    parser.add_argument("--gpu-memory", type=float, metavar="GIB", help="of each GPU of a dry run (80)", **absent)


def _check_flags(given: dict[str, Any]) -> None:
    """Raise ``UsageError`` for an option that would be ignored."""
    there = {name for name in ("dry_run", "tiny", "gpus", "gpu_memory") if name in given}
    named = {name: f"--{name.replace('_', '-')}" for name in there}
    if there and given.get("name") is None:
        flags = " ".join(named[name] for name in sorted(there))
        raise UsageError(f"{flags} needs a recipe. Fix: aster recipes NAME {flags}; `aster recipes` lists the names.")
    if {"dry_run", "tiny"} <= there:
        raise UsageError("--dry-run beside --tiny is not allowed. Fix: leave out one of the two.")
    for name in sorted(there & {"gpus", "gpu_memory"}):
        if "dry_run" not in there:
            raise UsageError(f"{named[name]} is of a dry run. Fix: add --dry-run, or leave it out.")
    if "tiny" in there and given.get("json"):
        raise UsageError("--json beside --tiny is not allowed: a run prints as it goes. Fix: leave out --json.")


def _dry_run(entry: Entry, overrides: Sequence[str], given: dict[str, Any]) -> int:
    from aster_train.planning.model import libraries

    libraries()
    from aster_train.recipes.dryrun import dry_run

    gpus = given.get("gpus")
    if gpus is not None and gpus < 1:
        raise UsageError(f"--gpus {gpus} is not allowed. Allowed: 1 or more.")
    found = dry_run(entry, overrides, gpus, given.get("gpu_memory"))
    _print(json.dumps(found.as_json(), indent=2) if given.get("json") else found.text())
    return 0 if found.ready else 1


def _tiny(entry: Entry, overrides: Sequence[str]) -> int:
    from aster_train.planning.model import libraries

    torch, _ = libraries()
    from aster_train.recipes.dryrun import read
    from aster_train.recipes.tiny import scaled

    # For so small a model more threads are slower, many times so where others work beside it.
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="aster-recipe-") as folder:
        line = ["--config", str(entry.path), *scaled(read(entry), folder), *overrides]
        _print(f"aster_train/{entry.kind}.py {shlex.join(line)}")
        importlib.import_module(f"aster_train.{entry.kind}").main(line)
    return 0


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
