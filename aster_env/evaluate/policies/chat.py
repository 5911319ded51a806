"""A policy behind OpenAI-compatible chat completions, with the endpoint's native tool calls."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from aster_env.dialects.base import Dialect
from aster_env.endpoints import Endpoint, Refused, base_url
from aster_env.errors import UsageError
from aster_env.evaluate.policies.base import OpenPolicy, Sampling
from aster_env.evaluate.policies.chat_reply import Reply, read_reply
from aster_env.evaluate.policies.contact import (
    find_model,
    knows_no_tools,
    make_endpoint,
    out_of_context,
    refused_parameter,
)
from aster_env.evaluate.policies.spec import PolicySpec
from aster_env.evaluate.policies.writing import encode_turn, write_call
from aster_env.rollout import Completion, GenerateRequest
from aster_env.tokenizers import ByteTokenizer
from aster_env.types import Message

ONLY_FIRST = "Error: only the first call of a turn is run; this one was not. Make one call a turn."
"""What the model reads as the result of every further call of a turn."""
_CAPS = ("max_completion_tokens", "max_tokens", "")
"""How a server calls the most tokens of a reply; some know one name alone, and some refuse the number."""
_REASONING = ("reasoning_content", "reasoning")
_OFF = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
"""What would change the sampling by a model's own defaults: sent as "off" to servers that know it."""


