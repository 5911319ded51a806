"""Requests to an OpenAI-compatible endpoint: retried with growing pauses, and bounded in time, size and number."""

from __future__ import annotations

import asyncio
import email.utils
import json
import os
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

from aster_env.errors import InfrastructureError, UsageError

T = TypeVar("T")

FIRST_WAIT, _LONGEST_WAIT = 0.25, 8.0
_AGAIN = (408, 409, 425, 429)
_FIXES = {
    401: "Fix: set the environment variable {variable} to a key that it accepts",
    403: "Fix: set the environment variable {variable} to a key that may use this model",
    404: "Fix: check the url (it ends with /v1, say) and the model's name",
}


class Transient(Exception):
    """What another attempt may not meet.

    Args:
        text: what is wrong.
        wait: seconds that the server asks for.
        said: what the server said, whole: it may hold the key, which is taken out before the text is cut and shown.
    """

    def __init__(self, text: str, wait: float = 0.0, said: Any = None) -> None:
        super().__init__(text)
        self.wait, self.said = wait, said


class Refused(Exception):
    """A refusal that another attempt would meet again.

    Args:
        status: of HTTP.
        body: what the server said; it may hold the key, so nothing shows it.
        said: the same for people, without the key, and what to do about it.
    """

    def __init__(self, status: int, body: str, said: str) -> None:
        super().__init__(said)
        self.status, self.body = status, body


