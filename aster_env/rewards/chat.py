"""A client of an OpenAI-compatible endpoint for one short reply: retried, and bounded in time and size."""

from __future__ import annotations

import asyncio
import email.utils
import json
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

from aster_env.errors import JudgeError, UsageError

T = TypeVar("T")

MAX_BODY = 1 << 20
_AGAIN = (408, 409, 425, 429)
_FIRST_WAIT, _LONGEST_WAIT = 0.25, 8.0
_REFUSED = {
    401: "Fix: set the environment variable {variable} to a key that it accepts",
    403: "Fix: set the environment variable {variable} to a key that may use this model",
    404: "Fix: check the url (it ends with /v1, say) and the model's name",
}


class _Transient(Exception):
    """What another attempt may not meet; ``wait`` is how many seconds the server asks for."""

    def __init__(self, text: str, wait: float = 0.0) -> None:
        super().__init__(text)
        self.wait = wait


class ChatClient:
    """Asks one model; it belongs to the event loop it is first used on.

    Args:
        url: of the endpoint: its root, its ``/v1``, or the whole address of its chat completions.
        model: the name that the endpoint knows.
        key_variable: environment variable with the key; nothing is sent where it is not set.
        timeout: seconds for a reply, all attempts together.
        retries: further attempts after a failure that may pass.
        concurrency: requests at once.

    Raises:
        UsageError: an argument is not allowed.
    """

    def __init__(self, url: str, model: str, key_variable: str, timeout: float, retries: int, concurrency: int) -> None:
        self.url, self.model = completions_url(url), model
        self._variable, self._timeout, self._retries = key_variable, timeout, retries
        self._key = read_key(key_variable)
        self._places = asyncio.Semaphore(concurrency)
        import httpx

        # Uncompressed: a small reply cannot become a large one.
        headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        pool = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        # The total bound stands in for httpx's, which count each read anew.
        self._client = httpx.AsyncClient(trust_env=False, timeout=None, limits=pool, headers=headers)

    async def ask(self, messages: Sequence[Mapping[str, str]], max_tokens: int, read: Callable[[str], T | None]) -> T:
        """Return what ``read`` makes of the reply's text; None of it means that the reply cannot be used.

        The time begins when the request has its place among those at once.

        Raises:
            JudgeError: no usable reply within the time and the attempts, or a refusal.
        """
        body = {"model": self.model, "messages": list(messages), "temperature": 0, "max_tokens": max_tokens}
        async with self._places:
            seen: list[str] = []
            try:
                async with asyncio.timeout(self._timeout):
                    return await self._attempts(body, read, seen)
            except TimeoutError as error:
                raise self._failed(f"no usable reply within {self._timeout:g} s", seen) from error

    async def close(self) -> None:
        """Close the connections; calling it twice is harmless."""
        await self._client.aclose()

    async def _attempts(self, body: Mapping[str, Any], read: Callable[[str], T | None], seen: list[str]) -> T:
        deadline = time.monotonic() + self._timeout
        for attempt in range(self._retries + 1):
            try:
                text = await self._post(body)
                found = read(text)
                if found is not None:
                    return found
                raise _Transient(f"the reply {text!r:.80} is no verdict")
            except _Transient as error:
                seen.append(str(error))
                wait = min(_FIRST_WAIT * 2**attempt, _LONGEST_WAIT) * random.uniform(0.5, 1.0)
                wait = max(wait, error.wait * random.uniform(1.0, 1.1))
            if attempt == self._retries:
                break
            if time.monotonic() + wait >= deadline:
                raise self._failed(f"the next attempt would be in {wait:.1f} s, after the time of the question", seen)
            await asyncio.sleep(wait)
        raise self._failed(f"no usable reply in {self._retries + 1} attempts", seen)

    async def _post(self, body: Mapping[str, Any]) -> str:
        import httpx

        received = bytearray()
        try:
            async with self._client.stream("POST", self.url, json=body) as response:
                async for piece in response.aiter_raw():
                    received += piece
                    if len(received) > MAX_BODY:
                        raise _Transient(f"the reply is longer than {MAX_BODY} bytes")
        except httpx.HTTPError as error:
            raise _Transient(f"{type(error).__name__}: {self._hidden(str(error))}") from error
        text = received.decode("utf-8", "replace")
        if response.status_code != 200:
            raise self._refusal(response.status_code, response.headers.get("Retry-After"), text)
        return _content(text)

    def _refusal(self, status: int, retry_after: str | None, text: str) -> Exception:
        said = f"HTTP {status} {self._hidden(text)!r:.200}"
        if status in _AGAIN or status >= 500:
            return _Transient(said, seconds_to_wait(retry_after))
        fix = _REFUSED.get(status, "Fix: check the url, the model's name and what the endpoint's log says")
        return self._failed(f"{said}. {fix.format(variable=self._variable)}", [])

    def _failed(self, what: str, seen: Sequence[str]) -> JudgeError:
        last = f" (the last failure: {seen[-1]})" if seen else ""
        return JudgeError(f"The judge {self.model!r} at {self.url}: {what}{last}.")

    def _hidden(self, text: str) -> str:
        """Return a text without the key, which some servers repeat."""
        return text.replace(self._key, "***") if self._key else text


def completions_url(url: str) -> str:
    """Return the address of an endpoint's chat completions.

    Raises:
        UsageError: it is no http(s) address, or it holds a password.
    """
    allowed = "Allowed: 'http://HOST:PORT/v1' or another http(s) address of an OpenAI-compatible endpoint."
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except (ValueError, AttributeError, TypeError):
        usable = False
    if not usable:
        raise UsageError(f"url={url!r} is no address. {allowed}")
    if parts.username is not None or parts.query or parts.fragment:
        raise UsageError(
            f"The judge's url holds a user, a query or a fragment. {allowed} Fix: key_variable names the key."
        )
    path = parts.path.rstrip("/")
    if not path.endswith("/chat/completions"):
        path = f"{path or '/v1'}/chat/completions"
    return f"{parts.scheme}://{parts.netloc}{path}"


def read_key(variable: str) -> str:
    """Return the key in an environment variable, or "".

    Raises:
        UsageError: it cannot be sent; the text does not hold it.
    """
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UsageError(f"The environment variable {variable} holds no key: keys are ASCII, in one word. Fix: set it.")
    return key


def seconds_to_wait(retry_after: str | None) -> float:
    """Return how many seconds a Retry-After header (a number or a date) asks for; 0 without a readable one."""
    value = (retry_after or "").strip()
    if value.isascii() and value.isdecimal():
        return float(value[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _content(text: str) -> str:
    """Return the text of the first choice."""
    try:
        content = json.loads(text)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise _Transient(f"the reply {text!r:.80} is no chat completion") from error
    if not isinstance(content, str):
        raise _Transient(f"the reply's content is {content!r:.80}, no text")
    return content
