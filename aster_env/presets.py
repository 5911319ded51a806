"""Public question sets: where they are on the hub, and what their columns are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Fields = Mapping[str, str]
"""Where a Task's parts are in a row: ``{"prompt": "question", "answers": "answer", "id": "id"}``.

A value is a column, or a path into nested ones: ``"reward_model.ground_truth"``, ``"prompt.0.content"``.
"""


@dataclass(frozen=True, slots=True)
class Preset:
    """A public question set: where it is on the hub, what its columns are called, and its licence."""

    hub: str
    split: str
    fields: Fields
    licence: str
    config: str | None = None
    aliases: tuple[str, ...] = ()
    kind: str = "math"
    clean: Callable[[str], str] = field(default=str)


def _after_hashes(answer: str) -> str:
    """GSM8K writes the answer after ``####``, behind the worked solution."""
    return answer.rpartition("####")[2].strip().replace(",", "")


_QA = {"prompt": "question", "answers": "answer"}
_GOLDEN = {"prompt": "question", "answers": "golden_answers", "id": "id"}
_FLASHRAG = "RUC-NLPIR/FlashRAG_datasets"
"""One hub data set with many question sets, each with every gold answer in ``golden_answers``."""
_PA = {"prompt": "problem", "answers": "answer"}
_IO = {"prompt": "input", "answers": "output"}
USUAL: tuple[Fields, ...] = (
    {"prompt": "prompt", "answers": "answers"},
    {"prompt": "prompt", "answers": "answer"},
    {"prompt": "question", "answers": "golden_answers"},
    _QA,
    _PA,
    _IO,
)

PRESETS: dict[str, Preset] = {
    "aime24": Preset(
        "HuggingFaceH4/aime_2024", "train", {**_PA, "id": "id"}, "problems © MAA", aliases=("aime2024",)
    ),
    "aime25": Preset("math-ai/aime25", "test", {**_PA, "id": "id"}, "problems © MAA", aliases=("aime2025",)),
    "hmmt25": Preset(
        "MathArena/hmmt_feb_2025", "train", {**_PA, "id": "problem_idx"}, "CC BY-NC-SA 4.0", aliases=("hmmt2025",)
    ),
    "beyond_aime": Preset("ByteDance-Seed/BeyondAIME", "test", _PA, "CC0-1.0", aliases=("beyondaime",)),
    "gsm8k": Preset("openai/gsm8k", "test", _QA, "MIT", config="main", clean=_after_hashes),
    "math500": Preset(
        "HuggingFaceH4/MATH-500", "test", {**_PA, "id": "unique_id"}, "MIT", aliases=("math-500",)
    ),
    "dapo17k": Preset(
        "BytedTsinghua-SIA/DAPO-Math-17k", "train",
        {"prompt": "prompt.0.content", "answers": "reward_model.ground_truth", "id": "extra_info.index"},
        "Apache-2.0", aliases=("dapo-math-17k",),
    ),
    "nq": Preset(_FLASHRAG, "test", _GOLDEN, "CC BY-SA 3.0", config="nq", kind="qa", aliases=("nq-open", "nq_open")),
    "hotpotqa": Preset(_FLASHRAG, "dev", _GOLDEN, "CC BY-SA 4.0", config="hotpotqa", kind="qa"),
    "2wikimultihopqa": Preset(
        _FLASHRAG, "dev", _GOLDEN, "Apache-2.0", config="2wikimultihopqa", kind="qa", aliases=("2wiki",)
    ),
    "musique": Preset(_FLASHRAG, "dev", _GOLDEN, "CC BY 4.0", config="musique", kind="qa"),
    "bamboogle": Preset(_FLASHRAG, "test", _GOLDEN, "MIT", config="bamboogle", kind="qa"),
}  # fmt: skip
