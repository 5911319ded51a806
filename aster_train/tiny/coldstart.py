"""The cold start of the embedded model: reading, then clean trajectories, then a mixture with flaws."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from aster_env.dialects import Dialect
from aster_env.types import Message, Task
from aster_train.tiny.expert import read_problem

Row = tuple[Sequence[int], Sequence[int]]
"""Token ids and, aligned with them, 1 where the model is to learn."""


@dataclass(frozen=True, slots=True)
class Phase:
    """How one phase is trained: AdamW with a warm-up, then constant or to zero along a cosine."""

    steps: int
    batch: int
    learning_rate: float
    warmup: int = 50
    cosine: bool = False


def fit(
    model: Any,
    batches: Iterator[Sequence[Row]],
    phase: Phase,
    *,
    until: Callable[[int, float], bool] = lambda step, accuracy: False,
) -> float:
    """Train on rows, the loss on the model's tokens alone; return the last steps' mean accuracy of the next token.

    Args:
        model: a causal language model.
        batches: yields rows.
        phase: how to train.
        until: called with the step and a running accuracy; True ends the phase early.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=phase.learning_rate, betas=(0.9, 0.95), weight_decay=0.01, fused=True
    )
    model.train()
    accuracy = 0.0
    for step, rows in zip(range(phase.steps), batches, strict=False):
        share = min(1.0, (step + 1) / phase.warmup)
        if phase.cosine:
            share *= 0.5 * (1 + math.cos(math.pi * step / phase.steps))
        for group in optimizer.param_groups:
            group["lr"] = phase.learning_rate * share
        loss, right = _loss(model, rows)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        accuracy = right if step == 0 else 0.9 * accuracy + 0.1 * right
        if until(step, accuracy):
            break
    return accuracy


def _loss(model: Any, rows: Sequence[Row]) -> tuple[torch.Tensor, float]:
    """Return the mean loss over the tokens to learn, and how many of them were most likely."""
    ids = pad_sequence([torch.tensor(ids) for ids, _ in rows], batch_first=True)
    mask = pad_sequence([torch.tensor(mask) for _, mask in rows], batch_first=True).bool()
    # Rows are padded on the right, where a causal model cannot look: no attention mask is needed.
    hidden = model.model(input_ids=ids[:, :-1]).last_hidden_state
    wanted = mask[:, 1:]
    logits = model.lm_head(hidden[wanted])
    labels = ids[:, 1:][wanted]
    loss = torch.nn.functional.cross_entropy(logits, labels)
    return loss, float((logits.argmax(-1) == labels).float().mean())


def shuffled(rows: Sequence[Row], batch: int, seed: int) -> Iterator[Sequence[Row]]:
    """Yield batches for ever, each epoch in a new order."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(len(rows))
        for start in range(0, len(rows) - batch + 1, batch):
            yield [rows[i] for i in order[start : start + batch]]


def reading_rows(tasks: Iterator[Task], dialect: Dialect, batch: int, code: Callable[..., str]) -> Iterator[list[Row]]:
    """Yield batches in which the numbers and operations of a problem are copied: no tool, no result.

    Args:
        tasks: problems, without end.
        dialect: renders the prompts.
        batch: rows a batch.
        code: writes a call from its number and the problem's steps.
    """
    tokenizer = dialect.tokenizer
    while True:
        rows = []
        for number in range(batch):
            task = next(tasks)
            problem = read_problem(task.prompt)
            prompt = tokenizer.encode(dialect.prompt([Message("user", task.prompt)], {}))
            plan = "".join(f" {sign} {operand}" for sign, operand in problem.steps)
            text = f"<think>{problem.start}{plan}</think>" if number % 2 else code(problem)
            ids = tokenizer.encode(text)
            rows.append((prompt + ids, [0] * len(prompt) + [1] * len(ids)))
        yield rows


def stopwatch() -> Callable[[], float]:
    """Return a function that tells the seconds since this call."""
    started = time.perf_counter()
    return lambda: time.perf_counter() - started
