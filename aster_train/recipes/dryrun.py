"""What a recipe would do here: what it names and whether that is at hand, its arithmetic, its memory; no weights."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aster_train.recipes.arithmetic import Batches, example_batches, grpo_batches
from aster_train.recipes.checks import check_cache, check_evaluation, check_grpo, check_settings
from aster_train.recipes.listing import Entry
from aster_train.recipes.material import gather
from aster_train.recipes.resolve import Line, hub_answers

if TYPE_CHECKING:
    from aster_train.planning.fit import Plan


@dataclass(frozen=True, slots=True)
class Kinds:
    """What an entry point reads: its settings, TRL's arguments and their defaults."""

    settings: Any
    arguments: Any
    defaults: Mapping[str, Any]


@dataclass(slots=True)
class DryRun:
    """A recipe as it would run here.

    Args:
        entry: the recipe.
        gpus: of the run.
        lines: what it names, and whether it is at hand.
        batches: its arithmetic.
        plan: of the memory of its GPUs; of SFT and DPO, that of the update.
    """

    entry: Entry
    gpus: int
    lines: list[Line] = field(default_factory=list)
    batches: Batches | None = None
    plan: Plan | None = None

    @property
    def ready(self) -> bool:
        """Whether everything is at hand and fits."""
        return all(line.here for line in self.lines) and (self.plan is None or self.plan.fits)

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        from aster_train.planning.text import as_json

        return {
            "recipe": self.entry.name,
            "gpus": self.gpus,
            "ready": self.ready,
            "lines": [asdict(line) for line in self.lines],
            "batches": asdict(self.batches) if self.batches else None,
            "plan": as_json(self.plan) if self.plan else None,
        }

    def text(self) -> str:
        """Return it for people."""
        from aster_train.planning.text import text
        from aster_train.recipes.update import say_update

        rows = [f"{self.entry.name}: {self.entry.purpose}, on {self.gpus} GPUs", ""]
        rows += [f"  {line.what:<12} {'' if line.here else 'not here: '}{line.found}" for line in self.lines]
        rows += ["", *(f"  {line}" for line in (self.batches.lines() if self.batches else ())), ""]
        assert self.plan is not None
        memory = text(self.plan) if self.entry.kind == "grpo" else say_update(self.plan)
        missing = [line.what for line in self.lines if not line.here]
        verdict = f"Not ready: {', '.join(missing)}." if missing else "All that it names is at hand."
        return "\n".join([*rows, memory, "", verdict])


def kinds(kind: str) -> Kinds:
    """Return what the entry point of a kind of recipe reads."""
    from aster_train.config import ASTER, SFT, GRPOSettings, SFTSettings

    if kind == "grpo":
        from trl import GRPOConfig

        return Kinds(GRPOSettings, GRPOConfig, ASTER)
    if kind == "sft":
        from trl import SFTConfig

        return Kinds(SFTSettings, SFTConfig, SFT)
    from trl import DPOConfig

    from aster_train.dpo_config import DPO, DPOSettings

    return Kinds(DPOSettings, DPOConfig, DPO)


def read(entry: Entry, overrides: Sequence[str] = ()) -> Any:
    """Return the settings of a recipe, ``--key value`` over them.

    Raises:
        UsageError: an unknown key or a value of the wrong type.
    """
    from aster_train.config import read_settings

    found = kinds(entry.kind)
    return read_settings(found.settings, ["--config", str(entry.path), *overrides], "", found.arguments)


def arguments(entry: Entry, settings: Any, gpus: int) -> Any:
    """Return TRL's arguments as all GPUs together have them: the batch of a GPU times their number.

    Raises:
        UsageError: an unknown name, or values that TRL refuses.
    """
    from aster_train.config import training_arguments

    found, train = kinds(entry.kind), dict(settings.train)
    for name in ("per_device_train_batch_size", "per_device_eval_batch_size"):
        train[name] = gpus * train.get(name, 8)
    if entry.kind == "grpo":
        check_evaluation(train, found.defaults, gpus)
    return training_arguments(found.arguments, found.defaults, {**train, "use_cpu": True})


def dry_run(
    entry: Entry, overrides: Sequence[str] = (), gpus: int | None = None, memory: float | None = None
) -> DryRun:
    """Resolve a recipe, reckon its batches and plan its memory, without loading weights.

    Args:
        entry: the recipe.
        overrides: ``--key value`` of its entry point.
        gpus: of the run; None: those that the recipe is written for.
        memory: GiB of each GPU; None: 80.

    Raises:
        UsageError: the configuration is wrong.
    """
    settings = read(entry, overrides)
    check_settings(entry.kind, settings)
    found = DryRun(entry, gpus or entry.gpus)
    args = arguments(entry, settings, found.gpus)
    micro = args.per_device_train_batch_size // found.gpus
    material = gather(entry, settings, getattr(args, "max_length", None), hub_answers())
    found.lines += material.lines
    if entry.kind == "dpo":
        check_cache(material.longest, settings)
        found.lines.append(Line("pairs", "as many as the episodes give"))
        found.batches = example_batches(args, micro, None)
    elif entry.kind == "sft":
        found.batches = example_batches(args, micro, material.count)
    else:
        check_grpo(settings, args, micro, material.longest, material.count)
        found.batches = grpo_batches(args, micro, settings.selection, material.count)
        found.plan = _plan(entry, settings, found.gpus, memory)
        return found
    from aster_train.recipes.update import plan_update

    found.plan = plan_update(entry.kind, _shape(entry, settings), _rank(entry, settings), args, found.gpus, memory)
    return found


def _rank(entry: Entry, settings: Any) -> int:
    """Return the rank of the adapters; 0 where the weights are trained."""
    from aster_train.config import lora_config
    from aster_train.dpo_config import LORA

    if settings.lora is None:
        return 0
    return int(lora_config({**(LORA if entry.kind == "dpo" else {}), **settings.lora}).r)


def _shape(entry: Entry, settings: Any) -> str:
    """Return the model itself where it is at hand, else a known one of its shape."""
    local = settings.model == "embedded" or (Path(settings.model).expanduser() / "config.json").is_file()
    return str(settings.model) if local else entry.shape


def _plan(entry: Entry, settings: Any, gpus: int, memory: float | None) -> Plan:
    """Return the plan of the device's memory, with the shape of a known model where the model is not at hand."""
    from aster_train.planning.command import add_arguments, make_request
    from aster_train.planning.fit import changes, make_plan

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    given = ["--gpus", str(gpus), *([] if memory is None else ["--gpu-memory", str(memory)])]
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.json"
        # JSON is YAML: what the command line changed is planned, too.
        config.write_text(json.dumps(asdict(settings)), encoding="utf-8")
        given += ["--config", str(config), "--model", _shape(entry, settings)]
        plan = make_plan(make_request(parser.parse_args(given)))
    if not plan.fits:
        plan.changes.extend(changes(plan.request))
    return plan
