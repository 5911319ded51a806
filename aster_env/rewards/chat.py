"""A client of an OpenAI-compatible endpoint for one short reply."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from aster_env.endpoints import FIRST_WAIT, Endpoint, Refused, Transient, base_url, read_key, seconds_to_wait
from aster_env.errors import JudgeError

T = TypeVar("T")

_FIRST_WAIT = FIRST_WAIT

__all__ = ["ChatClient", "completions_url", "read_key", "seconds_to_wait"]


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
        self._endpoint = Endpoint(
            f"The judge {model!r} at {self.url}",
            JudgeError,
            key_variable=key_variable,
            timeout=timeout,
            retries=retries,
            concurrency=concurrency,
        )

    async def ask(self, messages: Sequence[Mapping[str, str]], max_tokens: int, read: Callable[[str], T | None]) -> T:
        """Return what ``read`` makes of the reply's text; None of it means that the reply cannot be used.

        The time begins when the request has its place among those at once.

        Raises:
            JudgeError: no usable reply within the time and the attempts, or a refusal.
        """
        body = {"model": self.model, "messages": list(messages), "temperature": 0, "max_tokens": max_tokens}

        def usable(text: str) -> T:
            content = _content(text)
            found = read(content)
            if found is None:
                raise Transient("the reply is no verdict", said=content)
            return found

        try:
            return await self._endpoint.ask(self.url, body, usable, first_wait=_FIRST_WAIT)
        except Refused as error:
            raise self._endpoint.failed(str(error)) from error

    async def close(self) -> None:
        """Close the connections; calling it twice is harmless."""
        await self._endpoint.close()


def completions_url(url: str) -> str:
    """Return the address of an endpoint's chat completions.

    Raises:
        UsageError: it is no http(s) address, or it holds a password.
    """
    return f"{base_url(url)}/chat/completions"


def _content(text: str) -> str:
    """Return the text of the first choice."""
    try:
        content = json.loads(text)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise Transient("the reply is no chat completion", said=text) from error
    if not isinstance(content, str):
        raise Transient("the reply's content is no text", said=content)
    return content
