"""Web search over the services of ``WIRES``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from aster_env.endpoints import Endpoint, Refused, Transient, read_key
from aster_env.errors import UsageError, WebError, check_name
from aster_env.web.base import shown
from aster_env.web.providers.base import Hit
from aster_env.web.providers.wires import WIRES, Wire

PROVIDERS = tuple(WIRES)
MOST_HITS = 100
MAX_TITLE, MAX_ADDRESS, MAX_SNIPPET = 300, 2048, 2000
"""Characters of a result's parts; one with a longer address is left out."""

_MAX_BODY = 2 << 20


class _SearchEndpoint(Endpoint):
    """An endpoint whose key has a header of the service's choice, and no place in anything that is shown."""

    def __init__(self, wire: Wire, subject: str, key_variable: str, key_in_body: bool, **bounds: Any) -> None:
        super().__init__(subject, WebError, key_variable=key_variable, max_body=_MAX_BODY, **bounds)
        self._wire = wire
        self._client.headers.pop("Authorization", None)
        if self._key and not key_in_body:
            name, form = wire.header
            self._client.headers[name] = form.format(self._key)
        self.extra = {wire.body_key: self._key} if key_in_body else {}
        forms = {self._key, quote(self._key, safe=""), json.dumps(self._key)[1:-1], self._key.replace("/", "\\/")}
        self._forms = sorted(filter(None, forms), key=len, reverse=True)

    def hidden(self, text: str) -> str:
        """Return a text without the key, in any of the spellings that it has in addresses and in JSON."""
        for form in self._forms:
            text = text.replace(form, "***")
        return text

    _hidden = hidden

    def _refusal(self, status: int, retry_after: str | None, text: str) -> Exception:
        error = super()._refusal(status, retry_after, text)
        if not isinstance(error, Refused):
            return error
        fix = self._wire.fixes.get(status, "check the url, and what it says")
        if status in (401, 403) and status not in self._wire.fixes:
            fix = f"set the environment variable {self._variable or '(key_variable=)'} to a key that it accepts"
        return Refused(status, "", f"HTTP {status} {self.hidden(text)!r:.200}. Fix: {fix}.")


class WebProvider:
    """Searches the web over a service; see ``open_provider``. It belongs to the event loop it is first used on.

    A query is cut where the service would refuse its length, so that no query a model may write is a failure.

    Args:
        name: of the service.
        url: its address, without a slash at its end.
        key_variable: environment variable with the key; "" sends none.
        timeout: seconds for a search, all attempts together.
        retries: attempts after the first.
        concurrency: requests at once; others wait, without their time running.
        key_in_body: whether the key is a field of the body, rather than a header.
    """

    def __init__(
        self,
        name: str,
        url: str,
        key_variable: str,
        timeout: float,
        retries: int,
        concurrency: int,
        key_in_body: bool = False,
    ) -> None:
        self.name, self.url, self._wire = name, url, WIRES[name]
        self._endpoint = _SearchEndpoint(
            self._wire,
            f"The search provider {name!r} at {url}",
            key_variable,
            key_in_body,
            timeout=timeout,
            retries=retries,
            concurrency=concurrency,
        )

    async def search(self, query: str, n: int) -> list[Hit]:
        """Return at most ``n`` results; an empty list where nothing is found, or nothing is asked.

        Raises:
            UsageError: ``n`` is not allowed.
            WebError: the service refused, failed, or did not answer in time.
        """
        if not 1 <= n <= MOST_HITS:
            raise UsageError(f"n={n!r} results are not allowed. Fix: 1 to {MOST_HITS}.")
        wire = self._wire
        asked = " ".join(shown(query, wire.characters).removesuffix("…").split()[: wire.words])
        if not asked:
            return []
        more, body = wire.request(asked, min(n, wire.most))
        body = None if body is None else {**body, **self._endpoint.extra}
        try:
            return await self._endpoint.ask(f"{self.url}{wire.path}{more}", body, lambda text: self._read(text, n))
        except Refused as error:
            raise WebError(f"{self._endpoint.subject}: {error}") from None

    async def close(self) -> None:
        """Close the connections; calling it twice is harmless."""
        await self._endpoint.close()

    def _read(self, text: str, n: int) -> list[Hit]:
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise Transient("the answer is not JSON") from error
        rows = self._wire.rows(answer) if isinstance(answer, Mapping) else None
        if not isinstance(rows, list):
            raise Transient(f"the answer is not of the form of {self.name!r}", said=text)
        found: dict[str, Hit] = {}
        for hit in self._hits(rows):
            found.setdefault(hit.url, hit)
        return list(found.values())[:n]

    def _hits(self, rows: list[Any]) -> Iterator[Hit]:
        for row in rows:
            if not isinstance(row, Mapping):
                raise Transient(f"a result is not of the form of {self.name!r}", said=row)
            title, url, snippet = (row[field] if isinstance(row.get(field), str) else "" for field in self._wire.fields)
            url = self._endpoint.hidden(url.strip())
            if is_address(url):
                yield Hit(self._text(title, MAX_TITLE) or shown(url, MAX_TITLE), url, self._text(snippet, MAX_SNIPPET))

    def _text(self, text: str, most: int) -> str:
        return shown(self._endpoint.hidden(self._wire.plain(text[: 20 * most])), most)


