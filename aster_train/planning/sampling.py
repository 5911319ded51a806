"""What sampling takes on a GPU, and what episodes take on their host."""

from __future__ import annotations

import math
from dataclasses import dataclass

from aster_train.planning.memory import GiB, Line, Term, Training, line
from aster_train.planning.model import Shape

PAGE = 16
"""Tokens of a block of vLLM's cache on a GPU."""
BLOCK = 64
"""Tokens of a block of ``HFPolicy``'s cache; a test compares it with ``policies/cache.py``."""
CHUNK = 8192
"""Tokens that ``HFPolicy`` feeds at once, over all episodes; likewise."""
ENGINE_TOKENS = 4096
"""``max_num_batched_tokens`` of the engine that TRL makes."""
SESSION = 3_870_000
"""Bytes of an idle session of the pool 'zygote': in ``benchmarks/results/kernels.json``, 3,998 MB for 1,003 sessions,
less their fork server's; 3.77 MB of it are shared with no other process."""
SERVER = 119_000_000
"""Bytes of a fork server and its keeper, with what the sessions share with it."""
SERVERS = 8
"""Fork servers of a pool, at most: one for four processors."""
SESSION_LIMIT = 1024 << 20
"""Bytes that one session may allocate: ``memory`` of the pool 'zygote'."""
TOKEN = 100
"""Bytes of a token in a Trajectory: Python's numbers, a few tuples and lists of them."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Who plays the assistant.

    Args:
        share: of the GPU's memory for vLLM's engine (``vllm_gpu_memory_utilization``); 0: ``HFPolicy`` samples.
        sleeps: the engine's memory is free during the update (``vllm_enable_sleep_mode``).
        episodes: that live at once on a GPU.
        rows: episodes that are served at once.
        cache_tokens: of ``HFPolicy``'s cache; 0: as many as its default or one episode, whichever is more.
    """

    share: float = 0.3
    sleeps: bool = False
    episodes: int = 64
    rows: int = 64
    cache_tokens: int = 0


def engine_token(shape: Shape) -> tuple[tuple[int, str], ...]:
    """Return the factors of a token's keys and values in vLLM's cache, in bf16 (``FullAttentionSpec``)."""
    return (
        (2, "keys and values"),
        (shape.layers, "layers"),
        (shape.kv_heads, "heads"),
        (shape.head_dim, "wide"),
        (2, "B"),
    )


def engine_episode(shape: Shape, context: int) -> Line:
    """An episode's keys and values in vLLM's cache, in whole blocks."""
    return line("an episode's cache", (_whole(context, PAGE), "tokens"), *engine_token(shape))


def engine_lines(shape: Shape, context: int, sampling: Sampling) -> list[Line]:
    """What vLLM's engine needs for one episode at a time: its own weights in bf16, its work, and a cache."""
    logits = Term(((sampling.rows, "episodes"), (shape.vocabulary, "logits"), (8, "B")))
    work = Term(((ENGINE_TOKENS, "tokens"), (4 * shape.hidden + 3 * shape.feedforward, "wide"), (2, "B")))
    return [
        line("engine's weights", (shape.parameters, "parameters"), (2, "B")),
        Line("engine's work", (logits, work, Term(((GiB, "B of CUDA graphs"),))), "an allowance", measured=False),
        engine_episode(shape, context),
    ]


def engine_room(shape: Shape, context: int, sampling: Sampling, memory: int) -> int:
    """Return how many episodes of full length the engine's cache holds at once."""
    weights, work, episode = engine_lines(shape, context, sampling)
    return max(0, (int(sampling.share * memory) - weights.bytes - work.bytes) // episode.bytes)


def cache_tokens(context: int, sampling: Sampling) -> int:
    """Return the tokens that ``HFPolicy``'s cache may grow to."""
    most = sampling.cache_tokens or max(65536, _whole(context, BLOCK))
    return min(most // BLOCK + 1, sampling.episodes * -(-context // BLOCK) + 1) * BLOCK


def cache_token(training: Training) -> int:
    """Return the bytes of a key and a value element: under autocast keys stay in fp32, the rotary embedding's type."""
    return {"fp32": 8, "autocast": 6, "bf16": 4}[training.mode]


def policy_lines(shape: Shape, training: Training, sampling: Sampling) -> list[Line]:
    """What ``HFPolicy`` holds beside the trainer's weights while episodes are played."""
    heads = (shape.kv_heads, "heads"), (shape.head_dim, "wide"), (cache_token(training), "B (a key and a value)")
    note = "max_cache_tokens, or what all episodes need if that is less"
    tokens = cache_tokens(training.context, sampling)
    made = [line("cache", (tokens, "tokens"), (shape.layers, "layers"), *heads, note=note)]
    if training.zero == 3:
        made.append(line("gathered weights", (shape.parameters, "parameters"), (training.weight, "B"), measured=False))
    return made


def policy_steps(shape: Shape, training: Training, sampling: Sampling) -> list[Line]:
    """What a forward pass of ``HFPolicy`` takes: a decoding step, or a chunk of an episode that is fed again.

    A decoding step copies the keys and values of its rows, each as long as the longest, layer by layer, repeats them
    for the query heads, and under autocast casts the keys. A chunk needs a mask, made of two others.
    """
    element, rows = cache_token(training), min(sampling.rows, sampling.episodes)
    wide = element * (shape.keys + (shape.queries if shape.heads > shape.kv_heads else 0))
    wide += 2 * shape.queries if training.mode == "autocast" else 0
    decode = (rows, "rows"), (training.context, "tokens"), (wide, "B in a layer")
    chunk = (min(CHUNK, training.context), "tokens"), (training.context, "tokens"), (1 + 2 * training.weight, "B")
    return [
        line("a decoding step", *decode, note="if one row has the full length, all are as long"),
        line("the masks of a chunk", *chunk, measured=False),
    ]


def host_lines(training: Training, sampling: Sampling, per_host: int) -> list[Line]:
    """What the episodes of a host's processes take of its memory, beside what their code computes with."""
    episodes = (sampling.episodes * per_host, "episodes")
    note = "at most, one for four processors; each has numpy, sympy and scipy loaded"
    servers = line("fork servers", (per_host, "processes"), (SERVERS, "servers"), (SERVER, "B"), note=note)
    return [
        line("sessions, idle", episodes, (SESSION, "B"), note="benchmarks/results/kernels.json"),
        servers,
        line("trajectories", episodes, (training.context, "tokens"), (TOKEN, "B")),
    ]


def host_ceiling(sampling: Sampling, per_host: int) -> Line:
    """What the model's code may allocate at most before its sessions are stopped, if nothing else bounds it."""
    return line("sessions, at their limit", (sampling.episodes * per_host, "episodes"), (SESSION_LIMIT, "B"),
                note="together never more than 80 % of the machine, where control groups are writable",
                measured=False)  # fmt: skip


def _whole(tokens: int, block: int) -> int:
    return math.ceil(tokens / block) * block
