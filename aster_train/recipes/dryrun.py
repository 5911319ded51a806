"""What a recipe would do here: what it names and whether that is at hand, its arithmetic, its memory; no weights."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aster_env.errors import AsterError
from aster_train.recipes.arithmetic import Batches, example_batches, grpo_batches
from aster_train.recipes.listing import Entry
from aster_train.recipes.resolve import Line, find_folder, hub_answers, load_environment, prompt_lengths, said

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
        plan: of the memory of its GPUs; None where there is no formula.
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

        rows = [f"{self.entry.name}: {self.entry.purpose}, on {self.gpus} GPUs", ""]
        rows += [f"  {line.what:<12} {'' if line.here else 'not here: '}{line.found}" for line in self.lines]
        rows += ["", *(f"  {line}" for line in (self.batches.lines() if self.batches else ())), ""]
        memory = text(self.plan) if self.plan else "Memory: no formula for this entry point's loss."
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
    found = DryRun(entry, gpus or entry.gpus)
    args = arguments(entry, settings, found.gpus)
    online = hub_answers()
    tokenizer = _model(found, settings, online)
    micro = args.per_device_train_batch_size // found.gpus
    if entry.kind == "sft":
        count = _examples(found, settings, args, tokenizer)
        found.batches = example_batches(args, micro, count)
        return found
    count = _tasks(found, settings, tokenizer, online)
    if entry.kind == "dpo":
        found.lines.append(Line("pairs", "as many as the episodes give"))
        found.batches = example_batches(args, micro, None)
        return found
    _recipe(found, settings, args, micro, count)
    found.plan = _plan(entry, settings, found.gpus, memory)
    return found


def _model(found: DryRun, settings: Any, online: bool) -> Any:
    """Note the model and its tokenizer; return the tokenizer, or None."""
    from transformers import AutoConfig

    from aster_train.config import find_model, load_tokenizer

    if settings.model == "embedded":
        with tempfile.TemporaryDirectory() as folder:
            return _tokenizer(found, load_tokenizer(find_model("embedded", folder)), "embedded, made where it runs")
    try:
        folder = find_folder(settings.model, online, found.entry.after)
        config = AutoConfig.from_pretrained(folder).get_text_config()
    except (AsterError, OSError, ValueError) as error:
        shape = f"; its memory is planned with the shape of {found.entry.shape}"
        text = said(error) if isinstance(error, AsterError) else str(error).splitlines()[0]
        found.lines += [Line("model", text + shape, False), Line("tokenizer", "comes with the model", False)]
        return None
    size = f"{config.num_hidden_layers} layers, {config.hidden_size} wide"
    try:
        return _tokenizer(found, load_tokenizer(folder), f"{folder}: {config.model_type}, {size}")
    except AsterError as error:
        found.lines.append(Line("tokenizer", said(error), False))
        return None


def _tokenizer(found: DryRun, tokenizer: Any, model: str) -> Any:
    found.lines += [Line("model", model), Line("tokenizer", f"{len(tokenizer):,} tokens")]
    return tokenizer


def _tasks(found: DryRun, settings: Any, tokenizer: Any, online: bool) -> int | None:
    """Note the tasks and the lengths of their prompts; return how many there are, or how many are published."""
    from aster_env.tokenizers import as_tokenizer

    most = settings.env_kwargs.get("max_tokens")
    try:
        made = None if tokenizer is None else as_tokenizer(tokenizer)
        # Counted in bytes, a prompt has more tokens than any tokenizer gives it.
        environment = load_environment(settings.env, settings.env_kwargs, made, online)
    except AsterError as error:
        published = f"; {found.entry.tasks:,} tasks are published" if found.entry.tasks else ""
        found.lines.append(Line("tasks", said(error) + published, False))
        found.lines.append(Line("lengths", f"prompts unknown; an episode has at most {most:,} tokens", False))
        return found.entry.tasks
    try:
        found.lines.append(Line("tasks", f"{len(environment.tasks):,} of {environment.tasks.name}"))
        found.lines.append(_lengths(environment, most, tokenizer is not None))
        return len(environment.tasks)
    finally:
        environment.close()


def _lengths(environment: Any, most: int | None, counted: bool) -> Line:
    bound = environment.limits.max_tokens if most is None else most
    if not counted:
        return Line("lengths", f"prompts unknown without a tokenizer; an episode has at most {bound:,} tokens", False)
    try:
        lengths = prompt_lengths(environment)
    except AsterError as error:
        return Line("lengths", said(error), False)
    left = bound - max(lengths)
    return Line("lengths", f"prompts of {min(lengths):,} to {max(lengths):,} tokens leave {left:,} of {bound:,}")


def _examples(found: DryRun, settings: Any, args: Any, tokenizer: Any) -> int | None:
    """Note the examples of an SFT recipe; return how many there are, or how many are published."""
    path = Path(settings.data).expanduser()
    published = f"; {found.entry.tasks:,} examples are published" if found.entry.tasks else ""
    if not path.is_file():
        found.lines.append(Line("data", f"no file {settings.data!r}{published}", False))
    elif tokenizer is None:
        found.lines.append(Line("data", f"{settings.data}, not counted without a tokenizer", False))
    else:
        return _count(found, settings, args, tokenizer)
    found.lines.append(Line("lengths", f"longer examples than {args.max_length:,} tokens are dropped"))
    return found.entry.tasks


def _count(found: DryRun, settings: Any, args: Any, tokenizer: Any) -> int:
    from aster_env.dialects import make_dialect
    from aster_env.tokenizers import as_tokenizer
    from aster_train.conversations import tool_schemas
    from aster_train.examples import read_examples

    dialect = make_dialect(settings.dialect, as_tokenizer(tokenizer))
    schemas = tool_schemas(settings.env, settings.env_kwargs, dialect) if settings.env else {}
    examples = read_examples(settings.data, dialect, args.max_length, schemas)
    longest = max(len(row["input_ids"]) for row in examples.rows)
    found.lines.append(Line("data", examples.report()))
    found.lines.append(Line("lengths", f"the longest has {longest:,} tokens of {args.max_length:,}"))
    return len(examples.rows)


def _recipe(found: DryRun, settings: Any, args: Any, micro: int, tasks: int | None) -> None:
    """Check what the recipe adds to plain GRPO, and reckon its batches."""
    from aster_train.check import check_arguments, check_count
    from aster_train.penalties import read_penalties
    from aster_train.recipe import Recipe

    check_arguments(args, None, settings.policy_kwargs)
    recipe = Recipe.read(settings.shaping, settings.penalties, settings.selection)
    read_penalties(settings.penalties).check(settings.env_kwargs.get("max_tokens", 32768))
    if tasks is not None:
        check_count(tasks, args)
    found.batches = grpo_batches(args, micro, settings.selection, tasks)
    args.per_device_train_batch_size = micro
    recipe.check(args)
    if settings.curriculum is not None:
        found.lines.append(_curriculum(settings.curriculum))


def _curriculum(values: Mapping[str, Any]) -> Line:
    from aster_train.curriculum import kept, read_curriculum

    try:
        curriculum = read_curriculum(values)
    except AsterError as error:
        return Line("curriculum", said(error), False)
    counts = curriculum.counts if curriculum else {}
    return Line("curriculum", f"{len(kept(counts, counts).ids):,} of {len(counts):,} tasks are kept")


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
        local = settings.model == "embedded" or (Path(settings.model).expanduser() / "config.json").is_file()
        model = settings.model if local else entry.shape
        plan = make_plan(make_request(parser.parse_args(["--config", str(config), "--model", model, *given])))
    if not plan.fits:
        plan.changes.extend(changes(plan.request))
    return plan