def open_provider(
    name: str,
    *,
    key_variable: str | None = None,
    url: str | None = None,
    timeout: float = 20.0,
    retries: int = 3,
    concurrency: int = 16,
    key_in_body: bool = False,
) -> WebProvider:
    """Return a provider of web search. Nothing is asked before the first search.

    The key is read from the environment, sent to the service, and stands in no error, result or recording.

    Args:
        name: ``"tavily"``, ``"serper"``, ``"brave"`` or ``"searxng"``.
        key_variable: environment variable with the key; default: the usual one, such as ``TAVILY_API_KEY``.
        url: of the service, where it is not the usual; SearXNG always needs it.
        timeout: seconds for a search, all attempts together.
        retries: attempts after the first, after growing pauses or those that the service asks for.
        concurrency: requests at once.
        key_in_body: Tavily's older form, which services that stand in for it may want: the body's ``api_key``.

    Raises:
        UsageError: there is no such provider or key, or a value is not allowed.
    """
    wire = WIRES[check_name("search provider", name, WIRES)]
    if not timeout > 0 or retries < 0 or concurrency < 1:
        raise UsageError(
            f"timeout={timeout!r}, retries={retries!r} and concurrency={concurrency!r} are not all allowed. Fix: "
            "seconds above 0, retries of 0 or more, and a concurrency of 1 or more, such as 20, 3 and 16."
        )
    variable = wire.key_variable if key_variable is None else key_variable
    if (wire.key_variable or variable) and not read_key(variable):
        raise UsageError(
            f"The search provider {name!r} needs a key, and the environment variable {variable!r} holds none. Fix: "
            "set it, or name another with key_variable=; a recording is replayed without one."
        )
    if key_in_body and not wire.body_key:
        raise UsageError(f"key_in_body=True is not allowed for {name!r}. Fix: leave it out; it is for 'tavily'.")
    return WebProvider(name, _base(name, url, wire), variable, timeout, retries, concurrency, key_in_body)


def is_address(url: str) -> bool:
    """Whether a text is a whole http or https address of bounded length, without a user in it."""
    if len(url) > MAX_ADDRESS or shown(url, MAX_ADDRESS) != url or "\\" in url or any(map(str.isspace, url)):
        return False
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc and _port(parts)
    except ValueError:
        return False


def _port(parts: Any) -> bool:
    return parts.port is None or parts.port > 0


def _base(name: str, url: str | None, wire: Wire) -> str:
    given = wire.url if url is None else url.strip()
    if not given:
        raise UsageError(f"The search provider {name!r} needs url=. Fix: its address, such as http://127.0.0.1:8888.")
    if "@" in given or "?" in given or "#" in given:
        # Not shown: it may hold a password.
        raise UsageError("The url of a search provider holds a user, a query or a fragment. Fix: leave them out.")
    if not is_address(given):
        raise UsageError(f"url={given!r} is no address. Allowed: http(s)://HOST[:PORT][/PATH]. Fix: its root address.")
    return given.rstrip("/").removesuffix(wire.path).rstrip("/")
