"""A configuration's memory put together: what is there at once, whether it fits, and what would make it fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from aster_env.errors import UsageError
from aster_train.planning.activations import batch, kept, working
from aster_train.planning.memory import (
    GiB,
    Line,
    Training,
    buffers,
    gradients,
    line,
    optimizer,
    step_copy,
    total,
    update_buffers,
    weights,
)
from aster_train.planning.model import Shape
from aster_train.planning.sampling import (
    Sampling,
    cache_tokens,
    engine_lines,
    engine_room,
    host_ceiling,
    host_lines,
    policy_lines,
    policy_steps,
)

CONTEXT = 2 * GiB
"""Bytes of a GPU for CUDA's context, the libraries' workspaces and what fragmentation loses; an allowance."""
HOST = 8
"""GPUs of a host, at most."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked: a model, how it is trained and sampled, on which GPUs.

    Args:
        shape: of the model.
        training: how the update works.
        sampling: how episodes are played.
        memory: bytes of a GPU.
    """

    shape: Shape
    training: Training
    sampling: Sampling
    memory: int = 80 * GiB


@dataclass(frozen=True, slots=True)
class Phase:
    """What is on a GPU at once: all of ``lines``, and of ``one_of`` the largest."""

    name: str
    lines: Sequence[Line]
    one_of: Sequence[Line] = ()

    @property
    def bytes(self) -> int:
        """The value."""
        return total(self.lines) + max((one.bytes for one in self.one_of), default=0)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a request needs.

    Args:
        request: what was asked.
        held: on a GPU from the start to the end.
        phases: on a GPU beside ``held``, one after the other.
        engine: what vLLM's share must hold at least; empty where ``HFPolicy`` samples.
        room: episodes of full length that the sampler's cache holds at once.
        host: in the memory of a host.
        ceiling: what the sessions of a host may take at most.
    """

    request: Request
    held: Sequence[Line]
    phases: Sequence[Phase]
    engine: Sequence[Line]
    room: int
    host: Sequence[Line]
    ceiling: Line
    changes: list[tuple[str, Plan]] = field(default_factory=list)

    @property
    def largest(self) -> Phase:
        """The phase that needs most."""
        return max(self.phases, key=lambda phase: phase.bytes)

    @property
    def needed(self) -> int:
        """Bytes of a GPU at the worst moment."""
        return total(self.held) + self.largest.bytes

    @property
    def over(self) -> int:
        """Bytes by which a GPU is too small; negative: left over."""
        return max(self.needed - self.request.memory, self.engine_over)

    @property
    def engine_over(self) -> int:
        """Bytes by which vLLM's share is too small for one episode; very negative where there is no engine."""
        share = int(self.request.sampling.share * self.request.memory)
        return total(self.engine) - share if self.engine else -self.request.memory

    @property
    def fits(self) -> bool:
        """Whether it does."""
        return self.over <= 0


def make_plan(request: Request) -> Plan:
    """Return what ``request`` needs.

    Raises:
        UsageError: a number is out of its range.
    """
    check(request)
    shape, training, sampling = request.shape, request.training, request.sampling
    always = [line("CUDA, libraries, fragmentation", (CONTEXT, "B"), note="an allowance", measured=False)]
    held = [*always, weights(shape, training), optimizer(shape, training), *buffers(shape, training)]
    grads = gradients(shape, training)
    if training.zero == 3 or (training.zero == 0 and training.gpus > 1):
        held.append(grads)
        of_update: list[Line] = []
    else:
        # Set to None after each step, so that episodes are played without them.
        of_update = [grads]
    engine, playing, room = _sampler(request)
    steps = [] if engine else policy_steps(shape, training, sampling)
    if engine and not sampling.sleeps:
        held, playing = [*held, *playing], []
    update = [*of_update, *update_buffers(shape, training), *kept(shape, training), batch(training)]
    phases = [
        Phase("playing episodes", playing, steps),
        Phase("the update", update, working(shape, training)),
        Phase("the optimizer's step", [*of_update, *step_copy(shape, training)]),
    ]
    per_host = min(training.gpus, HOST)
    host = host_lines(training, sampling, per_host)
    return Plan(request, held, phases, engine, room, host, host_ceiling(sampling, per_host))


def _sampler(request: Request) -> tuple[list[Line], list[Line], int]:
    """Return what an engine needs at least, what the sampler takes on the GPU, and how many long episodes it holds."""
    shape, training, sampling = request.shape, request.training, request.sampling
    if not sampling.share:
        room = cache_tokens(training.context, sampling) // training.context
        return [], policy_lines(shape, training, sampling), room
    factors = (int(sampling.share * request.memory), f"B = {sampling.share:g} of the GPU")
    room = engine_room(shape, training.context, sampling, request.memory)
    return engine_lines(shape, training.context, sampling), [line("vLLM's share", factors, measured=False)], room


