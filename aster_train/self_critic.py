"""Tool-Star's self-critic training: rounds of GRPO, then DPO on episodes of the model that it left.

``python -m aster_train.self_critic --config FOLDER --model MODEL --output-dir FOLDER --rounds N``
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aster_env.errors import AsterError, UsageError, check_name

KINDS = ("grpo", "dpo")
"""A round's stages, in order: each an entry point beside this file, and a YAML file of the recipe's folder."""
_FINISHED = "finished.json"
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True, slots=True)
class Stage:
    """One run of an entry point.

    Args:
        kind: of ``KINDS``.
        round: from 1.
        folder: its ``output_dir``.
        arguments: of the entry point, but for the model.
    """

    kind: str
    round: int
    folder: Path
    arguments: tuple[str, ...]

    @property
    def name(self) -> str:
        """What it is called in messages, and among what is finished."""
        return f"round-{self.round}/{self.kind}"


def main(arguments: Sequence[str]) -> None:
    """Run the command.

    Raises:
        UsageError: an argument is wrong, said before anything runs.
        SystemExit: a stage ended with an exit code other than 0, which is passed on.
    """
    options, others = _parser().parse_known_args(list(arguments))
    stages = plan(options.config, options.output_dir, options.rounds, options.seed, read_overrides(others))
    launcher = [sys.executable, "-m", "accelerate.commands.launch", *shlex.split(options.launch)]

    def run(stage: Stage, model: str) -> int:
        script = str(Path(__file__).with_name(f"{stage.kind}.py"))
        return launch([*launcher, script, "--model", model, *stage.arguments])

    last = alternate(stages, options.model, Path(options.output_dir), run)
    print(f"{options.rounds} rounds are finished; the model is in {last}")


def plan(
    config: str, output_dir: str, rounds: int, seed: int, overrides: Mapping[str, Sequence[str]] | None = None
) -> list[Stage]:
    """Return the stages of all rounds.

    Args:
        config: a folder with ``grpo.yaml``, whose ``train.max_steps`` is what a round takes, and ``dpo.yaml``.
        output_dir: gets a folder for each round and stage.
        rounds: how many.
        seed: of the first round; each has the next, so that it draws other tasks.
        overrides: further arguments of a kind of stage.

    Raises:
        UsageError: a file is missing, or there is no round.
    """
    if rounds < 1:
        raise UsageError(f"--rounds {rounds} is not allowed. Allowed: at least 1.")
    files = {kind: Path(config).expanduser() / f"{kind}.yaml" for kind in KINDS}
    for file in files.values():
        if not file.is_file():
            raise UsageError(f"--config {config!r} has no {file.name}. Allowed: a folder with grpo.yaml and dpo.yaml.")
    stages = []
    for number in range(1, rounds + 1):
        for kind, file in files.items():
            folder = Path(output_dir) / f"round-{number}" / kind
            own = ("--config", str(file), "--train.output_dir", str(folder), "--train.seed", str(seed + number - 1))
            stages.append(Stage(kind, number, folder, (*own, *(overrides or {}).get(kind, ()))))
    return stages


def alternate(stages: Sequence[Stage], model: str, output_dir: Path, run: Callable[[Stage, str], int]) -> str:
    """Run the stages, each on the model that the one before left, and return the last model.

    Those that ``output_dir/finished.json`` names, with the model and the arguments that they ran on, are passed over;
    the one that was interrupted is run again, and goes on from its own checkpoint.

    Args:
        stages: in order.
        model: of the first.
        output_dir: where what is finished is noted.
        run: runs a stage on a model, and returns its exit code.

    Raises:
        UsageError: a stage that is finished ran on another model or with other arguments.
        SystemExit: a stage failed; the exit code is passed on.
    """
    note = output_dir / _FINISHED
    finished: dict[str, dict[str, Any]] = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else {}
    for stage in stages:
        given = {"model": model, "arguments": list(stage.arguments)}
        if stage.name in finished:
            _check_same(note, stage, finished[stage.name], given)
        else:
            print(f"{stage.name}: on {model}", flush=True)
            code = run(stage, model)
            if code:
                print(f"{stage.name} ended with exit code {code}. The same command goes on with it.", flush=True)
                raise SystemExit(code)
            finished[stage.name] = {**given, "left": plain_model(stage.folder)}
            written = note.with_suffix(".partial")
            written.write_text(json.dumps(finished, indent=2), encoding="utf-8")
            written.replace(note)
        model = finished[stage.name]["left"]
    return model


def _check_same(note: Path, stage: Stage, before: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    other = [
        f"{name} was {before.get(name)} and is {value}" for name, value in given.items() if before.get(name) != value
    ]
    if other:
        raise UsageError(
            f"{stage.name} is finished, but it ran otherwise, says {note}: {'; '.join(other)}. "
            f"Fix: the same command as before, another --output-dir, or delete the folder {note.parent} to start anew."
        )


def plain_model(folder: Path) -> str:
    """Return where a stage's model is as a plain one, its adapters merged; merge them where that is not done.

    Raises:
        UsageError: there is none.
    """
    merged = folder / "model"
    if not merged.is_dir() and not (folder / "config.json").is_file():
        from aster_train.export import export

        print(export(str(folder), str(merged)))
    return str(merged if merged.is_dir() else folder)


def launch(command: Sequence[str]) -> int:
    """Run a command and return its exit code, 128 + n where signal n ended it.

    SIGTERM and an interruption end all processes of its group. It is waited for the last of them, not for the first:
    the launcher is gone at once, while the training process still saves a checkpoint.
    """
    received: list[int] = []
    # One that is ignored, as in the background of a shell's script, stays so.
    heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, lambda n, _: received.append(n)) for number in heeded}
    try:
        process = subprocess.Popen(command, start_new_session=True)
        code = _wait(process, received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if code < 0:
        return 128 - code
    return code or (128 + received[0] if received else 0)


def _wait(process: subprocess.Popen[bytes], received: Sequence[int]) -> int:
    """Return the exit code, passing SIGTERM on for each signal that comes in meanwhile."""
    code, sent = process.poll(), 0
    while code is None or ((received or code < 0) and _lives(process.pid)):
        # A launcher that died of a signal of its own leaves its processes behind.
        wanted = max(len(received), int(code is not None and code < 0))
        if wanted > sent:
            sent = wanted
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        time.sleep(0.05)
        code = process.poll()
    return code


def _lives(group: int) -> bool:
    """Whether a process group has a process that runs; one that has ended may wait to be reaped for ever."""
    import psutil  # type: ignore[import-untyped]  # it comes with accelerate, without types

    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                return True
    return False


def read_overrides(arguments: Sequence[str]) -> dict[str, list[str]]:
    """Return ``--grpo.KEY VALUE`` and ``--dpo.KEY VALUE`` as further arguments of the two, ``--KEY VALUE``.

    Raises:
        UsageError: an argument that is neither, or has no value.
    """
    found: dict[str, list[str]] = {kind: [] for kind in KINDS}
    left = list(arguments)
    while left:
        name, joined, value = left.pop(0).partition("=")
        kind, dot, key = name.removeprefix("--").partition(".")
        if not name.startswith("--") or not dot:
            raise UsageError(f"{name!r} was not expected. Allowed: --grpo.KEY VALUE, --dpo.KEY VALUE; see --help.")
        check_name("stage", kind, KINDS)
        if not joined:
            if not left:
                raise UsageError(f"{name} has no value. Fix: {name} VALUE.")
            value = left.pop(0)
        found[kind] += [f"--{key}", value]
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m aster_train.self_critic",
        description=__doc__,
        epilog="--grpo.KEY VALUE and --dpo.KEY VALUE are passed on to the two entry points, as --KEY VALUE.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, metavar="FOLDER", help="holds grpo.yaml and dpo.yaml")
    parser.add_argument("--model", required=True, help="of the first round: what grpo.py's model may be")
    parser.add_argument("--output-dir", required=True, metavar="FOLDER", help="gets round-1/grpo, round-1/dpo, …")
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="of GRPO and DPO each (1)")
    parser.add_argument("--seed", type=int, default=42, metavar="N", help="of the first round (42)")
    parser.add_argument("--launch", default="", metavar="ARGS", help="of accelerate launch: '--config_file FILE'")
    return parser


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except AsterError as error:
        sys.exit(f"{type(error).__name__}: {error}")
