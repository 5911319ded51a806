"""HFPolicy: a ``transformers`` model that serves whatever requests are waiting, token by token."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from aster_env.errors import PolicyError, UsageError
from aster_env.rollout import Completion, GenerateRequest
from aster_env.tokenizers import Tokenizer
from aster_train.policies.cache import SlotCache
from aster_train.policies.sampling import sample, uniforms

_PREFILL_FROM = 24
"""From so many waiting tokens on a row is fed in one chunk; fewer are fed one a step beside the sampled ones."""


@dataclass(eq=False, slots=True)
class _Row:
    """An episode's slot: the ids known, and how many of them the cache holds."""

    slot: int
    ids: list[int] = field(default_factory=list)
    fed: int = 0
    request: GenerateRequest | None = None
    future: asyncio.Future[Completion] | None = None
    sampled: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    @property
    def waiting(self) -> int:
        """Ids that the cache does not hold yet."""
        return len(self.ids) - self.fed


class HFPolicy:
    """Continuous batching over a causal language model with full attention.

    Every forward step serves all requests that are there; between steps the event loop runs, so that tools and other
    episodes go on. An episode keeps its key/value cache from turn to turn, and an observation is all that is fed.

    Args:
        model: a ``transformers`` causal language model; weights may change between rollouts (call ``reset``).
        tokenizer: decodes stop strings, and names the ids that end a turn.
        temperature: 0 is greedy.
        top_p: nucleus sampling.
        max_batch: episodes whose cache is kept; more wait for a place.
        seed: with a request's own seed and the position, decides each sample, whoever else is in the batch.

    Raises:
        UsageError: the model has sliding-window or recurrent layers, or an argument is not allowed.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_batch: int = 64,
        seed: int = 0,
    ) -> None:
        if temperature < 0 or not 0 < top_p <= 1 or max_batch < 1:
            raise UsageError(
                f"temperature={temperature}, top_p={top_p}, max_batch={max_batch} is not allowed. "
                "Allowed: temperature >= 0, 0 < top_p <= 1, max_batch >= 1."
            )
        config = model.config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        if kinds != {"full_attention"}:
            raise UsageError(
                f"HFPolicy keeps a cache for full attention, and this model has {', '.join(sorted(kinds))} layers. "
                "Fix: use the vLLM policy for it."
            )
        self.model, self.tokenizer = model, tokenizer
        self.temperature, self.top_p, self.seed = temperature, top_p, seed
        self.steps = 0
        self._config, self._max_batch = config, max_batch
        self._rows: dict[str, _Row] = {}
        self._free = list(range(max_batch))[::-1]
        self._queue: deque[tuple[GenerateRequest, asyncio.Future[Completion]]] = deque()
        self._cache: SlotCache | None = None
        self._driver: asyncio.Task[None] | None = None
        self._can_stop: dict[tuple[int, tuple[str, ...]], bool] = {}

    async def generate(self, request: GenerateRequest) -> Completion:
        """Sample one turn.

        Raises:
            PolicyError: the model's forward pass failed.
        """
        if request.max_new_tokens < 1:
            return Completion((), (), "length")
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._queue.append((request, future))
        if self._driver is None or self._driver.done():
            self._driver = asyncio.create_task(self._drive())
        return await future

    async def release(self, episode: str) -> None:
        """Free the episode's slot; unknown names are ignored."""
        row = self._rows.pop(episode, None)
        if row is not None:
            self._free.append(row.slot)
            if row.future is not None and not row.future.done():
                row.future.cancel()

    def reset(self) -> None:
        """Forget every cached key and value; call it after each update of the weights."""
        self._rows.clear()
        self._free = list(range(self._max_batch))[::-1]
        self._cache = None

    async def _drive(self) -> None:
        """Step while there is a request; the loop runs between steps."""
        try:
            while True:
                self._admit()
                live = [row for row in self._rows.values() if row.request is not None]
                if not live:
                    return
                with _inference(self.model):
                    self._step(live)
                await asyncio.sleep(0)
        except Exception as error:  # noqa: BLE001 (whatever a model raises must reach every waiting episode, not vanish in a task)
            failure = PolicyError(f"The model's forward pass failed: {type(error).__name__}: {error}")
            failure.__cause__ = error
            waiting = [row.future for row in self._rows.values()] + [future for _, future in self._queue]
            self._queue.clear()
            self.reset()
            for future in waiting:
                if future is not None and not future.done():
                    future.set_exception(failure)

    def _admit(self) -> None:
        """Give waiting requests their slots; cancelled ones are dropped."""
        for row in self._rows.values():
            if row.future is not None and row.future.cancelled():
                row.request = row.future = None
        while self._queue:
            request, future = self._queue[0]
            if future.cancelled():
                self._queue.popleft()
                continue
            if request.episode not in self._rows:
                if not self._free and not self._evict():
                    return
                self._rows[request.episode] = _Row(self._free.pop())
            row = self._rows[request.episode]
            self._queue.popleft()
            ids = list(request.ids)
            if row.ids[: row.fed] != ids[: row.fed] or row.fed >= len(ids):
                row.fed = 0
            row.ids, row.sampled, row.logprobs, row.request, row.future = ids, [], [], request, future

    def _evict(self) -> bool:
        """Free the slot of the idle episode that was served longest ago."""
        for episode, row in self._rows.items():
            if row.request is None:
                self._free.append(self._rows.pop(episode).slot)
                return True
        return False

    def _step(self, live: Sequence[_Row]) -> None:
        """Feed waiting ids, and sample where a row's last id was fed."""
        chunked = [row for row in live if row.waiting >= _PREFILL_FROM]
        rows = chunked or live
        width = max(row.waiting for row in rows) if chunked else 1
        counts = [min(row.waiting, width) for row in rows]
        logits = self._forward(rows, counts, width)
        for row, count in zip(rows, counts, strict=True):
            row.fed += count
        ready = [n for n, row in enumerate(rows) if row.waiting == 0]
        if ready:
            chosen = [rows[n] for n in ready]
            self._sample(chosen, logits if len(ready) == len(rows) else logits[ready])
        self.steps += 1

    def _forward(self, rows: Sequence[_Row], counts: list[int], width: int) -> torch.Tensor:
        """Feed ``counts[b]`` ids of each row, right-aligned in ``width`` columns; return the last logits, (B, V)."""
        device = self.model.device
        if self._cache is None:
            self._cache = SlotCache(self._config, self._max_batch, self.model.dtype, device)
        fed = np.array([row.fed for row in rows])
        length = int((fed + counts).max())
        self._cache.reserve(length)
        ids = np.zeros((len(rows), width), dtype=np.int64)
        for n, (row, count) in enumerate(zip(rows, counts, strict=True)):
            ids[n, width - count :] = row.ids[row.fed : row.fed + count]
        position = fed[:, None] + np.arange(width)[None] - (width - np.array(counts)[:, None])
        real = position >= fed[:, None]
        write = np.where(real, position, self._cache.capacity - 1)
        position = np.where(real, position, 0)
        slots = [row.slot for row in rows]
        whole = slots == list(range(len(rows)))
        self._cache.select(
            None if whole else torch.tensor(slots, device=device), torch.from_numpy(write).to(device), length
        )
        positions = torch.from_numpy(position).to(device)
        mask = (torch.arange(length, device=device) <= positions[:, :, None])[:, None]
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

    def _sample(self, rows: Sequence[_Row], logits: torch.Tensor) -> None:
        seeds = np.array([row.request.seed if row.request else 0 for row in rows], dtype=np.uint64)
        places = np.array([len(row.ids) for row in rows], dtype=np.uint64)
        with np.errstate(over="ignore"):
            seeds = seeds * np.uint64(0x9E3779B1) + np.uint64(self.seed)
        uniform = torch.from_numpy(uniforms(seeds, places)).to(logits.device)
        ids, logprobs = sample(logits, uniform, self.temperature, self.top_p)
        for row, token, logprob in zip(rows, ids.tolist(), logprobs.tolist(), strict=True):
            row.ids.append(token)
            row.sampled.append(token)
            row.logprobs.append(logprob)
            self._finish(row)

    def _finish(self, row: _Row) -> None:
        """Resolve the row's request if its turn is over."""
        request, future = row.request, row.future
        assert request is not None
        assert future is not None
        stopped = row.sampled[-1] in self.tokenizer.end_ids or self._stops(row.sampled, request.stop)
        if not stopped and len(row.sampled) < request.max_new_tokens:
            return
        row.request = row.future = None
        # Served last: the order of the dictionary is the order of eviction.
        self._rows[request.episode] = self._rows.pop(request.episode)
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