def check(request: Request) -> None:
    """Raise ``UsageError`` if a number is out of its range; the text names the value and what is allowed."""
    training, sampling = request.training, request.sampling
    positive = {"--context": training.context, "--gpus": training.gpus, "--micro-batch": training.micro_batch,
                "--episodes": sampling.episodes, "--gpu-memory": request.memory / GiB}  # fmt: skip
    for name, value in positive.items():
        if value <= 0:
            raise UsageError(f"{name} {value:g} is not allowed. Allowed: above 0.")
    if training.zero not in (0, 1, 2, 3):
        raise UsageError(f"--zero {training.zero} is not allowed. Allowed: 0 (no DeepSpeed), 1, 2 or 3.")
    if training.lora < 0 or training.lora > request.shape.hidden:
        allowed = f"1 to {request.shape.hidden}, the model's hidden size; 0: no LoRA"
        raise UsageError(f"--lora {training.lora} is not allowed. Allowed: {allowed}.")
    if not 0 <= sampling.share < 1:
        raise UsageError(
            f"--vllm-memory {sampling.share:g} is not allowed. Allowed: a share of the GPU from 0 (HFPolicy samples, "
            "no engine) to below 1."
        )
    if 0 < sampling.cache_tokens < training.context and not sampling.share:
        raise UsageError(
            f"policy_kwargs.max_cache_tokens={sampling.cache_tokens} holds no episode of {training.context} tokens. "
            "Fix: raise the one, or lower the other."
        )


def changes(request: Request) -> list[tuple[str, Plan]]:
    """Return the changes that make a request fit, each in words: first those that leave the experiment what it is.

    Each is enough alone. Where none is, those that cost time only are made together, with a share for vLLM that holds
    an episode, and then with one of the others.
    """
    found = [(words, plan) for words, changed in _single(request) if (plan := make_plan(changed)).fits]
    if found:
        return found
    names, together = [], request
    for name, changed in _cheap(request):
        names.append(name)
        together = _merge(together, changed, request)
    share = _least_share(together) if request.sampling.share else None
    if share is not None and share > request.sampling.share:
        names.append(f"--vllm-memory {share:g}")
        together = replace(together, sampling=replace(together.sampling, share=share))
    if (alone := make_plan(together)).fits:
        return [(" ".join(names), alone)]
    rest = [(name, plan) for name, changed in _single(together) if (plan := make_plan(changed)).fits]
    return [(" ".join([*names, name]), plan) for name, plan in rest]


def _least_share(request: Request) -> float | None:
    """Return the smallest share, in steps of 5 %, in which vLLM's engine holds an episode; None: there is none."""
    shares = (percent / 100 for percent in range(5, 100, 5))
    with_each = ((share, replace(request, sampling=replace(request.sampling, share=share))) for share in shares)
    return next((share for share, one in with_each if make_plan(one).engine_over <= 0), None)


def _merge(onto: Request, changed: Request, base: Request) -> Request:
    """Return ``onto`` with what differs between ``changed`` and ``base``."""
    for part in ("training", "sampling"):
        before, after = getattr(base, part), getattr(changed, part)
        fields = {
            name: getattr(after, name) for name in after.__slots__ if getattr(after, name) != getattr(before, name)
        }
        onto = replace(onto, **{part: replace(getattr(onto, part), **fields)})
    return onto


def _cheap(request: Request) -> Iterator[tuple[str, Request]]:
    """Yield changes that cost time only."""
    training, sampling = request.training, request.sampling
    if sampling.share and not sampling.sleeps:
        yield "--sleep", replace(request, sampling=replace(sampling, sleeps=True))
    if not training.checkpointing:
        yield "--gradient-checkpointing", replace(request, training=replace(training, checkpointing=True))
    if training.micro_batch > 1:
        yield "--micro-batch 1", replace(request, training=replace(training, micro_batch=1))
    if training.gpus > 1:
        for stage in range(training.zero + 1, 4):
            yield f"--zero {stage}", replace(request, training=replace(training, zero=stage))


def _single(request: Request) -> Iterator[tuple[str, Request]]:
    """Yield single changes, the least intrusive first."""
    training, sampling = request.training, request.sampling
    yield from _cheap(request)
    if sampling.share:
        for percent in range(90, 5, -5):
            if make_plan(changed := replace(request, sampling=replace(sampling, share=percent / 100))).fits:
                yield f"--vllm-memory {percent / 100:g}", changed
                break
    elif (episodes := _most(lambda n: _fewer(request, n), sampling.episodes - 1)) is not None:
        yield f"--episodes {episodes}", _fewer(request, episodes)
    if not training.lora:
        yield "--lora 16", replace(request, training=replace(training, lora=16))
    for gpus in (2**n for n in range(1, 8)):
        if gpus > training.gpus:
            more = replace(request, training=replace(training, gpus=gpus, zero=3))
            if make_plan(more).fits:
                yield f"--gpus {gpus}" + (" --zero 3" if training.zero < 3 else ""), more
                break
    if (thousands := _most(lambda n: _shorter(request, n), (training.context - 1) // 1024)) is not None:
        yield f"--context {thousands * 1024}", _shorter(request, thousands)


def _fewer(request: Request, episodes: int) -> Request:
    return replace(request, sampling=replace(request.sampling, episodes=episodes))


def _shorter(request: Request, thousands: int) -> Request:
    return replace(request, training=replace(request.training, context=thousands * 1024))


def _most(make: object, most: int) -> int | None:
    """Return the largest number up to ``most`` whose request fits: what is needed grows with it."""
    assert callable(make)
    if most < 1 or not make_plan(make(1)).fits:
        return None
    low, high = 1, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if make_plan(make(middle)).fits else (low, middle - 1)
    return low
