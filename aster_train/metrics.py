"""What a training step logs about its episodes: one small row an episode, and summaries of many rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aster_env.traces.collapse import only_call_is_last
from aster_env.types import StopReason, Trajectory

NAN = float("nan")
Row = dict[str, float]


def describe(trajectory: Trajectory) -> Row:
    """Return the numbers of one episode that ``summarize`` needs; they travel between processes instead of it."""
    turns = trajectory.model_turns
    lengths = [len(turn.ids) for turn in turns]
    first = next((n for n, turn in enumerate(turns) if any(call.problem is None for call in turn.calls)), None)
    results = trajectory.results
    return {
        "masked": float(trajectory.stop is StopReason.INFRASTRUCTURE),
        "reward": NAN if trajectory.reward is None else trajectory.reward,
        "correct": NAN if trajectory.reward is None else trajectory.reward_terms.get("correct", trajectory.reward),
        "unjudged": trajectory.reward_terms.get("unjudged", 0.0),
        "calls": float(trajectory.tool_calls),
        "only_last_call": float(only_call_is_last(trajectory)),
        "void": float(trajectory.stop is StopReason.VOID_TURN),
        "invalid": float(sum(call.problem is not None for turn in turns for call in turn.calls)),
        "results": float(len(results)),
        "errors": float(sum(not result.ok for result in results)),
        "timeouts": float(sum(result.timed_out for result in results)),
        "lost": float(sum(result.state == "lost" for result in results)),
        # Tokens sampled when the first call was complete: how soon the model reaches for the tool.
        "first_call": NAN if first is None else float(sum(lengths[: first + 1])),
        "tokens": float(sum(lengths)),
        "turns": float(len(turns)),
        "truncated": float(bool(trajectory.stop and trajectory.stop.truncated)),
    }


def summarize(rows: Sequence[Row]) -> dict[str, float]:
    """Return the metrics of many episodes, by the name under which they are logged; NaN where nothing counts.

    Masked episodes count in ``masked_episodes`` alone.
    """
    kept = [row for row in rows if not row["masked"]]

    def column(name: str) -> np.ndarray:
        return np.array([row[name] for row in kept])

    def mean(values: np.ndarray) -> float:
        values = values[~np.isnan(values)]
        return float(values.mean()) if len(values) else NAN

    def ratio(part: str, whole: str) -> float:
        total = column(whole).sum()
        return float(column(part).sum() / total) if total else 0.0

    calls = column("calls")
    return {
        "accuracy": mean(column("correct")),
        "tools/calls_mean": mean(calls),
        "tools/calls_p50": float(np.percentile(calls, 50)) if len(calls) else NAN,
        "tools/calls_p90": float(np.percentile(calls, 90)) if len(calls) else NAN,
        "tools/use_ratio": mean((calls > 0).astype(float)),
        "tools/no_call_ratio": mean((calls == 0).astype(float)),
        "tools/only_last_call_ratio": mean(column("only_last_call")),
        "tools/error_ratio": ratio("errors", "results"),
        "tools/timeout_ratio": ratio("timeouts", "results"),
        "tools/lost_sessions": float(column("lost").sum()),
        "tools/invalid_calls": float(column("invalid").sum()),
        "tools/first_call_position": mean(column("first_call")),
        "turns/mean": mean(column("turns")),
        "turns/length": ratio("tokens", "turns"),
        "turns/void_ratio": mean(column("void")),
        "truncated_ratio": mean(column("truncated")),
        "masked_episodes": float(len(rows) - len(kept)),
        "unjudged_answers": float(column("unjudged").sum()),
    }
