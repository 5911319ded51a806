"""Interaction collapse while training: said when it is seen, kept in a file, and counted in the metrics."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from aster_env.traces.collapse import WINDOW, CollapseWatch, Measured

NAMES: Mapping[str, str] = {
    "calls": "tools/calls_mean",
    "only_last": "tools/only_last_call_ratio",
    "no_call": "tools/no_call_ratio",
    "entropy": "entropy",
    "turn_length": "turns/length",
}
"""The metric that each measurement is logged as."""
FILE = "collapse.jsonl"


class CollapseCallback(TrainerCallback):
    """Watches the logged metrics for interaction collapse; see ``aster_env.traces.collapse``.

    A warning is printed, and added as a line to ``output_dir/collapse.jsonl``; ``collapse/warnings`` counts those that
    were raised and have not recovered, from the log after it on. A run that resumes goes on with what was logged
    before its checkpoint.

    Args:
        metrics: the lists that the trainer averages at each log of training.
        window: logs in each mean that is compared.
    """

    def __init__(self, metrics: dict[str, list[float]], window: int = WINDOW) -> None:
        self._metrics, self._window = metrics, window
        self._watch = CollapseWatch(window)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Go on where the log ends, and drop the warnings of steps after it, or of another run."""
        self._watch = CollapseWatch(self._window)
        for row in state.log_history:
            if (measured := measured_in(row.get("step", 0), row)) is not None:
                self._watch.add(measured)
        path = Path(args.output_dir) / FILE
        if state.is_world_process_zero and path.is_file():
            kept = [row for row in read_warnings(args.output_dir) if row["step"] <= state.global_step]
            path.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count the warnings; here, for a trainer empties its metrics right after they are logged."""
        self._metrics.setdefault("collapse/warnings", []).append(float(len(self._watch.active)))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Look at the metrics, and say what they warn of."""
        measured = measured_in(state.global_step, logs or {})
        found = self._watch.add(measured) if measured is not None else []
        if not found or not state.is_world_process_zero:
            return
        with open(Path(args.output_dir) / FILE, "a", encoding="utf-8") as file:
            for warning in found:
                print(warning.text(), flush=True)
                file.write(json.dumps(warning.to_json()) + "\n")


def measured_in(step: int, logs: Mapping[str, Any]) -> Measured | None:
    """Return the measurements among a step's logged metrics; None where there are none, as in an evaluation's."""
    found = {name: logs[logged] for name, logged in NAMES.items() if isinstance(logs.get(logged), int | float)}
    return Measured(step, **{name: float(value) for name, value in found.items()}) if found else None


def read_warnings(output_dir: str | Path) -> list[dict[str, Any]]:
    """Return the warnings of a run in the order in which they came, as ``Collapse.to_json`` gives them."""
    path = Path(output_dir) / FILE
    if not path.is_file():
        return []
    # A run that was killed may have left the last line unfinished.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(True) if line.endswith("\n")]


def warning_lines(warnings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the warnings of a run as lines of Markdown, or one line that says that there are none."""
    if not warnings:
        return ["No sign of interaction collapse."]
    return [f"- {warning['text']}" for warning in warnings]
