"""What training holds on a GPU: pure functions from a model's shape and a setting to lines with their formulas.

The sizes are those of torch, transformers, TRL and DeepSpeed at this project's pins: each function names where they are
allocated. ``tests/train/test_plan.py`` compares them with measured ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from aster_train.planning.model import Shape

GiB = 1 << 30
BUCKET = 500_000_000
"""Elements of DeepSpeed's ``reduce_bucket_size``, which the accelerate files here leave as it is."""
LIVE = 1_000_000_000
"""Elements of DeepSpeed's ``stage3_max_live_parameters``: gathered at once under ZeRO-3."""
TILE = (4096, 32768)
"""Tokens and columns of the logits that TRL holds at once (``trl/kernels/chunked_logprob.py``,
``trl/trainer/utils.py``); the logits of a whole batch never exist."""


@dataclass(frozen=True, slots=True)
class Term:
    """A product of named numbers, divided among GPUs; its text and its value cannot disagree.

    Args:
        factors: pairs of a number and its unit.
        over: GPUs that share it.
    """

    factors: tuple[tuple[int, str], ...]
    over: int = 1

    @property
    def bytes(self) -> int:
        """The value, rounded up."""
        return -(-math.prod(number for number, _ in self.factors) // self.over)

    def __str__(self) -> str:
        text = " × ".join(f"{number:,} {unit}".rstrip() for number, unit in self.factors)
        return text + (f" / {self.over} GPUs" if self.over > 1 else "")


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that takes memory.

    Args:
        name: what it is.
        terms: added up.
        note: where a number of the terms comes from.
        measured: a test compares it with a measured size, within 10 %.
    """

    name: str
    terms: tuple[Term, ...]
    note: str = ""
    measured: bool = True

    @property
    def bytes(self) -> int:
        """The value."""
        return sum(term.bytes for term in self.terms)

    @property
    def formula(self) -> str:
        """The terms with their numbers."""
        return " + ".join(map(str, self.terms))


def line(name: str, *factors: tuple[int, str], over: int = 1, note: str = "", measured: bool = True) -> Line:
    """Return a line of one product."""
    return Line(name, (Term(factors, over),), note, measured)


def total(lines: Sequence[Line]) -> int:
    """Return the bytes of lines that are there at once."""
    return sum(one.bytes for one in lines)


@dataclass(frozen=True, slots=True)
class Training:
    """How a model is trained.

    Args:
        gpus: processes, one a GPU.
        zero: stage of DeepSpeed's ZeRO; 0 is torch alone (DDP on several GPUs).
        bf16: compute in bf16: autocast over fp32 weights with torch alone, bf16 weights under DeepSpeed.
        lora: rank of the adapters of all linear layers; 0 trains the weights themselves.
        checkpointing: keep each layer's input alone, and compute the rest of it again in the backward pass.
        micro_batch: episodes of a forward and backward pass on a GPU.
        context: tokens of the longest episode of a batch, to which TRL pads the others.
        padded: the episodes differ in length, so that a mask for each pair of positions is made.
    """

    gpus: int = 1
    zero: int = 0
    bf16: bool = True
    lora: int = 0
    checkpointing: bool = True
    micro_batch: int = 1
    context: int = 32768
    padded: bool = True

    @property
    def mode(self) -> str:
        """``"fp32"``, ``"autocast"`` (fp32 weights, bf16 products) or ``"bf16"`` (bf16 weights)."""
        if not self.bf16:
            return "fp32"
        return "bf16" if self.zero else "autocast"

    @property
    def weight(self) -> int:
        """Bytes of a weight, and of an element of the residual stream."""
        return 2 if self.mode == "bf16" else 4

    @property
    def product(self) -> int:
        """Bytes of what a matrix product gives."""
        return 4 if self.mode == "fp32" else 2

    @property
    def tokens(self) -> int:
        """Positions of a micro-batch, padding included."""
        return self.micro_batch * self.context


def trained(shape: Shape, training: Training) -> int:
    """Return the number of parameters that have gradients."""
    return training.lora * shape.adapted if training.lora else shape.parameters


def weights(shape: Shape, training: Training) -> Line:
    """The model: TRL loads it in fp32; DeepSpeed turns it into bf16 with ``bf16``, and ZeRO-3 divides it."""
    share = training.gpus if training.zero == 3 else 1
    base = Term(((shape.parameters, "parameters"), (training.weight, "B")), share)
    adapters = Term(((trained(shape, training), "of LoRA"), (training.weight, "B")), share)
    return Line("weights", (base, adapters) if training.lora else (base,))


def gradients(shape: Shape, training: Training) -> Line:
    """A gradient for each trained parameter, in its type; divided from ZeRO-2 on."""
    share = training.gpus if training.zero >= 2 else 1
    return line("gradients", (trained(shape, training), "trained"), (training.weight, "B"), over=share)


def optimizer(shape: Shape, training: Training) -> Line:
    """AdamW's two moments, and under DeepSpeed a copy of the trained weights, all in fp32."""
    count, share = trained(shape, training), training.gpus if training.zero else 1
    terms = [Term(((count, "trained"), (8, "B (Adam's m and v)")), share)]
    if training.zero:
        terms.append(Term(((count, "trained"), (4, "B (fp32 copy)")), share))
    return Line("optimizer", tuple(terms))


def buffers(shape: Shape, training: Training) -> list[Line]:
    """What the parallelism itself holds: DDP's buckets, or ZeRO-3's.

    DDP's are a copy of all gradients (``gradient_as_bucket_view=False``); DeepSpeed's has one size for all models.
    """
    if training.zero == 3:
        return [_bucket(training)]
    if training.zero == 0 and training.gpus > 1:
        factors = (trained(shape, training), "trained"), (training.weight, "B")
        return [line("DDP's buckets", *factors, note="a copy of all gradients", measured=False)]
    return []


def update_buffers(shape: Shape, training: Training) -> list[Line]:
    """What the parallelism takes during the update alone: ZeRO-1's and 2's bucket, the parameters ZeRO-3 gathers."""
    if training.zero in (1, 2):
        return [_bucket(training)]
    if training.zero == 3 and training.gpus > 1:
        factors = (min(shape.parameters, LIVE), "parameters"), (training.weight, "B")
        return [line("gathered parameters", *factors, note="stage3_max_live_parameters, or all", measured=False)]
    return []


def _bucket(training: Training) -> Line:
    return line("DeepSpeed's bucket", (BUCKET, "elements"), (training.weight, "B"), note="reduce_bucket_size",
                measured=False)  # fmt: skip


def step_copy(shape: Shape, training: Training) -> list[Line]:
    """DeepSpeed's fp32 copy of its share of the gradients, while the optimizer steps."""
    if not training.zero:
        return []
    factors = (trained(shape, training), "trained"), (4, "B")
    return [line("gradients in fp32", *factors, over=training.gpus, measured=False)]
