"""The published numbers that a report puts beside a run, each with its source and protocol."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from aster_env.presets import PRESETS

K = 1024


@dataclass(frozen=True, slots=True)
class Published:
    """One published accuracy.

    Args:
        model: as its source calls it.
        tasks: the task set, by its preset's name.
        percent: the accuracy as printed, in per cent.
        protocol: which of ``PROTOCOLS`` it was measured by.
        n: how many problems.
        budget: tokens of an episode, where the source states them (30K is read as 30 × 1,024); else None.
    """

    model: str
    tasks: str
    percent: float
    protocol: str
    n: int
    budget: int | None = None

    @property
    def value(self) -> float:
        """The accuracy in [0, 1]."""
        return self.percent / 100

    @property
    def name(self) -> str:
        """The model, with the budget where its source states one: ``ASTER-4B (30K)``."""
        return self.model if self.budget is None else f"{self.model} ({self.budget // K}K)"


@dataclass(frozen=True, slots=True)
class Protocol:
    """How a family of published numbers was measured.

    Args:
        source: the paper or report.
        k: samples of a problem.
        text: metric, sampling and limits, in words.
    """

    source: str
    k: int
    text: str


PROTOCOLS = {
    "aster": Protocol("ASTER, arXiv:2602.01204", 16, "avg@16, temperature 0.6, top_p 0.95, at most 50 calls"),
    "tool-star": Protocol(
        "an unpublished report on ASPO for Tool-Star (arXiv:2505.16410)",
        1,
        "greedy, at most 3 Python and 3 search calls; mathematics by equivalence, questions by token F1",
    ),
}

_ASTER = {"aime24": 30, "aime25": 30, "hmmt25": 30, "beyond_aime": 100}
_ASTER_ROWS: tuple[tuple[str, int | None, tuple[float, ...]], ...] = (
    ("ASTER-1.7B-SFT", None, (19.4, 19.0, 11.3, 6.4)),
    ("ASTER-1.7B", None, (64.6, 59.6, 47.5, 26.3)),
    ("ASTER-4B-SFT", None, (62.5, 54.6, 43.3, 27.4)),
    ("ASTER-4B", 30 * K, (82.3, 85.0, 73.3, 53.9)),
    ("ASTER-4B", 90 * K, (85.8, 90.0, 77.1, 61.7)),
)
TOOL_STAR = ("gsm8k", "math500", "aime24", "aime25", "hotpotqa", "2wikimultihopqa", "bamboogle", "musique")
"""The task sets of Tool-Star's table, in its order; 30 problems of each."""
TOOL_STAR_ROWS: tuple[tuple[str, tuple[float, ...], float], ...] = (
    ("Tool-Star", (73.3, 46.7, 10.0, 13.3, 44.9, 33.3, 42.8, 15.3), 35.0),
    ("Tool-Star SFT", (83.3, 36.7, 10.0, 3.3, 44.9, 25.2, 50.6, 17.9), 34.0),
    ("Tool-Star GRPO@30", (80.0, 40.6, 20.0, 6.7, 32.3, 36.4, 33.9, 14.3), 33.0),
    ("Tool-Star ASPO@30", (76.7, 38.9, 16.7, 13.3, 35.0, 34.0, 42.2, 20.5), 34.7),
    ("Tool-Star γ only@30", (76.7, 46.7, 10.0, 6.7, 46.0, 28.3, 39.9, 12.9), 33.4),
)
"""Model, accuracy per task set, and the average as printed (at step 30 of training, where so named)."""

PUBLISHED: tuple[Published, ...] = (
    *(
        Published(model, tasks, percent, "aster", n, budget)
        for model, budget, row in _ASTER_ROWS
        for (tasks, n), percent in zip(_ASTER.items(), row, strict=True)
    ),
    *(
        Published(model, tasks, percent, "tool-star", 30)
        for model, row, _ in TOOL_STAR_ROWS
        for tasks, percent in zip(TOOL_STAR, row, strict=True)
    ),
)


def find(tasks: str, protocol: str = "", rows: Iterable[Published] = PUBLISHED) -> list[Published]:
    """Return the published numbers of a task set.

    Args:
        tasks: a preset's name or alias, or a file called so: ``aime24``, ``AIME-2024``, ``data/aime24.jsonl``.
        protocol: a name in ``PROTOCOLS`` keeps those measured by it; any other text keeps all.
        rows: where to look.
    """
    name = _NAMES.get(_key(tasks), "")
    return [row for row in rows if row.tasks == name and (protocol not in PROTOCOLS or row.protocol == protocol)]


def _key(tasks: str) -> str:
    """Reduce a name or path to letters and digits: what is the same word of a task set."""
    stem = re.split(r"[/\\]", tasks.strip())[-1].split(":")[0].casefold()
    return re.sub(r"[\W_]", "", re.sub(r"\.(jsonl?|parquet)$", "", stem))


_NAMES = {_key(alias): name for name, preset in PRESETS.items() for alias in (name, *preset.aliases)}
