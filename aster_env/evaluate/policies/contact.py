"""The first contact with an endpoint: is it there, does it take the key, does it know the model?"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import reduce
from typing import Any

from aster_env.endpoints import Endpoint, Refused, Transient, base_url
from aster_env.errors import PolicyError, UnknownNameError, UsageError
from aster_env.evaluate.policies.spec import PolicySpec

MAX_BODY = 1 << 25
_CONTACT_SECONDS = 30.0
_CONTEXT = re.compile(
    r"context_length_exceeded|exceed_context_size|context[ _-](?:length|window|size)|max_model_len|max_seq_len"
    r"|maximum (?:model|sequence|input) length|(?:prompt|input|request) is too long|too many (?:input )?tokens"
    r"|longer than the (?:model|maximum)|reduce the length of",
    re.IGNORECASE,
)
_NO_TOOLS = re.compile(
    r"tool-call-parser|(?:\bnot|n't|\bno\b[^.;{}]{0,40}) support(?:s|ed)? (?:for )?tools?\b"
    r"|tools? (?:is|are) not supported",
    re.IGNORECASE,
)
_UNKNOWN = (
    r"(?:unsupported|unrecogni[sz]ed|unknown|unexpected|invalid (?:parameter|argument)|extra (?:inputs|fields)"
    r"|(?:not|n't) (?:supported?|allowed|permitted|recogni[sz]ed))"
)
_LENGTH = re.compile(r"(?:context length|max_model_len|context (?:window|size))\D{0,24}?(\d{2,9})", re.IGNORECASE)


def make_endpoint(spec: PolicySpec) -> Endpoint:
    """Return a client of the endpoint; nothing is sent yet."""
    options = {"timeout": 600.0, "retries": 5, "concurrency": 64, **spec.options}
    named = f"The model {spec.model!r}" if spec.model else "The endpoint"
    return Endpoint(
        f"{named} at {base_url(spec.url)}",
        PolicyError,
        key_variable=spec.key_variable,
        timeout=float(options["timeout"]),
        retries=options["retries"],
        concurrency=options["concurrency"],
        max_body=MAX_BODY,
    )


async def find_model(spec: PolicySpec, endpoint: Endpoint) -> Mapping[str, Any]:
    """Return what the endpoint says of the model: its ``id``, and ``max_model_len`` where it gives that.

    Raises:
        UsageError: the key is refused, the model is not known, or it was not named and there are several.
        PolicyError: the endpoint cannot be reached, or what it says is no list of models.
    """
    try:
        models = await endpoint.ask(f"{base_url(spec.url)}/models", None, _read_models, timeout=_CONTACT_SECONDS)
    except Refused as error:
        if error.status in (404, 405) and spec.model:
            # Not every server lists its models; the first turn shows whether it has this one.
            return {"id": spec.model}
        raise UsageError(f"{endpoint.subject}: {error}") from error
    if not spec.model:
        if len(models) == 1:
            return next(iter(models.values()))
        raise UsageError(
            f"{endpoint.subject} has several models: {', '.join(map(repr, sorted(models)[:12]))}. Fix: --model NAME."
        )
    if spec.model not in models and not any("*" in name for name in models):
        raise UnknownNameError(f"model of {base_url(spec.url)}", spec.model, models)
    return {**models.get(spec.model, {}), "id": spec.model}


def out_of_context(error: Refused) -> bool:
    """Whether a refusal says that the conversation is longer than the model's context."""
    return error.status in (400, 413, 422) and _CONTEXT.search(error.body[:20_000]) is not None


def knows_no_tools(error: Refused) -> bool:
    """Whether a refusal says that the model, as it is served, has no native tool calls."""
    return error.status in (400, 404, 422) and _NO_TOOLS.search(error.body[:20_000]) is not None


def said_context(error: Refused) -> int | None:
    """Return the context's length that a refusal names, or None."""
    found = _LENGTH.search(error.body[:20_000])
    return int(found[1]) if found else None


def refused_parameter(error: Refused, sent: Mapping[str, Any]) -> str | None:
    """Return which of the parameters that were sent a refusal says that it does not know, or None.

    A text that merely mentions one, or that could be about the value of ``temperature`` or ``top_p``, names none.
    """
    if error.status not in (400, 422):
        return None
    for path in (("error", "param"), ("param",), ("detail", 0, "loc", -1)):  # OpenAI's form, an old one, FastAPI's
        try:
            named = reduce(_item, path, json.loads(error.body))
        except (ValueError, KeyError, IndexError, TypeError, RecursionError):
            continue
        if isinstance(named, str) and named in sent:
            return named
    found = [name for name in sent if name not in ("temperature", "top_p") and _unknown(name, error.body[:20_000])]
    return max(found, key=len) if found else None


def _unknown(name: str, text: str) -> bool:
    """Whether a text says, in one clause, that a parameter is unknown or not supported."""
    word, gap = rf"\b{re.escape(name)}\b", r"[^.;{}]{0,40}"
    return re.search(rf"{_UNKNOWN}{gap}{word}|{word}{gap}{_UNKNOWN}", text, re.IGNORECASE) is not None


def context_of(model: Mapping[str, Any]) -> int | None:
    """Return the length of the model's context, where the endpoint says it."""
    length = model.get("max_model_len")
    return length if isinstance(length, int) and not isinstance(length, bool) and length > 0 else None


def _read_models(text: str) -> dict[str, Mapping[str, Any]]:
    try:
        rows = json.loads(text)["data"]
        return {str(row["id"]): dict(row) for row in rows}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Transient("the reply is no list of models", said=text) from error


def _item(value: Any, key: Any) -> Any:
    return value[key]
