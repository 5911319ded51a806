"""The memory of an update that samples nothing: of SFT and of DPO, by the formulas of ``aster plan``.

They hold because TRL computes these losses, too, by its fused head, which keeps no logits. DPO's reference is the same
model with its adapters off, or a second copy where there are none; the episodes that DPO plays first are not planned.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from aster_train.planning.memory import GiB, Line, Training, total, weights
from aster_train.planning.model import read_shape

if TYPE_CHECKING:
    from aster_train.planning.fit import Plan


def plan_update(kind: str, model: str, lora: int, args: Any, gpus: int, memory: float | None) -> Plan:
    """Return the plan of an update's memory, without a phase of playing.

    Args:
        kind: ``"sft"`` or ``"dpo"``, in which an example is a pair of rows.
        model: whose shape counts.
        lora: rank of the adapters; 0 trains the weights.
        args: TRL's, for all GPUs together.
        gpus: of the run; several split everything by ZeRO-3.
        memory: GiB of each GPU; None: 80.
    """
    from aster_train.planning.fit import Request, make_plan
    from aster_train.planning.sampling import Sampling

    rows = args.per_device_train_batch_size // gpus * (2 if kind == "dpo" else 1)
    training = Training(
        gpus=gpus,
        zero=3 if gpus > 1 else 0,
        bf16=args.bf16,
        lora=lora,
        checkpointing=args.gradient_checkpointing,
        micro_batch=rows,
        context=args.max_length,
        # A row alone is not padded, so that no mask is made for it.
        padded=rows > 1,
    )
    size = int((80 if memory is None else memory) * GiB)
    shape = read_shape(model)
    plan = make_plan(Request(shape, training, Sampling(0.0, False, 1, 1, 0), size))
    reference = (
        [replace(weights(shape, training), name="the reference's weights")] if kind == "dpo" and not lora else []
    )
    return replace(plan, held=[*plan.held, *reference], phases=plan.phases[1:], room=0, host=())


def say_update(plan: Plan) -> str:
    """Return the plan in lines: what is held, what the update adds, the verdict."""
    training, memory = plan.request.training, plan.request.memory
    trained = f"LoRA of rank {training.lora}" if training.lora else "all weights"
    parallel = f"ZeRO-{training.zero}" if training.zero else "one GPU"
    update = plan.phases[0]
    largest = max(update.one_of, key=lambda one: one.bytes)
    verdict = f"It fits; {-plan.over / GiB:.1f} GiB are left." if plan.fits else f"{plan.over / GiB:.1f} GiB too much."
    return "\n".join(
        [
            f"Memory of the update, by the formulas of aster plan: {plan.request.shape.name}, {trained}, {parallel}, "
            f"{training.micro_batch} rows of {training.context:,} tokens",
            *(_row(one) for one in (*plan.held, *update.lines, largest)),
            f"  At the worst moment, {plan.largest.name}, a GPU needs {plan.needed / GiB:.1f} GiB, "
            f"of which {total(plan.held) / GiB:.1f} are held all the time; it has {memory / GiB:g}.",
            f"  {verdict}",
        ]
    )


def _row(one: Line) -> str:
    return f"  {one.name:<36}{one.bytes / GiB:>8.3f} GiB"
