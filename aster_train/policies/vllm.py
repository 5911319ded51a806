"""VLLMPolicy: one coroutine an episode on an engine in this process; requests join and leave it at every step."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable
from typing import Any

from aster_env.errors import PolicyError, UsageError
from aster_env.rollout import Completion, GenerateRequest
from aster_env.tokenizers import Tokenizer

_NAMES = itertools.count()
"""Of requests: several policies may use one engine."""


class VLLMPolicy:
    """Serves each request on its own, so that no episode waits for another.

    A request is added to the engine as it comes, with what is left of its episode's budget, and its turn ends at the
    token that completes a stop string. The engine's prefix cache holds an episode's earlier turns: an observation is
    all that is computed anew. Ids go in and ids come out; text is only looked at for stop strings.

    The engine steps on the event loop's own thread (CUDA's current device belongs to a thread), and the loop runs
    between steps: what a tool says meanwhile could not have joined the batch any sooner.

    Nothing here waits for another process: under DeepSpeed or DDP each has an engine of its own, and the weights, which
    take collective calls to gather, are brought to it before an episode begins.

    Args:
        llm: a ``vllm.LLM`` with ``logprobs_mode="processed_logprobs"``, in this process.
        tokenizer: names the ids that end a turn.
        temperature: 0 is greedy.
        top_p: nucleus sampling.
        seed: with a request's own seed and its length, seeds its sampling.

    Attributes:
        seconds: in which the engine has worked so far.

    Raises:
        UsageError: the engine runs in another process, or speaks of other probabilities than the sampled ones.
    """

    def __init__(
        self, llm: Any, tokenizer: Tokenizer, *, temperature: float = 1.0, top_p: float = 1.0, seed: int = 0
    ) -> None:
        self.llm, self.engine, self.tokenizer = llm, llm.llm_engine, tokenizer
        self.temperature, self.top_p, self.seed = temperature, top_p, seed
        if not hasattr(self.engine, "model_executor"):
            raise UsageError(
                "This vLLM engine runs in a process of its own, which no weights can be brought to. "
                "Fix: set VLLM_ENABLE_V1_MULTIPROCESSING=0 before it is made."
            )
        mode = self.engine.model_config.logprobs_mode
        if mode != "processed_logprobs":
            raise UsageError(f"logprobs_mode={mode!r} is not allowed. Allowed: 'processed_logprobs', sampling's own.")
        self._max_length: int = self.engine.model_config.max_model_len
        self.seconds = 0.0
        self._waiting: dict[str, asyncio.Future[Any]] = {}
        self._driver: asyncio.Task[None] | None = None

    async def generate(self, request: GenerateRequest) -> Completion:
        """Sample one turn.

        Raises:
            PolicyError: the engine failed, or the request is longer than its context.
        """
        room = self._max_length - len(request.ids)
        if request.max_new_tokens > room:
            raise PolicyError(
                f"A request of {len(request.ids)} + {request.max_new_tokens} tokens does not fit the engine's context "
                f"of {self._max_length}. Fix: train.vllm_max_model_length."
            )
        if request.max_new_tokens < 1:
            return Completion((), (), "length")
        name = str(next(_NAMES))
        try:
            self._timed(self.engine.add_request, name, {"prompt_token_ids": list(request.ids)}, self._sampling(request))
        except Exception as error:
            raise PolicyError(f"The vLLM engine refused a request: {type(error).__name__}: {error}") from error
        future = self._waiting[name] = asyncio.get_running_loop().create_future()
        if self._driver is None or self._driver.done():
            self._driver = asyncio.create_task(self._drive())
        try:
            return _completion(await future)
        finally:
            if self._waiting.pop(name, None) is not None:
                with contextlib.suppress(Exception):  # of an engine that has failed, which is what is to be said
                    self.engine.abort_request([name])

    async def release(self, episode: str) -> None:
        """Do nothing: the engine evicts what is not used, and a request that is cancelled is aborted."""

    def close(self) -> None:
        """End the engine; calling it twice is harmless."""
        self.engine.engine_core.shutdown()

    def _sampling(self, request: GenerateRequest) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        mixed = (request.seed * 0x9E3779B1 + self.seed * 0x85EBCA77 + len(request.ids)) % 2**63
        return SamplingParams(
            temperature=self.temperature,
            top_p=self.top_p,
            seed=mixed,
            max_tokens=request.max_new_tokens,
            stop=list(request.stop) or None,
            include_stop_str_in_output=True,
            stop_token_ids=sorted(self.tokenizer.end_ids),
            logprobs=0,
            # Stop strings are often special tokens, and the text is searched as the tokenizer here writes it.
            skip_special_tokens=False,
            spaces_between_special_tokens=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _timed(self, call: Callable[..., Any], *arguments: Any) -> Any:
        started = time.perf_counter()
        try:
            return call(*arguments)
        finally:
            self.seconds += time.perf_counter() - started

    async def _drive(self) -> None:
        """Step while a request waits."""
        try:
            while self._waiting:
                for output in self._timed(self.engine.step):  # those alone that have ended, as asked for
                    future = self._waiting.pop(output.request_id, None)
                    if future is not None and not future.done():
                        future.set_result(output)
                # Handed over and answered: a tool's reply may be there already, and its episode joins the next step.
                await asyncio.sleep(0)
        except Exception as error:  # noqa: BLE001 (whatever an engine raises must reach every waiting episode, not vanish in a task)
            failure = PolicyError(f"The vLLM engine failed: {type(error).__name__}: {error}")
            failure.__cause__ = error
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(failure)


def _completion(output: Any) -> Completion:
    (sampled,) = output.outputs
    ids = tuple(sampled.token_ids)
    logprobs = tuple(float(at[token].logprob) for token, at in zip(ids, sampled.logprobs, strict=True))
    return Completion(ids, logprobs, "length" if sampled.finish_reason == "length" else "stop")
