"""The `aster` command. A new subcommand is one line in ``COMMANDS`` and a function that adds its arguments."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

from aster_env.errors import AsterError, UsageError, check_name


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit status: 2 for an error of usage.

    Args:
        arguments: those after the command's name; None takes the process's.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    try:
        if given and not given[0].startswith("-"):
            # argparse would list the allowed names, but not offer the nearest.
            check_name("subcommand of aster", given[0], COMMANDS)
        options = parser.parse_args(given)
        if options.command is None:
            parser.print_help()
            return 2
        run: Callable[[argparse.Namespace], int] = options.run
        return run(options)
    except AsterError as error:
        sys.stderr.write(f"aster: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130


def add_doctor(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `aster doctor`."""
    parser.add_argument("--isolation", default="best", help="best (default), privileged, userns or confined")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    demanded = "an OpenAI-compatible endpoint that must serve, or the exit status is 1"
    parser.add_argument("--endpoint", action="append", default=[], metavar="URL", help=demanded)
    parser.set_defaults(run=doctor)


def doctor(options: argparse.Namespace) -> int:
    """Print what is here and what is not; 1 if the default pool does not start, or an ``--endpoint`` does not serve."""
    from aster_env.doctor import examine, text

    isolation = check_name("isolation", options.isolation, ("best", "privileged", "userns", "confined"))
    report = examine(isolation, wanted=options.endpoint)
    _print(json.dumps(report.as_json(), indent=2) if options.json else text(report))
    return 0 if report.fine else 1


def add_bench(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `aster bench`."""
    parser.add_argument("name", nargs="?", help="which one; without it, they are listed")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="…", help="its own arguments, such as --help")
    parser.set_defaults(run=bench)


def bench(options: argparse.Namespace) -> int:
    """Run a script of the folder benchmarks/ in a process of its own."""
    root = _checkout()
    folder = root / "benchmarks"
    names = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__main__.py")}
    if options.name is None:
        _print("\n".join(sorted(names)))
        return 0
    module = f"benchmarks.{check_name('benchmark', options.name, names)}"
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run([sys.executable, "-m", module, *options.rest], env=environment, check=False).returncode


def add_kernelspec(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `aster kernelspec`."""
    parser.add_argument("--prefix", metavar="FOLDER", help="install into a Python environment, not for the user")
    parser.set_defaults(run=kernelspec)


def kernelspec(options: argparse.Namespace) -> int:
    """Let JupyterLab and `jupyter console --kernel aster` start isolated sessions."""
    from aster_env.kernels.provisioner import install_kernelspec

    _print(f"Installed: {install_kernelspec(prefix=options.prefix)}")
    return 0


def add_plan(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `aster plan`: the trainer's, which the gym knows by name alone."""
    importlib.import_module("aster_train.planning.command").add_arguments(parser)


def add_recipes(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `aster recipes`: the trainer's."""
    importlib.import_module("aster_train.recipes.command").add_arguments(parser)


def add_curriculum(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `aster curriculum`: the trainer's."""
    importlib.import_module("aster_train.curriculum").add_arguments(parser)


def add_corpus(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `aster corpus`."""
    importlib.import_module("aster_env.retrieval.commands").add_corpus(parser)


def add_index(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `aster index`."""
    importlib.import_module("aster_env.retrieval.commands").add_index(parser)


def add_eval(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `aster eval`."""
    importlib.import_module("aster_env.evaluate.command").add_arguments(parser)


def add_serve(parser: argparse.ArgumentParser) -> None:
    """Add the services of `aster serve`."""
    importlib.import_module("aster_env.serve.commands").add_serve(parser)


def _checkout() -> Path:
    """Return the checkout that holds benchmarks/: this package's, else the current folder."""
    for root in (Path(__file__).resolve().parents[1], Path.cwd()):
        if (root / "benchmarks").is_dir() and (root / "aster_env").is_dir():
            return root
    raise UsageError(
        "The benchmarks are not part of the installed package. Fix: run `aster bench` in a checkout of the project's "
        "repository, which has them in benchmarks/."
    )


COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "doctor": ("what this machine can isolate, and whether the default pool starts", add_doctor),
    "kernelspec": ("install the isolated kernel for JupyterLab and jupyter console", add_kernelspec),
    "plan": ("what a training configuration needs in memory, and whether it fits", add_plan),
    "recipes": ("list the published recipes, plan one here, or run it in small", add_recipes),
    "curriculum": ("which tasks of a run the next stage keeps, and why", add_curriculum),
    "eval": ("what a policy scores on an environment, with intervals; reports and comparisons", add_eval),
    "corpus": ("make a corpus of passages from a source, or show one", add_corpus),
    "index": ("index a corpus for search: by words or by vectors", add_index),
    "serve": ("serve an environment, tools or a corpus to other processes: aster serve openenv ENV", add_serve),
    "bench": ("run a benchmark of a checkout: aster bench kernels --quick", add_bench),
}
"""Subcommands: what they do, and the function that adds their arguments."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="aster", description="Tool-use environments for language-model agents.")
    parser.add_argument("--version", action="version", version=f"aster {_version()}")
    commands = parser.add_subparsers(dest="command", metavar="subcommand")
    for name, (purpose, add) in COMMANDS.items():
        add(commands.add_parser(name, help=purpose, description=purpose[0].upper() + purpose[1:] + "."))
    return parser


def _version() -> str:
    try:
        return metadata.version("aster-gym")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
