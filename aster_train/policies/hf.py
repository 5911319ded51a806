"""HFPolicy: a ``transformers`` model that serves whatever requests are waiting, token by token."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from aster_env.errors import PolicyError, UsageError, check_name
from aster_env.rollout import Completion, GenerateRequest
from aster_env.tokenizers import Tokenizer
from aster_train.policies.cache import BLOCK, BlockCache
from aster_train.policies.sampling import sample, uniforms
from aster_train.policies.schedule import Row, Schedule

_PREFILL_FROM = 24
"""From so many waiting tokens on a row is fed in chunks; fewer are fed one a step beside the sampled ones."""
_CHUNK = 8192
"""Tokens of a chunk, over all rows: what bounds a forward pass's own memory."""
ATTENTION = ("sdpa", "eager")
"""Implementations of attention that take a mask of any shape."""
OPTIONS: Mapping[str, int] = {"max_batch": 64, "max_cache_tokens": 65536}
"""What ``policy_kwargs`` may hold, and the defaults."""


class HFPolicy:
    """Continuous batching over a causal language model with full attention.

    Every forward step serves all requests that are there; between steps the event loop runs, so that tools and other
    episodes go on. An episode keeps its key/value cache from turn to turn, and an observation is all that is fed.

    Args:
        model: a ``transformers`` causal language model; weights may change between rollouts (call ``reset``).
        tokenizer: decodes stop strings, and names the ids that end a turn.
        temperature: 0 is greedy.
        top_p: nucleus sampling.
        max_batch: episodes served at once; more wait for a place.
        max_cache_tokens: tokens whose keys and values are kept, over all episodes: the bound of the cache's memory.
            Requests wait for it; an episode longer than it fails.
        seed: with a request's own seed and the position, decides each sample, whoever else is in the batch.

    Attributes:
        steps: forward passes so far.
        seconds: that they took.

    Raises:
        UsageError: the model has sliding-window or recurrent layers or an attention that takes no mask, or an argument
            is not allowed.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_batch: int = OPTIONS["max_batch"],
        max_cache_tokens: int = OPTIONS["max_cache_tokens"],
        seed: int = 0,
    ) -> None:
        if temperature < 0 or not 0 < top_p <= 1:
            raise UsageError(
                f"temperature={temperature}, top_p={top_p} is not allowed. Allowed: temperature >= 0, 0 < top_p <= 1."
            )
        check_options({"max_batch": max_batch, "max_cache_tokens": max_cache_tokens})
        check_model(model.config.get_text_config())
        self.model, self.tokenizer = model, tokenizer
        self.temperature, self.top_p, self.seed = temperature, top_p, seed
        self.steps, self.seconds = 0, 0.0
        self._blocks = max_cache_tokens // BLOCK
        self._schedule = Schedule(max_batch, self._blocks)
        self._cache = BlockCache(self._blocks)
        self._driver: asyncio.Task[None] | None = None
        self._can_stop: dict[tuple[int, tuple[str, ...]], bool] = {}
        self._unnamed = 0

    async def generate(self, request: GenerateRequest) -> Completion:
        """Sample one turn.

        Raises:
            PolicyError: the model's forward pass failed, or the episode is longer than the cache.
        """
        if request.max_new_tokens < 1:
            return Completion((), (), "length")
        self._unnamed += not request.episode
        episode = request.episode or f"#{self._unnamed}"
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._schedule.queue.append(Row(episode, list(request.ids), request, future))
        if self._driver is None or self._driver.done():
            self._driver = asyncio.create_task(self._drive())
        try:
            return await future
        finally:
            if not request.episode:
                await self.release(episode)

    async def release(self, episode: str) -> None:
        """Free the episode's memory; unknown names are ignored."""
        row = self._schedule.release(episode)
        if row is not None and row.future is not None and not row.future.done():
            row.future.cancel()

    def reset(self) -> None:
        """Forget every cached key and value, and free their memory; call it after each update of the weights."""
        self._schedule.clear()
        self._cache = BlockCache(self._blocks)

    async def _drive(self) -> None:
        """Step while there is a request; the loop runs between steps."""
        try:
            while live := self._schedule.admit():
                started = time.perf_counter()
                with _inference(self.model):
                    self._step(live)
                self.seconds += time.perf_counter() - started
                await asyncio.sleep(0)
        except Exception as error:  # noqa: BLE001 (whatever a model raises must reach every waiting episode, not vanish in a task)
            failure = PolicyError(f"The model's forward pass failed: {type(error).__name__}: {error}")
            failure.__cause__ = error
            waiting = [*self._schedule.live, *self._schedule.queue]
            self._schedule.queue.clear()
            self.reset()
            for row in waiting:
                if row.future is not None and not row.future.done():
                    row.future.set_exception(failure)

    def _step(self, live: Sequence[Row]) -> None:
        """Feed waiting ids, and sample where a row's last id was fed."""
        chunked = [row for row in live if row.waiting >= _PREFILL_FROM]
        rows = chunked or live
        width = min(max(row.waiting for row in rows), max(1, _CHUNK // len(rows))) if chunked else 1
        fed = self._schedule.secure(rows, [min(row.waiting, width) for row in rows])
        if not fed:
            return
        rows, counts = [row for row, _ in fed], [count for _, count in fed]
        logits = self._forward(rows, counts, width)
        for row, count in fed:
            row.fed += count
        ready = [n for n, row in enumerate(rows) if row.waiting == 0]
        if ready:
            chosen = [rows[n] for n in ready]
            self._sample(chosen, logits if len(ready) == len(rows) else logits[ready])
        self.steps += 1

    def _forward(self, rows: Sequence[Row], counts: list[int], width: int) -> torch.Tensor:
        """Feed ``counts[b]`` ids of each row, right-aligned in ``width`` columns; return the last logits, (B, V)."""
        device = self.model.device
        fed = np.array([row.fed for row in rows])
        length = int((fed + counts).max())
        table = np.zeros((len(rows), -(-length // BLOCK)), dtype=np.int64)
        ids = np.zeros((len(rows), width), dtype=np.int64)
        for n, (row, count) in enumerate(zip(rows, counts, strict=True)):
            blocks = row.blocks[: table.shape[1]]
            table[n, : len(blocks)] = blocks
            ids[n, width - count :] = row.ids[row.fed : row.fed + count]
        position = fed[:, None] + np.arange(width)[None] - (width - np.array(counts)[:, None])
        real = position >= fed[:, None]
        position = np.where(real, position, 0)
        write = np.take_along_axis(table, position // BLOCK, axis=1) * BLOCK + position % BLOCK
        write = np.where(real, write, 0)
        self._cache.select(
            torch.from_numpy(table).to(device), torch.from_numpy(write).to(device), length, int(table.max())
        )
        positions = torch.from_numpy(position).to(device)
        hidden = torch.arange(length, device=device) > positions[:, :, None]
        # Added to the scores, as eager attention does it; where others only ask whether, this says the same.
        mask = torch.zeros(hidden.shape, dtype=self.model.dtype, device=device)
        mask = mask.masked_fill(hidden, torch.finfo(mask.dtype).min)[:, None]
        output = self.model(
            input_ids=torch.from_numpy(ids).to(device),
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def _sample(self, rows: Sequence[Row], logits: torch.Tensor) -> None:
        seeds = np.array([row.request.seed if row.request else 0 for row in rows], dtype=np.uint64)
        places = np.array([len(row.ids) for row in rows], dtype=np.uint64)
        with np.errstate(over="ignore"):
            seeds = seeds * np.uint64(0x9E3779B1) + np.uint64(self.seed)
        uniform = torch.from_numpy(uniforms(seeds, places)).to(logits.device)
        # Models pad their vocabulary; what stands for no token is not sampled.
        ids, logprobs = sample(logits[:, : self.tokenizer.vocab_size], uniform, self.temperature, self.top_p)
        for row, token, logprob in zip(rows, ids.tolist(), logprobs.tolist(), strict=True):
            row.ids.append(token)
            row.sampled.append(token)
            row.logprobs.append(logprob)
            self._finish(row)

    def _finish(self, row: Row) -> None:
        """Resolve the row's request if its turn is over."""
        request, future = row.request, row.future
        assert request is not None
        assert future is not None
        stopped = row.sampled[-1] in self.tokenizer.end_ids or self._stops(row.sampled, request.stop)
        if not stopped and len(row.sampled) < request.max_new_tokens:
            return
        self._schedule.finish(row)
        if not future.done():
            finish = "stop" if stopped else "length"
            future.set_result(Completion(tuple(row.sampled), tuple(row.logprobs), finish))  # type: ignore[arg-type]

    def _stops(self, sampled: list[int], stop: tuple[str, ...]) -> bool:
        """Whether the last token completes a stop string."""
        key = (sampled[-1], stop)
        if key not in self._can_stop:
            text = self.tokenizer.decode(sampled[-1:])
            self._can_stop[key] = any(s[-1] in text for s in stop)
        if not self._can_stop[key]:
            return False
        longest = max(len(s.encode()) for s in stop)
        tail = self.tokenizer.decode(sampled[-longest:])
        return any(s in tail for s in stop)


def check_options(options: Mapping[str, Any]) -> None:
    """Raise ``UsageError`` for options of the policy that are not allowed; no model is needed to say so."""
    for name, value in options.items():
        if name in ("temperature", "top_p", "seed"):
            raise UsageError(
                f"policy_kwargs: {name!r} is not allowed, for the loss must know the distribution that was sampled. "
                f"Fix: train.{name}, which serves both."
            )
        check_name("key of 'policy_kwargs'", name, OPTIONS)
        least = BLOCK if name == "max_cache_tokens" else 1
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UsageError(f"{name}={value!r} is not allowed. Allowed: an integer of at least {least}.")


def check_model(config: Any) -> None:
    """Raise ``UsageError`` if a model of this text configuration cannot be served."""
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        raise UsageError(
            f"HFPolicy keeps a cache for full attention, and this model has {', '.join(sorted(kinds))} layers. "
            "Fix: train a model all of whose layers have full attention."
        )
    attention = getattr(config, "_attn_implementation", None) or ATTENTION[0]
    if attention not in ATTENTION:
        raise UsageError(
            f"attn_implementation={attention!r} takes no mask for episodes of different lengths. "
            f"Allowed: {', '.join(map(repr, ATTENTION))}. Fix: train.model_init_kwargs.attn_implementation."
        )


@contextmanager
def _inference(model: Any) -> Iterator[None]:
    """Run without gradients and without dropout; restore training mode afterwards."""
    training = model.training
    if training:
        model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        if training:
            model.train()
