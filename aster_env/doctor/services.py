"""Endpoints that answer, and keys that are there; a key itself is never shown."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from aster_env.doctor.findings import Finding, clean
from aster_env.endpoints import base_url
from aster_env.errors import UsageError

KEYS = {
    "OPENAI_API_KEY": "an OpenAI-compatible endpoint",
    "HF_TOKEN": "private or gated models and data sets of the hub",
    "WANDB_API_KEY": "reports to Weights & Biases",
    "TAVILY_API_KEY": "web search with Tavily",
    "SERPER_API_KEY": "web search with Serper",
    "BRAVE_API_KEY": "web search with Brave",
}
"""Environment variables with a secret, and what needs it."""
BASES = ("OPENAI_BASE_URL", "OPENAI_API_BASE")
"""Environment variables with the address of an endpoint."""
ENDPOINT_SECONDS = 2.5
"""Seconds that an endpoint has, the whole reply included."""
MOST = 1 << 20
"""Bytes of a reply that are read."""


def keys() -> Iterator[Finding]:
    """Which keys are set."""
    for variable, purpose in KEYS.items():
        value = os.environ.get(variable, "")
        if not value.strip():
            yield Finding("Keys", variable, "absent", f"not set; for {purpose}", f"export {variable}=…")
        elif value != value.strip() or not value.isascii() or not value.isprintable():
            says = "set, but with space around it or characters that no header can carry"
            yield Finding("Keys", variable, "warn", says, f"export {variable}=… without line breaks and quotes")
        else:
            yield Finding("Keys", variable, "ok", "set")


def secrets() -> list[str]:
    """Return what must not be shown, longest first: the keys, and what other variables call a secret."""
    others = [name for name in os.environ if name.endswith(("_KEY", "_TOKEN", "_SECRET", "_PASSWORD"))]
    # Shorter ones are words such as "true", which stand in every report.
    values = {os.environ.get(name, "").strip() for name in (*KEYS, *others)}
    return sorted((value for value in values if len(value) >= 6), key=len, reverse=True)


def endpoints(demanded: Sequence[str] = ()) -> Iterator[Finding]:
    """Ask each endpoint for its models.

    Args:
        demanded: addresses besides those of ``BASES``; the key goes to them too.
    """
    asked = dict.fromkeys(demanded, True)
    for variable in BASES:
        if url := os.environ.get(variable, "").strip():
            asked.setdefault(url, False)
    if not asked:
        yield Finding(
            "Endpoints", "none", "absent", "none given", "aster doctor --endpoint URL, or export OPENAI_BASE_URL=URL"
        )
        return
    with ThreadPoolExecutor(len(asked)) as pool:
        yield from pool.map(lambda item: asyncio.run(_endpoint(*item)), asked.items())


async def _endpoint(url: str, demanded: bool) -> Finding:
    import httpx

    try:
        given = httpx.URL(url)
        # A password in an address is a secret, as is what a query may hold.
        shown = base_url(str(given.copy_with(username=None, password=None, query=None, fragment=None)))
        asked = httpx.URL(f"{shown}/models").copy_with(username=given.username, password=given.password)
    except (httpx.InvalidURL, UsageError):
        fix = "an address such as http://127.0.0.1:8000/v1"
        return Finding("Endpoints", "address", "bad", "it is no address of http or https", fix, demanded)
    status, says, fix = await _ask(str(asked), clean(shown))
    return Finding("Endpoints", clean(shown), status, says, fix, demanded)


async def _ask(url: str, shown: str) -> tuple[str, str, str]:
    """Return the status, what was found, and the fix."""
    import httpx

    key = os.environ.get("OPENAI_API_KEY", "").strip()
    sendable = bool(key) and key.isascii() and key.isprintable()
    headers = {"authorization": f"Bearer {key}"} if sendable else {}
    headers["accept-encoding"] = "identity"
    curl = f"curl {shown}/models"
    began = time.perf_counter()
    body = bytearray()
    try:
        async with (
            asyncio.timeout(ENDPOINT_SECONDS),
            httpx.AsyncClient(timeout=None, trust_env=False) as client,
            client.stream("GET", url, headers=headers) as answer,
        ):
            async for piece in answer.aiter_bytes():
                body += piece
                if len(body) > MOST:
                    break
    except TimeoutError:
        return "bad", f"no answer within {ENDPOINT_SECONDS:g} s", f"start its server, or look at its log; {curl}"
    except (httpx.HTTPError, httpx.StreamError, OSError) as error:
        return (
            "bad",
            f"it cannot be reached: {type(error).__name__}: {clean(str(error), 120)}",
            f"start its server; {curl}",
        )
    seconds = time.perf_counter() - began
    if answer.status_code in (401, 403):
        said = "refuses the key in OPENAI_API_KEY" if sendable else "asks for a key, and OPENAI_API_KEY is not set"
        return "bad", f"it {said} (HTTP {answer.status_code})", "export OPENAI_API_KEY=…"
    if answer.status_code != 200:
        return "bad", f"HTTP {answer.status_code} for /models", f"check the address (it ends with /v1, say); {curl}"
    models = _models(bytes(body))
    if models is None:
        return (
            "bad",
            "it does not list models as OpenAI's API does",
            f"check the address (it ends with /v1, say); {curl}",
        )
    names = ", ".join(models[:5]) + (f" and {len(models) - 5} more" if len(models) > 5 else "")
    if not models:
        return "warn", f"it answers in {seconds:.2f} s, and serves no model", "start its server with a model"
    return "ok", f"it answers in {seconds:.2f} s: {names}", ""


def _models(body: bytes) -> list[str] | None:
    try:
        listed = json.loads(body)["data"]
        return [clean(str(row["id"]), 80) for row in listed]
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return None
