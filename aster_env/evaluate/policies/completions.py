"""A policy behind completions of token ids: what the server sampled is what is recorded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from aster_env.dialects.base import Dialect
from aster_env.endpoints import Endpoint, Refused, Transient, base_url
from aster_env.errors import UsageError
from aster_env.evaluate.policies.base import OpenPolicy, Sampling, within
from aster_env.evaluate.policies.contact import context_of, find_model, make_endpoint, out_of_context, said_context
from aster_env.evaluate.policies.spec import PolicySpec
from aster_env.rollout import Completion, GenerateRequest
from aster_env.tokenizers import as_tokenizer

_NO_IDS = (
    "{subject} gives no token ids with its completions (vLLM's 'return_token_ids'), and text tokenized again is not "
    "what was sampled. Fix: serve the model with vLLM 0.11 or newer, or --policy chat."
)


class CompletionsPolicy:
    """Sends ids to vLLM's ``/v1/completions`` and records the ids that it sampled.

    The sampling is sent whole, so that a model's own defaults (its ``generation_config.json``) change nothing.

    Log-probabilities are kept where they are of the distribution that was sampled from: at temperature 1 and top_p 1,
    or where the server runs with ``--logprobs-mode processed_logprobs``, which it does not tell. Elsewhere they are
    None.

    Args:
        endpoint: where requests go.
        url: of its completions.
        model: the name that it knows.
        sampling: see ``Sampling``.
        end_ids: ids that end a turn.
        context: tokens of the model's context, if known; learned from a refusal otherwise.
        processed: whether the server's log-probabilities are those of sampling.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        url: str,
        model: str,
        sampling: Sampling,
        end_ids: Sequence[int],
        context: int | None = None,
        processed: bool = False,
    ) -> None:
        self._endpoint, self._url, self._model, self._sampling = endpoint, url, model, sampling
        self._end_ids, self._context = sorted(end_ids), context
        self._keeps = processed or sampling.temperature == sampling.top_p == 1

    def attach(self, dialect: Dialect) -> None:
        """Take the environment's ids that end a turn."""
        self._end_ids = sorted(dialect.tokenizer.end_ids)

    async def generate(self, request: GenerateRequest) -> Completion:
        """Ask for one turn.

        Raises:
            PolicyError: no usable reply; the episode is masked.
            UsageError: the endpoint gives no ids, or reads other ids than it was sent.
        """
        for _ in range(2):
            fitting = within(request, self._context)
            if fitting is None:
                break
            try:
                return await self._ask(fitting)
            except Refused as error:
                if not out_of_context(error):
                    raise self._endpoint.failed(str(error)) from error
                said = said_context(error)
                if said is None or len(fitting.ids) + fitting.max_new_tokens <= said:
                    break
                self._context = said
        return Completion((), (), "length")

    async def release(self, episode: str) -> None:
        """Do nothing: the server evicts what is not used."""

    async def close(self) -> None:
        """Close the connections; calling it twice is harmless."""
        await self._endpoint.close()

    async def _ask(self, request: GenerateRequest) -> Completion:
        value = await self._endpoint.ask(self._url, self._body(request), _read_choice)
        choice, usage = value["choices"][0], value.get("usage")
        ids = choice.get("token_ids")
        if ids is None:
            raise UsageError(_NO_IDS.format(subject=self._endpoint.subject))
        read = choice.get("prompt_token_ids")
        if read is not None and read != list(request.ids):
            raise UsageError(
                f"{self._endpoint.subject} read {len(read)} ids for a prompt of {len(request.ids)}: it changes what it "
                "is sent. Fix: serve the model without a prefix of its own, or --policy chat."
            )
        if len(ids) > request.max_new_tokens:
            raise self._endpoint.failed(f"it gave {len(ids)} ids where {request.max_new_tokens} were allowed")
        logprobs = self._logprobs(choice, len(ids)) if self._keeps else None
        counts = {"prompt_tokens": len(request.ids), "completion_tokens": len(ids)}
        if isinstance(usage, dict):
            counts |= {name: usage[name] for name in counts if type(usage.get(name)) is int and usage[name] >= 0}
        finish = choice.get("finish_reason")
        return Completion(tuple(ids), logprobs, "length" if finish == "length" else "stop", counts)

    def _body(self, request: GenerateRequest) -> dict[str, Any]:
        sampling = self._sampling
        return {
            "model": self._model,
            "prompt": list(request.ids),
            "max_tokens": request.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "seed": sampling.seed_of(request),
            "stop": list(request.stop),
            "include_stop_str_in_output": True,
            "stop_token_ids": self._end_ids,
            # Stop strings are often special tokens, and the text is searched as the tokenizer here writes it.
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
            "add_special_tokens": False,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
        } | ({"logprobs": 0} if self._keeps else {})

    def _logprobs(self, choice: Mapping[str, Any], count: int) -> tuple[float, ...] | None:
        given = choice.get("logprobs")
        values = given.get("token_logprobs") if isinstance(given, dict) else None
        if not isinstance(values, list) or len(values) != count:
            return None
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        return tuple(float(v) for v in values) if numbers else None


async def open_completions(spec: PolicySpec, sampling: Sampling) -> OpenPolicy:
    """Contact an endpoint of completions, and sample one token to see that it gives ids.

    Raises:
        UsageError: it refuses the key, does not know the model, or gives no ids.
        PolicyError: it cannot be reached.
    """
    tokenizer = as_tokenizer(spec.tokenizer)
    endpoint, base = make_endpoint(spec), base_url(spec.url)
    try:
        model = await find_model(spec, endpoint)
        processed = bool(spec.options.get("processed_logprobs"))
        context = context_of(model)
        ends = sorted(tokenizer.end_ids)
        policy = CompletionsPolicy(
            endpoint, f"{base}/completions", model["id"], sampling, ends, context=context, processed=processed
        )
        try:
            await policy._ask(GenerateRequest(tuple(tokenizer.encode("1")), 1))
        except Refused as error:
            raise UsageError(f"{endpoint.subject} takes no completions of token ids: {error}") from error
    except BaseException:
        await endpoint.close()
        raise
    described = {
        "kind": "completions",
        "model": model["id"],
        "url": base,
        "endpoint": {k: model[k] for k in ("owned_by", "root", "max_model_len") if k in model},
        "tokenizer": spec.tokenizer,
        "logprobs": "of the sampled distribution" if policy._keeps else "left out: temperature or top_p is not 1",
    }
    return OpenPolicy(policy, tokenizer, described, False, policy.attach, policy.close)


def _read_choice(text: str) -> dict[str, Any]:
    """Return a reply whose first choice is one, its ids whole numbers if it has any; raise ``Transient`` otherwise."""
    try:
        value = json.loads(text)
        choice = value["choices"][0]
        finish = choice.get("finish_reason")
        lists = [choice[name] for name in ("token_ids", "prompt_token_ids") if choice.get(name) is not None]
        whole = all(type(i) is int for ids in lists for i in ids)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise Transient("the reply is no completion", said=text) from error
    if not whole or finish not in ("stop", "length"):
        raise Transient("the ids are not whole numbers, or this finish_reason is no end of a turn", said=finish)
    return value