@dataclass(slots=True)
class _Talk:
    """An episode as the endpoint is told it.

    Args:
        history: the messages in the endpoint's own form.
        seen: how many of the environment's messages are in it.
        waiting: ids of calls without a result.
        used: tokens so far.
        last: tokens of the last request and its reply.
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    seen: int = 0
    waiting: tuple[str, ...] = ()
    used: int = 0
    last: int = 0

    def hear(self, messages: Sequence[Message]) -> None:
        """Add what the environment said since the last request."""
        new = messages[self.seen :]
        if self.seen:
            # The model's own turns are in the history, as the endpoint gave them.
            new = [message for message in new if message.role != "assistant"]
        for message in new:
            role = "user" if message.role == "tool" else message.role
            if message.role == "tool" and self.waiting:
                first, *others = self.waiting
                self.history.append({"role": "tool", "tool_call_id": first, "content": message.content})
                self.history += [{"role": "tool", "tool_call_id": name, "content": ONLY_FIRST} for name in others]
                self.waiting = ()
            else:
                self.history.append({"role": role, "content": message.content})
        self.seen = len(messages)


class ChatPolicy:
    """Plays through chat completions; each turn is written in the environment's dialect.

    An episode's history is the endpoint's own: its assistant messages come back to it as they were (reasoning
    included, if it gave any), and results as messages of the role ``tool``. Arguments that are no JSON object come
    back inside one, for servers parse what they are sent.

    The endpoint's usage counts an episode's tokens: what a prompt grew by, and the completion. When ``max_tokens`` of
    the sampling, or the model's context, is used up, the episode ends by its length.

    Args:
        endpoint: where requests go.
        url: of its chat completions.
        model: the name that it knows.
        sampling: ``seed`` is left out where the endpoint refuses it.
        described: is told what had to be left out, and whether tokens had to be estimated.
    """

    def __init__(
        self, endpoint: Endpoint, url: str, model: str, sampling: Sampling, described: dict[str, Any] | None = None
    ) -> None:
        self._endpoint, self._url, self._model, self._sampling = endpoint, url, model, sampling
        self._described: dict[str, Any] = {} if described is None else described
        self._dialect: Dialect | None = None
        self._talks: dict[str, _Talk] = {}
        self._dropped: set[str] = set()

    def attach(self, dialect: Dialect) -> None:
        """Say in which dialect turns are written."""
        self._dialect = dialect

    async def generate(self, request: GenerateRequest) -> Completion:
        """Ask for one turn.

        Raises:
            PolicyError: no usable reply; the episode is masked.
            UsageError: the endpoint refuses the temperature or top_p; or ``attach`` was not called.
        """
        if self._dialect is None or not request.messages:
            raise UsageError("A chat policy needs a dialect and messages. Fix: OpenPolicy.attach(env.dialect).")
        talk = self._talks.get(request.episode, _Talk()) if request.episode else _Talk()
        talk.hear(request.messages)
        if request.episode:
            self._talks[request.episode] = talk
        left = self._sampling.max_tokens - talk.used
        reply = await self._ask(talk, request, left) if left > 0 else None
        if reply is None:
            return Completion((), None, "length")
        usage = self._count(talk, request, reply)
        talk.history.append(reply.message)
        talk.waiting = tuple(call.id for call in reply.calls)
        text = reply.content
        if reply.calls:
            schemas = {tool["function"]["name"]: tool["function"] for tool in request.tools}
            text = write_call(text, reply.calls[0], self._dialect, schemas)
        cut = reply.cut or talk.used > self._sampling.max_tokens
        return Completion(encode_turn(text, self._dialect), None, "length" if cut else "stop", usage)

    async def release(self, episode: str) -> None:
        """Forget an episode's history; unknown names are ignored."""
        self._talks.pop(episode, None)

    async def close(self) -> None:
        """Close the connections; calling it twice is harmless."""
        await self._endpoint.close()

    async def _ask(self, talk: _Talk, request: GenerateRequest, left: int) -> Reply | None:
        """Return the reply, or None where the conversation is longer than the model's context."""
        capped = True
        while True:
            body = self._body(talk, request, left if capped else None)
            try:
                return await self._endpoint.ask(self._url, body, partial(read_reply, turn=len(talk.history)))
            except Refused as error:
                if out_of_context(error):
                    if not body.keys() & {*_CAPS}:
                        return None
                    # The room that was asked for may be what does not fit; without a cap, a server gives what is left.
                    capped = False
                else:
                    self._drop(error, body)

    def _body(self, talk: _Talk, request: GenerateRequest, cap: int | None) -> dict[str, Any]:
        sampling = self._sampling
        history = [{k: v for k, v in row.items() if k not in self._dropped} for row in talk.history]
        body: dict[str, Any] = {"model": self._model, "messages": history}
        if request.tools:
            body["tools"] = [dict(tool) for tool in request.tools]
        body |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": sampling.seed_of(request)}
        body |= _OFF
        name = next(name for name in _CAPS if name not in self._dropped)
        if name and cap is not None:
            body[name] = cap
        return {key: value for key, value in body.items() if key not in self._dropped}

    def _drop(self, error: Refused, body: Mapping[str, Any]) -> None:
        """Leave out from now on what the endpoint refuses, if that changes nothing that was asked for."""
        if knows_no_tools(error):
            raise UsageError(
                f"{self._endpoint.subject} has no native tool calls: {error} Fix: serve it with them (vLLM: "
                "--enable-auto-tool-choice --tool-call-parser NAME), or --policy completions."
            ) from error
        reasoning = {key for row in body["messages"] for key in row if key in _REASONING}
        optional = {*_CAPS[:2], *_OFF, "seed", "temperature", "top_p"} & body.keys() | reasoning
        name = refused_parameter(error, dict.fromkeys(sorted(optional)))
        if name is None:
            raise self._endpoint.failed(str(error)) from error
        if name in ("temperature", "top_p") and body[name] != 1:
            raise UsageError(
                f"{self._endpoint.subject} refuses {name}={body[name]:g}: {error} Fix: --{name.replace('_', '-')} 1."
            ) from error
        self._dropped.add(name)
        self._described["refused"] = sorted(self._dropped)

    def _count(self, talk: _Talk, request: GenerateRequest, reply: Reply) -> dict[str, int]:
        """Return the turn's usage, and add it to the episode's."""
        if reply.usage is not None:
            prompt, completion = reply.usage
        else:
            prompt = self._estimate([*talk.history, *request.tools])
            completion = self._estimate([reply.message])
            self._described["tokens"] = "estimated from the text: the endpoint's replies have no usage"
        tokens = max(0, prompt - talk.last) + completion
        talk.last, talk.used = prompt + completion, talk.used + tokens
        return {"prompt_tokens": prompt, "completion_tokens": completion, "tokens": tokens}

    def _estimate(self, rows: Sequence[Mapping[str, Any]]) -> int:
        assert self._dialect is not None
        tokenizer = self._dialect.tokenizer
        text = json.dumps([dict(row) for row in rows], ensure_ascii=False)
        count = len(tokenizer.encode(text))
        # About four bytes are a token of a model's own vocabulary.
        return -(-count // 4) if isinstance(tokenizer, ByteTokenizer) else count


async def open_chat(spec: PolicySpec, sampling: Sampling) -> OpenPolicy:
    """Contact an endpoint of chat completions.

    Raises:
        UsageError: it refuses the key, or does not know the model.
        PolicyError: it cannot be reached.
    """
    endpoint = make_endpoint(spec)
    try:
        model = await find_model(spec, endpoint)
    except BaseException:
        await endpoint.close()
        raise
    described = {
        "kind": "chat",
        "model": model["id"],
        "url": base_url(spec.url),
        # Not "created", which many servers give as the time of the request.
        "endpoint": {k: model[k] for k in ("owned_by", "root", "max_model_len") if k in model},
        "tokenizer": spec.tokenizer or "bytes",
    }
    policy = ChatPolicy(endpoint, f"{base_url(spec.url)}/chat/completions", model["id"], sampling, described)
    return OpenPolicy(policy, spec.tokenizer or None, described, True, policy.attach, policy.close)
