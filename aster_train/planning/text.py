"""A plan for people, and as plain values."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from aster_train.planning.fit import Plan
from aster_train.planning.memory import GiB, Line, total
from aster_train.planning.sampling import engine_episode

_NAME, _SIZE, _WIDTH = 36, 8, 118


def text(plan: Plan) -> str:
    """Return the plan with every formula, the verdict last."""
    lines = [_title(plan), ""]
    lines += ["On each GPU, all the time", *_rows(plan.held), *_sum(plan.held), ""]
    for phase in plan.phases:
        if phase.lines:
            lines += [f"On each GPU, {phase.name}", *_rows(phase.lines)]
            if phase.one_of:
                lines += ["  and the largest of", *_rows(phase.one_of, indent=4)]
            lines += [_row("= beside what is held", phase.bytes, ""), ""]
    if plan.engine:
        lines += ["In vLLM's share, at least", *_rows(plan.engine), *_sum(plan.engine), ""]
    lines += ["On each host", *_rows(plan.host), *_sum(plan.host), *_rows([plan.ceiling]), ""]
    lines += [
        "~ marks what no test measures, an allowance or a bound; the others were measured on a CPU, within 10 %",
        "",
    ]
    return "\n".join([*lines, *_verdict(plan)])


def as_json(plan: Plan) -> dict[str, Any]:
    """Return the plan as plain values, sizes in bytes."""
    request = plan.request
    return {
        "model": asdict(request.shape),
        "training": {**asdict(request.training), "mode": request.training.mode},
        "sampling": asdict(request.sampling),
        "gpu_bytes": request.memory,
        "held": _plain(plan.held),
        "phases": [
            {"name": p.name, "bytes": p.bytes, "lines": _plain(p.lines), "one_of": _plain(p.one_of)}
            for p in plan.phases
        ],
        "engine": _plain(plan.engine),
        "episodes_in_cache": plan.room,
        "episode_cache_bytes": engine_episode(request.shape, request.training.context).bytes if plan.engine else None,
        "host": _plain(plan.host),
        "host_ceiling_bytes": plan.ceiling.bytes,
        "needed_bytes": plan.needed,
        "worst": plan.largest.name,
        "over_bytes": plan.over,
        "fits": plan.fits,
        "changes": [{"change": words, "needed_bytes": other.needed} for words, other in plan.changes],
    }


def _title(plan: Plan) -> str:
    shape, training, sampling = plan.request.shape, plan.request.training, plan.request.sampling
    how = {"fp32": "fp32", "autocast": "bf16 products over fp32 weights", "bf16": "bf16 weights"}[training.mode]
    parallel = f"ZeRO-{training.zero}" if training.zero else "DDP" if training.gpus > 1 else "no parallelism"
    policy = f"vLLM with {sampling.share:g} of each GPU" if sampling.share else "HFPolicy"
    asleep = ", asleep during the update" if sampling.share and sampling.sleeps else ""
    trained = f"LoRA of rank {training.lora}" if training.lora else "all weights"
    checkpoints = f"{'with' if training.checkpointing else 'without'} gradient checkpointing"
    return (
        f"{shape.name}: {shape.parameters:,} parameters, {shape.layers} layers, {shape.hidden} wide\n"
        f"{training.gpus} × {plan.request.memory / GiB:g} GiB, {parallel}, {how}; trains {trained}, {checkpoints}\n"
        f"episodes of {training.context:,} tokens, {sampling.episodes} at once on each GPU, "
        f"{training.micro_batch} in a micro-batch; sampled by {policy}{asleep}"
    )


def _verdict(plan: Plan) -> Iterable[str]:
    memory, episodes = plan.request.memory, plan.request.sampling.episodes
    yield (
        f"At the worst moment, {plan.largest.name}, a GPU needs {total(plan.held) / GiB:.1f} + "
        f"{plan.largest.bytes / GiB:.1f} = {plan.needed / GiB:.1f} GiB of its {memory / GiB:g}."
    )
    if 0 < plan.room < episodes:
        yield (
            f"The cache holds {plan.room} of {episodes} episodes at once if all have full length; then the others wait "
            "or are computed again."
        )
    if plan.fits:
        yield f"It fits; {(memory - plan.needed) / GiB:.1f} GiB are left."
        return
    if plan.engine_over > 0:
        yield f"vLLM's share is {plan.engine_over / GiB:.1f} GiB too small for one episode."
    yield f"It does not fit, by {plan.over / GiB:.1f} GiB."
    for words, other in plan.changes:
        yield f"  {words}: fits, {other.needed / GiB:.1f} GiB"
    if not plan.changes:
        yield "  No single change that this command knows makes it fit: take a smaller model."


def _rows(lines: Sequence[Line], indent: int = 2) -> list[str]:
    return [
        _row(one.name, one.bytes, one.formula + (f"; {one.note}" if one.note else ""), indent, one.measured)
        for one in lines
    ]


def _row(name: str, size: int, formula: str, indent: int = 2, measured: bool = True) -> str:
    mark = " " if measured else "~"
    start = f"{' ' * indent}{name:<{_NAME - indent}}{size / GiB:>{_SIZE}.3f} GiB {mark} "
    rest = textwrap.wrap(formula, _WIDTH - len(start), break_on_hyphens=False) or [""]
    return "\n".join([(start + rest[0]).rstrip(), *(" " * len(start) + more for more in rest[1:])])


def _sum(lines: Sequence[Line]) -> list[str]:
    return [_row("= together", total(lines), "")]


def _plain(lines: Sequence[Line]) -> list[dict[str, Any]]:
    return [
        {"name": one.name, "bytes": one.bytes, "formula": one.formula, "note": one.note, "measured": one.measured}
        for one in lines
    ]
