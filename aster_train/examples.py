"""SFT examples from stored episodes: the same turns, ids and masks as the environment's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aster_env.dialects import Dialect
from aster_env.dialects.base import Schemas
from aster_env.errors import UsageError
from aster_env.types import Trajectory, Turn
from aster_train.conversations import read_conversation

IGNORED = -100
"""The label of a token that the loss passes over."""


@dataclass(slots=True)
class Examples:
    """Rows for training, and what became of the file's other lines."""

    rows: list[dict[str, list[int]]] = field(default_factory=list)
    overlong: int = 0
    retokenized: int = 0

    def report(self) -> str:
        """Say in a line what was read."""
        learned = sum(label != IGNORED for row in self.rows for label in row["labels"])
        total = sum(len(row["labels"]) for row in self.rows)
        return (
            f"{len(self.rows)} examples, {total} tokens, {learned} of them the model's; {self.overlong} overlong "
            f"dropped; {self.retokenized} written with another tokenizer"
        )

    def dataset(self) -> Any:
        """Return the rows as a ``datasets.Dataset`` of ``input_ids`` and ``labels``."""
        from datasets import Dataset

        return Dataset.from_list(self.rows)


def read_examples(path: str, dialect: Dialect, max_length: int | None, schemas: Schemas | None = None) -> Examples:
    """Return the examples of a JSONL file; each line is a trajectory (``turns``) or a conversation (``messages``).

    A trajectory's ids are taken as they are where this tokenizer reads them as the same text; otherwise each turn is
    tokenised by itself, and counted. An example of more than ``max_length`` tokens is dropped whole: cut short, it
    would teach to stop in the middle. ``schemas`` are of the tools that the prompt of a conversation describes, where
    the line has no ``tools`` of its own.

    Raises:
        UsageError: no such file, a line that is neither (the text names it), or no example is left.
    """
    examples = Examples()
    for number, line in _lines(path):
        try:
            turns, retokenized = _turns(json.loads(line), dialect, schemas or {})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(
                f"{path}, line {number}: {type(error).__name__}: {error} Allowed: an object with 'turns' (as "
                "Trajectory.to_json writes) or 'messages' (role and content), in UTF-8."
            ) from error
        row = training_example(turns)
        if max_length is not None and len(row["input_ids"]) > max_length:
            examples.overlong += 1
        else:
            examples.rows.append(row)
            examples.retokenized += retokenized
    if not examples.rows:
        raise UsageError(f"{path} leaves no example to train on: {examples.report()}. Fix: raise train.max_length.")
    return examples


def training_example(turns: Sequence[Turn]) -> dict[str, list[int]]:
    """Return ``input_ids`` and, aligned, ``labels``: the ids that the model wrote, -100 for all others."""
    ids = [i for turn in turns for i in turn.ids]
    labels = [i if turn.role == "model" else IGNORED for turn in turns for i in turn.ids]
    return {"input_ids": ids, "labels": labels}


def _turns(row: Mapping[str, Any], dialect: Dialect, schemas: Schemas) -> tuple[list[Turn], bool]:
    """Return a line's turns, and whether they had to be tokenised anew."""
    if "turns" not in row:
        return read_conversation(row, dialect, schemas), False
    turns = Trajectory.from_json(row).turns
    tokenizer = dialect.tokenizer
    known = all(0 <= i < tokenizer.vocab_size for turn in turns for i in turn.ids)
    if known and all(tokenizer.decode(turn.ids) == turn.text for turn in turns):
        return turns, False
    return [Turn(turn.role, tuple(tokenizer.encode(turn.text)), turn.text) for turn in turns], True


def _lines(path: str) -> Iterator[tuple[int, bytes]]:
    file = Path(path).expanduser()
    if not file.is_file():
        near = sorted(p.name for p in file.parent.glob("*.jsonl"))[:5] if file.parent.is_dir() else []
        raise UsageError(f"data: {path!r}: no such file. Beside it: {', '.join(near) or 'no JSONL file'}.")
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, line