class Endpoint:
    """One server; it belongs to the event loop it is first used on.

    Args:
        subject: how errors call it, the address included: ``"The judge 'm' at http://…"``.
        failure: the error that is raised where nothing usable came.
        key_variable: environment variable with the key; nothing is sent where it is not set.
        timeout: seconds for a reply, all attempts together.
        retries: further attempts after a failure that may pass.
        concurrency: requests at once.
        max_body: bytes of a reply.

    Raises:
        UsageError: the key cannot be sent.
    """

    def __init__(
        self,
        subject: str,
        failure: Callable[[str], InfrastructureError],
        *,
        key_variable: str,
        timeout: float,
        retries: int,
        concurrency: int,
        max_body: int = 1 << 20,
    ) -> None:
        self.subject, self._failure, self._max_body = subject, failure, max_body
        self._variable, self._timeout, self._retries = key_variable, timeout, retries
        self._key = read_key(key_variable)
        self._places = asyncio.Semaphore(concurrency)
        import httpx

        # Uncompressed: a small reply cannot become a large one.
        headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        pool = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        # The total bound stands in for httpx's, which count each read anew.
        self._client = httpx.AsyncClient(trust_env=False, timeout=None, limits=pool, headers=headers)

    async def ask(
        self,
        url: str,
        body: Mapping[str, Any] | None,
        read: Callable[[str], T],
        *,
        timeout: float | None = None,
        first_wait: float | None = None,
    ) -> T:
        """Return what ``read`` makes of the reply to a POST of ``body``, or to a GET where it is None.

        The time begins when the request has its place among those at once.

        Args:
            url: the whole address.
            body: sent as JSON.
            read: raises ``Transient`` for a reply that cannot be used.
            timeout: seconds, all attempts together; None takes the endpoint's.
            first_wait: seconds before the second attempt; they double from there.

        Raises:
            Refused: another attempt would be refused too.
            InfrastructureError: as ``failure`` makes it: no usable reply within the time and the attempts.
            asyncio.CancelledError: the caller's time is up. Its ``__cause__`` is that error where the time went to
                failed attempts, or to waiting for a place.
        """
        content = None if body is None else json.dumps(body).encode()
        limit = self._timeout if timeout is None else timeout
        pause = FIRST_WAIT if first_wait is None else first_wait
        seen = ["it waited for a place among those asked at once"]
        try:
            async with self._places:
                seen.clear()
                return await self._in_time(url, content, read, seen, limit, pause)
        except asyncio.CancelledError as error:
            if not seen:
                raise
            raise error from self.failed("given up before a usable reply came", seen)

    async def close(self) -> None:
        """Close the connections; calling it twice is harmless."""
        await self._client.aclose()

    def failed(self, what: str, seen: Sequence[str] = ()) -> InfrastructureError:
        """Return the error that says what failed here, and the last of the failures before it."""
        last = f" (the last failure: {seen[-1]})" if seen else ""
        return self._failure(f"{self.subject}: {what}{last}.")

    async def _in_time(
        self, url: str, content: bytes | None, read: Callable[[str], T], seen: list[str], limit: float, pause: float
    ) -> T:
        bound = asyncio.timeout(limit)
        try:
            async with bound:
                return await self._attempts(url, content, read, seen, time.monotonic() + limit, pause)
        except TimeoutError as error:
            if not bound.expired():
                raise
            raise self.failed(f"no usable reply within {limit:g} s", seen) from error

    async def _attempts(
        self,
        url: str,
        content: bytes | None,
        read: Callable[[str], T],
        seen: list[str],
        deadline: float,
        first_wait: float,
    ) -> T:
        for attempt in range(self._retries + 1):
            try:
                return read(await self._send(url, content))
            except Transient as error:
                shown = "" if error.said is None else f": {self._shown(error.said, 80)}"
                seen.append(self._hidden(str(error)) + shown)
                wait = min(first_wait * 2**attempt, _LONGEST_WAIT) * random.uniform(0.5, 1.0)
                wait = max(wait, error.wait * random.uniform(1.0, 1.1))
            if attempt == self._retries:
                break
            if time.monotonic() + wait >= deadline:
                raise self.failed(f"the next attempt would be in {wait:.1f} s, after the time of the question", seen)
            await asyncio.sleep(wait)
        raise self.failed(f"no usable reply in {self._retries + 1} attempts", seen)

    async def _send(self, url: str, content: bytes | None) -> str:
        import httpx

        received = bytearray()
        method, headers = ("GET", {}) if content is None else ("POST", {"Content-Type": "application/json"})
        try:
            async with self._client.stream(method, url, content=content, headers=headers) as response:
                async for piece in response.aiter_raw():
                    received += piece
                    if len(received) > self._max_body:
                        raise Transient(f"the reply is longer than {self._max_body} bytes")
        except httpx.HTTPError as error:
            raise Transient(f"{type(error).__name__}: {error}") from error
        text = received.decode("utf-8", "replace")
        if response.status_code != 200:
            raise self._refusal(response.status_code, response.headers.get("Retry-After"), text)
        return text

    def _refusal(self, status: int, retry_after: str | None, text: str) -> Exception:
        said = f"HTTP {status} {self._shown(text, 200)}"
        if status in _AGAIN or status >= 500:
            return Transient(said, seconds_to_wait(retry_after))
        fix = _FIXES.get(status, "Fix: check the url, the model's name and what the endpoint's log says")
        return Refused(status, text, f"{said}. {fix.format(variable=self._variable)}")

    def _shown(self, said: Any, most: int) -> str:
        """Return the beginning of what a server said; the key goes first, for part of it would no longer be found."""
        return self._hidden(repr(self._hidden(said) if isinstance(said, str) else said))[:most]

    def _hidden(self, text: str) -> str:
        """Return a text without the key, which some servers repeat, as it is or escaped."""
        forms = [self._key, json.dumps(self._key)[1:-1], repr(self._key)[1:-1], self._key.replace("/", "\\/")]
        for form in dict.fromkeys(sorted(forms, key=len, reverse=True)) if self._key else ():
            text = text.replace(form, "***")
        return text


def base_url(url: str) -> str:
    """Return the address that an endpoint's paths are appended to: what ends with ``/v1``, mostly.

    Args:
        url: its root, its ``/v1``, or the whole address of its completions.

    Raises:
        UsageError: it is no http(s) address, or it holds a password.
    """
    allowed = "Allowed: 'http://HOST:PORT/v1' or another http(s) address of an OpenAI-compatible endpoint."
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except (ValueError, AttributeError, TypeError):
        usable = False
    if usable and (parts.username is not None or parts.query or parts.fragment):
        # Not shown: it may hold a password.
        raise UsageError(f"The url holds a user, a query or a fragment. {allowed} Fix: key_variable names the key.")
    if not usable:
        raise UsageError(f"url={url!r} is no address. {allowed}")
    path = re.sub("(/chat)?/completions$", "", parts.path.rstrip("/"))
    return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"


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
