"""Which recipes there are: files in ``aster_train/configs``, and what their sources say of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from aster_env.errors import check_name

CONFIGS = Path(__file__).parents[1] / "configs"
ASTER, ASPO, SEED = "arXiv:2602.01204", "arXiv:2508.19201", "an unpublished report on ASPO for Tool-Star"
TOOL_STAR, DEMY = "arXiv:2505.16410", "arXiv:2510.11701"

Kind = Literal["sft", "grpo", "dpo"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A recipe.

    Args:
        name: its file in ``aster_train/configs``, without the ending.
        kind: the entry point that reads it: ``sft.py``, ``grpo.py`` or ``dpo.py``.
        purpose: what it is.
        data: what it is trained on, in words.
        source: where its values are published.
        shape: a known model of the same shape, for a plan where the model itself is not at hand.
        gpus: of the run that its batch is written for.
        tasks: how many tasks or examples are played or trained on; None: not published, or mathematics is a part of the
            published ones that is not counted.
        result: what is reported of the model it makes; accuracies are avg@16 in per cent.
        after: the recipes whose models or episodes it starts from.
    """

    name: str
    kind: Kind
    purpose: str
    data: str
    source: str
    shape: str
    gpus: int = 8
    tasks: int | None = None
    result: str = ""
    after: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The file."""
        return CONFIGS / f"{self.name}.yaml"

    def values(self) -> dict[str, Any]:
        """Return what the file holds."""
        from aster_train.values import read_yaml

        values: dict[str, Any] = read_yaml(self.path.read_text(encoding="utf-8"))
        return values

    def summary(self) -> dict[str, Any]:
        """Return the recipe as plain values, with the model and the tokens of its file."""
        values = self.values()
        return {
            "name": self.name,
            "purpose": self.purpose,
            "model": values["model"],
            "data": self.data,
            "tokens": tokens(values),
            "gpus": self.gpus,
            "result": self.result,
            "source": self.source,
            "after": list(self.after),
        }


def tokens(values: Mapping[str, Any]) -> int | None:
    """Return the tokens that an episode, an example or a pair may have in a configuration; None: the default."""
    bound = values.get("env_kwargs", {}).get("max_tokens") if "data" not in values else None
    return bound or values["train"].get("max_length")


def _dapo(**more: Any) -> dict[str, Any]:
    # 17,398 problems, each once: 135 batches of 128 an epoch, the 405 published for three.
    return {"data": "DAPO-Math-17K", "tasks": 17398, **more}


def _aster(size: str, shape: str, sft: str, final: str) -> tuple[Entry, ...]:
    name = f"aster-{size}"
    own = {"source": ASTER, "shape": shape}
    data = "4K interaction-dense trajectories"
    return (
        Entry(f"{name}/sft", "sft", "cold start", data, tasks=4000, result=sft, **own),  # type: ignore[arg-type]
        Entry(f"{name}/stage1", "grpo", "GRPO at 18K tokens", after=(f"{name}/sft",), **_dapo(**own)),
        Entry(
            f"{name}/stage2", "grpo", "GRPO at 32K tokens on what stage 1 does not always solve",
            after=(f"{name}/stage1",), **_dapo(**own, result=final) | {"tasks": 5104 if size == "4b" else None},
        ),
    )  # fmt: skip


def _coldstart(name: str, kind: Kind, purpose: str, **more: Any) -> Entry:
    return Entry(f"coldstart/{name}", kind, purpose, source=ASTER, shape="Qwen3-4B", **more)


def _bigram(name: str, purpose: str, result: str = "") -> Entry:
    return Entry(
        f"aspo/{name}", "grpo", purpose, "1,000 prompts of Tool-Star's, of them the mathematics", SEED, "Qwen2.5-3B",
        result=result, after=("tool-star-3b/sft",),
    )  # fmt: skip


RECIPES: Sequence[Entry] = (
    *_aster("4b", "Qwen3-4B", "AIME25 54.6", "AIME25 85.0 at 30K tokens, 90.0 at 90K"),
    *_aster("1.7b", "Qwen3-1.7B", "AIME25 19.0", "AIME25 59.6"),
    _coldstart("zero", "grpo", "no cold start: stage 1 on the base", **_dapo()),
    _coldstart("zero-force-tool", "grpo", "no cold start, tool use forced", **_dapo()),
    _coldstart("retool", "sft", "cold start on ReTool's data", data="ReTool-SFT"),
    _coldstart("demyagent", "sft", "cold start on DemyAgent's data", data="Open-AgentRL-SFT-3K", tasks=3000),
    _coldstart("aster", "sft", "cold start on ASTER's data", data="4K interaction-dense trajectories", tasks=4000,
               result="AIME25 54.6"),
    Entry("aspo/conservative", "grpo", "ASPO as published, delta -2.0, k 0.7", source=ASPO, shape="Qwen3-8B",
          **_dapo(result="first code at 1,000 tokens, not 4,000; 3.3 code rounds, not 1.3; accuracy unchanged")),
    Entry("aspo/aggressive", "grpo", "ASPO as published, delta -2.5, k 0.9", source=ASPO, shape="Qwen3-8B", **_dapo()),
    _bigram("bigram", "the bigram version of ASPO, raw", "average of eight sets 34.7 at step 30 (n = 30 each)"),
    _bigram("bigram-clipped", "the bigram version, clipped as the original"),
    _bigram("early-only", "the early-tool term alone", "average of eight sets 33.4 at step 30 (n = 30 each)"),
    Entry("tool-star-3b/sft", "sft", "Tool-Star's cold start", "54K trajectories", TOOL_STAR, "Qwen2.5-3B",
          tasks=54000, result="average of eight sets 34.0 (n = 30 each), by an unpublished report"),
    Entry("tool-star-3b/grpo", "grpo", "GRPO with the hierarchical reward", "10K rows, half of them mathematics",
          TOOL_STAR, "Qwen2.5-3B", after=("tool-star-3b/sft",)),
    Entry("tool-star-3b/dpo", "dpo", "self-critic DPO, in turn with GRPO", "its own episodes", TOOL_STAR, "Qwen2.5-3B",
          result="published Tool-Star: 35.0 (n = 30 each), by an unpublished report", after=("tool-star-3b/grpo",)),
    Entry("demyagent/grpo", "grpo", "GRPO-TCR: overlong penalty, floor of wrong answers",
          "Open-AgentRL-30K, of it the mathematics", DEMY, "Qwen3-4B", result="AIME25 70.0 (avg@32)"),
    Entry("rstar2/grpo", "grpo", "GRPO-RoC: resampling on correct rollouts, first stage", source="arXiv:2508.20722",
          shape="Qwen3-14B", **_dapo(result="AIME25 69.8 after all stages")),
    Entry("simpletir/grpo", "grpo", "void turns masked, an accuracy band, oversampling",
          "simplelr_math_35 and deepscaler", "arXiv:2509.02479", "Qwen2.5-7B"),
)  # fmt: skip
"""In the order in which they are listed."""


def find(name: str) -> Entry:
    """Return the recipe of this name.

    Raises:
        UnknownNameError: there is none; the text offers the nearest.
    """
    named = {entry.name: entry for entry in RECIPES}
    return named[check_name("recipe", name, named)]


def table(entries: Sequence[Entry]) -> str:
    """Return recipes for people, a block each."""
    lines = []
    for entry in entries:
        row = entry.summary()
        size = f"{row['tokens']:,} tokens" if row["tokens"] else "tokens: see the file"
        lines += [
            f"{row['name']:<26} {row['purpose']}",
            f"  {row['model']} · {row['data']} · {size} · {row['gpus']} GPUs",
        ]
        ending = [f"reported: {row['result']}"] if row["result"] else ["no result reported"]
        lines += [f"  {' · '.join([*ending, row['source']])}"]
    return "\n".join(lines)
