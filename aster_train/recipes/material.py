"""What a recipe names, and whether it is at hand: a line for each; no weights are read."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aster_env.errors import AsterError
from aster_env.limits import Limits
from aster_train.recipes.listing import Entry
from aster_train.recipes.resolve import Line, find_folder, load_environment, prompt_lengths, said


@dataclass(slots=True)
class Material:
    """What a run is made of, as far as it is at hand.

    Args:
        lines: what was looked for, and what was found.
        tokenizer: None: not at hand.
        count: tasks or examples, those published where they are not at hand; None: not known.
        longest: tokens that an episode may have, in training or evaluation; 0 where none is played.
    """

    lines: list[Line] = field(default_factory=list)
    tokenizer: Any = None
    count: int | None = None
    longest: int = 0


def gather(entry: Entry, settings: Any, max_length: int | None, online: bool) -> Material:
    """Look for the model, the tokenizer, and the tasks or examples of a recipe.

    Args:
        entry: the recipe.
        settings: of its entry point.
        max_length: tokens of an example of SFT.
        online: whether the hub answers.
    """
    found = Material(count=entry.tasks)
    _model(found, entry, settings, online)
    if entry.kind == "sft":
        _examples(found, settings, max_length)
        return found
    ids = _tasks(found, settings.env, settings.env_kwargs, online)
    if ids is not None:
        found.count = len(ids)
    if entry.kind == "grpo":
        if settings.curriculum is not None:
            _curriculum(found, settings.curriculum, ids, entry.tasks)
        if settings.eval_env_kwargs is not None:
            differs = {**settings.env_kwargs, **settings.eval_env_kwargs}
            _tasks(found, settings.env, differs, online, evaluation=True)
    return found


def _model(found: Material, entry: Entry, settings: Any, online: bool) -> None:
    """Note the model and its tokenizer."""
    from transformers import AutoConfig

    from aster_train.config import find_model, load_tokenizer

    if settings.model == "embedded":
        with tempfile.TemporaryDirectory() as folder:
            _tokenizer(found, load_tokenizer(find_model("embedded", folder)), "embedded, made where it runs")
        return
    try:
        folder = find_folder(settings.model, online, entry.after)
        config = AutoConfig.from_pretrained(folder).get_text_config()
    except (AsterError, OSError, ValueError) as error:
        shape = f"; its memory is planned with the shape of {entry.shape}"
        text = said(error) if isinstance(error, AsterError) else str(error).splitlines()[0]
        found.lines += [Line("model", text + shape, False), Line("tokenizer", "comes with the model", False)]
        return
    size = f"{config.num_hidden_layers} layers, {config.hidden_size} wide"
    try:
        _tokenizer(found, load_tokenizer(folder), f"{folder}: {config.model_type}, {size}")
    except AsterError as error:
        found.lines.append(Line("tokenizer", said(error), False))


def _tokenizer(found: Material, tokenizer: Any, model: str) -> None:
    found.tokenizer = tokenizer
    found.lines += [Line("model", model), Line("tokenizer", f"{len(tokenizer):,} tokens")]


def _tasks(
    found: Material, env: str, env_kwargs: Mapping[str, Any], online: bool, evaluation: bool = False
) -> Sequence[str] | None:
    """Note an environment's tasks and the lengths of their prompts; return the tasks' ids, or None."""
    from aster_env.tokenizers import as_tokenizer

    tasks, lengths = ("eval tasks", "eval lengths") if evaluation else ("tasks", "lengths")
    bound = env_kwargs.get("max_tokens", Limits().max_tokens)
    found.longest = max(found.longest, bound)
    try:
        made = None if found.tokenizer is None else as_tokenizer(found.tokenizer)
        # Counted in bytes, a prompt has more tokens than any tokenizer gives it.
        environment = load_environment(env, env_kwargs, made, online)
    except AsterError as error:
        published = f"; {found.count:,} tasks are published" if found.count and not evaluation else ""
        found.lines.append(Line(tasks, said(error) + published, False))
        found.lines.append(Line(lengths, f"prompts unknown; an episode has at most {bound:,} tokens", False))
        return None
    try:
        found.lines.append(Line(tasks, f"{len(environment.tasks):,} of {environment.tasks.name}"))
        found.lines.append(_lengths(environment, lengths, found.tokenizer is not None))
        return [task.id for task in environment.tasks]
    finally:
        environment.close()


def _lengths(environment: Any, what: str, counted: bool) -> Line:
    bound = environment.limits.max_tokens
    if not counted:
        return Line(what, f"prompts unknown without a tokenizer; an episode has at most {bound:,} tokens", False)
    try:
        lengths = prompt_lengths(environment)
    except AsterError as error:
        return Line(what, said(error), False)
    left = bound - max(lengths)
    return Line(what, f"prompts of {min(lengths):,} to {max(lengths):,} tokens leave {left:,} of {bound:,}")


def _curriculum(found: Material, values: Mapping[str, Any], ids: Sequence[str] | None, published: int | None) -> None:
    """Note what a curriculum keeps; of the tasks at hand, a task that its run did not play is kept."""
    from aster_train.curriculum import Curriculum, kept, read_curriculum

    found.count = published
    try:
        curriculum = read_curriculum(values) or Curriculum("", {})
    except AsterError as error:
        found.lines.append(Line("curriculum", said(error), False))
        return
    counts = curriculum.counts
    if ids is None:
        text = f"{len(kept(counts, counts).ids):,} of the {len(counts):,} tasks that it played are kept"
        found.lines.append(Line("curriculum", text))
        return
    matched = sum(one in counts for one in ids)
    if not matched:
        text = f"{curriculum.after!r} played none of these tasks, so it says nothing of them"
        found.lines.append(Line("curriculum", text, False))
        return
    found.count = sum(map(curriculum.keeps, ids))
    text = f"{found.count:,} of {len(ids):,} tasks are kept, {len(ids) - matched:,} of them as they were not played"
    found.lines.append(Line("curriculum", text, found.count > 0))


def _examples(found: Material, settings: Any, max_length: int | None) -> None:
    """Note the examples of an SFT recipe."""
    path = Path(settings.data).expanduser()
    published = f"; {found.count:,} examples are published" if found.count else ""
    if not path.is_file():
        found.lines.append(Line("data", f"no file {settings.data!r}{published}", False))
    elif found.tokenizer is None:
        found.lines.append(Line("data", f"{settings.data}, not counted without a tokenizer", False))
    else:
        _count(found, settings, max_length)
        return
    found.lines.append(Line("lengths", f"longer examples than {max_length:,} tokens are dropped"))


def _count(found: Material, settings: Any, max_length: int | None) -> None:
    from aster_env.dialects import make_dialect
    from aster_env.tokenizers import as_tokenizer
    from aster_train.conversations import tool_schemas
    from aster_train.examples import read_examples

    dialect = make_dialect(settings.dialect, as_tokenizer(found.tokenizer))
    schemas = tool_schemas(settings.env, settings.env_kwargs, dialect) if settings.env else {}
    examples = read_examples(settings.data, dialect, max_length, schemas)
    longest = max(len(row["input_ids"]) for row in examples.rows)
    found.lines.append(Line("data", examples.report()))
    found.lines.append(Line("lengths", f"the longest has {longest:,} tokens of {max_length:,}"))
    found.count = len(examples.rows)
