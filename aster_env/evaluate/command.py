"""The command `aster eval`: run, report, compare."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import json
import shlex
import signal
import sys
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from aster_env.errors import UnknownNameError, UsageError
from aster_env.evaluate.policies import Sampling, read_spec
from aster_env.evaluate.records import MANIFEST, read_manifest, read_run
from aster_env.evaluate.settings import PROTOCOLS, EvalSettings, apply_protocol, folder_name
from aster_env.modules import MODULES

POLICY = ("model", "url", "key_variable", "tokenizer")
SAMPLING = ("temperature", "top_p", "max_tokens", "seed")
ALSO = {"report": ("json",), "compare": ("json", "anyway", "out", "seed")}
"""The options that these two take, of all."""


# What plays and what reports is imported by the functions that do, since every `aster` command imports this module.


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `aster eval`; an option that is not given is not in the result."""
    parser.usage = (
        "aster eval ENVIRONMENT --policy POLICY [options]\n"
        "       aster eval report FOLDER [--json]\n"
        "       aster eval compare FOLDER FOLDER [--json] [--anyway] [--out FOLDER]"
    )
    parser.argument_default = argparse.SUPPRESS
    parser.add_argument("what", nargs="+", metavar="ENVIRONMENT | report FOLDER | compare FOLDER FOLDER")
    add = parser.add_argument_group("policy").add_argument
    add("--policy", help="chat, completions, vllm, transformers, or module:function")
    add("--model", help="an endpoint's name of the model, or a folder or hub name")
    add("--url", help="of an endpoint, such as http://127.0.0.1:8000/v1")
    add("--key-variable", help="the environment variable that holds the endpoint's key (OPENAI_API_KEY)")
    add("--tokenizer", help="folder or hub name; derived if left out")
    add("--policy-options", type=_json, metavar="JSON", help='such as {"concurrency": 8, "timeout": 600}')
    add("--temperature", type=float, help="of sampling (1.0)")
    add("--top-p", type=float, help="of sampling (1.0)")
    add("--seed", type=int, help="of everything (0)")
    add = parser.add_argument_group("tasks").add_argument
    add("--protocol", help=f"a published one, other options over it: {', '.join(PROTOCOLS)}")
    add("--tasks", nargs="+", metavar="TASKS", help="presets, files, or PRESET=FILE; the environment's own if left out")
    add("--split", help="of the tasks")
    add("--limit", type=int, metavar="N", help="the first N tasks of each set")
    add("--task-ids", nargs="+", metavar="ID", help="these tasks alone")
    add("--env-kwargs", type=_json, metavar="JSON", help='of the environment, such as {"dialect": "tags"}')
    add("--k", type=int, help="samples a task (1)")
    add("--modules", nargs="+", metavar="MODULE", help=f"around the policy: {', '.join(MODULES)}")
    add = parser.add_argument_group("budgets").add_argument
    add("--max-tokens", type=int, help="of an episode: prompt, turns and observations (32768)")
    add("--max-tool-calls", type=int, help="of an episode, over all tools (50)")
    add("--max-seconds", type=float, help="of an episode (unlimited)")
    add("--budgets", nargs="+", type=int, metavar="TOKENS", help="smaller ones at which to report the accuracy")
    add = parser.add_argument_group("run").add_argument
    add("--out", metavar="FOLDER", help="where the run is, or goes on (a new folder in runs/eval)")
    add("--concurrency", type=int, help="episodes that live at once (16)")
    add("--attempts", type=int, help="how often a sample that fails outside the model is played (3)")
    add("--json", action="store_true", help="print the result as JSON")
    add("--anyway", action="store_true", help="compare although tasks, environment or reward differ")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Do what the first word says; 130 or 143 after a signal, 1 if no sample could be scored."""
    given = {name: value for name, value in vars(options).items() if name not in ("run", "command", "what")}
    first, *rest = options.what
    if first in ALSO:
        for name in given:
            if name not in ALSO[first]:
                allowed = ", ".join(_flag(each) for each in ALSO[first])
                raise UsageError(f"{_flag(name)} does not apply to `aster eval {first}`. Allowed: {allowed}.")
        _check_count(first, rest, 1 if first == "report" else 2)
        return _report(Path(rest[0]), given) if first == "report" else _compare(rest[0], rest[1], given)
    if "anyway" in given:
        raise UsageError("--anyway applies to `aster eval compare` alone. Fix: leave it out.")
    if rest:
        near = f" {UnknownNameError('subcommand of aster eval', first, ALSO)}" if "/" not in first else ""
        raise UsageError(f"More than one environment: {options.what}.{near} Fix: name one; lists follow --tasks.")
    return _run(read_settings(first, given), _folder(first, given), given)


def read_settings(environment: str, given: Mapping[str, Any]) -> EvalSettings:
    """Return the settings that options make, over those of a protocol.

    Args:
        environment: its id.
        given: options by name; those left out have their defaults.

    Raises:
        UsageError: one is not allowed, or the policy is missing.
    """
    if "policy" not in given:
        raise UsageError(
            "No policy was given. Fix: --policy chat --url URL --model NAME, --policy transformers --model FOLDER, or "
            "--policy module:function."
        )
    values = apply_protocol({**given, "environment": environment})
    for name in ("out", "json"):
        values.pop(name, None)
    policy = {name: values.pop(name) for name in POLICY if name in values}
    spec = read_spec(values.pop("policy"), **policy, options=values.pop("policy_options", {}))
    sampling = Sampling(**{name: values.pop(name) for name in SAMPLING if name in values})
    for name in ("tasks", "task_ids", "budgets", "modules"):
        values[name] = tuple(values.get(name, ()))
    return EvalSettings(policy=spec, sampling=sampling, **values)


def find_runs(folder: str | Path) -> list[Path]:
    """Return the folders of an evaluation's runs: itself, or those in it.

    Raises:
        UsageError: there is none.
    """
    folder = Path(folder)
    if (folder / MANIFEST).is_file():
        return [folder]
    found = sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
    if not found:
        raise UsageError(
            f"There is no run in {str(folder)!r}: neither it nor a folder in it has a {MANIFEST}. Fix: pass a folder "
            "that was --out of `aster eval`."
        )
    return found


def _run(settings: EvalSettings, folder: Path, given: Mapping[str, Any]) -> int:
    from aster_env.evaluate import report as reports
    from aster_env.evaluate.run import evaluate
    from aster_env.evaluate.statistics import summarise

    _say(f"Writing to {folder}", sys.stderr)
    folders, number = _until_signal(evaluate(settings, folder))
    if number:
        command = ["aster", *sys.argv[1:], *([] if "out" in given else ["--out", str(folder)])]
        _say(f"Stopped; what was finished is kept. To go on:\n  {shlex.join(command)}", sys.stderr)
        return 128 + number
    summaries = [summarise(read_run(each)) for each in folders]
    if len(folders) > 1:
        for each, summary in zip(folders, summaries, strict=True):
            reports.write(each, [summary])
    reports.write(folder, summaries)
    _say(json.dumps({"summaries": summaries}, indent=2) if "json" in given else reports.text(summaries))
    return 0 if all(summary["samples"] for summary in summaries) else 1


def _report(folder: Path, given: Mapping[str, Any]) -> int:
    from aster_env.evaluate import report as reports
    from aster_env.evaluate.statistics import summarise

    summaries = [summarise(read_run(each)) for each in find_runs(folder)]
    reports.write(folder, summaries)
    _say(json.dumps({"summaries": summaries}, indent=2) if "json" in given else reports.text(summaries))
    return 0


def _compare(a: str, b: str, given: Mapping[str, Any]) -> int:
    from aster_env.evaluate import report as reports
    from aster_env.evaluate.compare import compare

    found = [_by_name(find_runs(folder)) for folder in (a, b)]
    both = [name for name in found[0] if name in found[1]]
    single = all(len(runs) == 1 for runs in found)
    if single:  # these two are meant, whatever they are called
        both = [*found[0]]
        found[1] = dict(zip(both, found[1].values(), strict=True))
    if not both:
        raise UsageError(f"{a!r} and {b!r} have no task set in common: {sorted(found[0])} and {sorted(found[1])}.")
    results = []
    for name in both:
        runs = [read_run(each[name]) for each in found]
        results.append(compare(*runs, anyway="anyway" in given, seed=given.get("seed", 0)))
    if "out" in given:
        for name, result in zip(both, results, strict=True):
            reports.write_comparison(Path(given["out"]) / ("" if single else name), result)
    _say(json.dumps(results, indent=2) if "json" in given else "\n\n".join(map(reports.compare_text, results)))
    return 0


def _by_name(runs: Sequence[Path]) -> dict[str, Path]:
    """Name runs by their folders; one alone by its task set, for its folder has any name."""
    if len(runs) > 1:
        return {each.name: each for each in runs}
    return {str((read_manifest(runs[0]) or {}).get("name")): runs[0]}


def _until_signal(work: Coroutine[Any, Any, list[Path]]) -> tuple[list[Path], int]:
    """Run to the end, or until SIGINT or SIGTERM, after which all is closed; return the signal's number, or 0."""

    async def main() -> tuple[list[Path], int]:
        loop, task, got = asyncio.get_running_loop(), asyncio.current_task(), list[int]()

        def forget() -> None:
            for number in (signal.SIGINT, signal.SIGTERM):
                with contextlib.suppress(ValueError, RuntimeError):  # not the main thread, which alone gets signals
                    loop.remove_signal_handler(number)

        def stop(number: int) -> None:
            got.append(number)
            forget()  # a second signal does not wait
            if task is not None:
                task.cancel()

        with contextlib.suppress(ValueError, RuntimeError):
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, stop, number)
        try:
            return await work, 0
        except asyncio.CancelledError:
            if not got:
                raise
            return [], got[0]
        finally:
            forget()

    return asyncio.run(main())


def _folder(environment: str, given: Mapping[str, Any]) -> Path:
    if "out" in given:
        return Path(given["out"])
    names = [environment.rpartition("/")[2], *map(folder_name, given.get("tasks", ())[:1]), given.get("protocol", "")]
    when = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs/eval") / "-".join([*filter(None, names), when])


def _check_count(first: str, rest: list[str], count: int) -> None:
    if len(rest) != count:
        raise UsageError(f"`aster eval {first}` takes {count} folder{'s' * (count > 1)}, and got {len(rest)}: {rest}.")


def _json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f'{text!r} is a {type(value).__name__}; allowed: an object, {{"name": value}}')
    return value


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _say(text: str, stream: Any = None) -> None:
    (stream or sys.stdout).write(text + "\n")
