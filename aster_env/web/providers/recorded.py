"""Searches that are written down, so that a run repeats without the network."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from aster_env.errors import WebError
from aster_env.web.providers.base import Hit, Provider
from aster_env.web.record import Mode, Recorder


class _Rows:
    """A provider's results as plain JSON, which a ``Recorder`` can keep."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self.close = provider.close

    async def search(self, query: str, n: int) -> list[dict[str, str]]:
        return [asdict(hit) for hit in await self._provider.search(query, n)]


class _Recorded:
    """What ``recorded`` returns."""

    def __init__(self, recorder: Recorder, name: str) -> None:
        self.name, self._recorder = name, recorder
        self.close = recorder.close

    async def search(self, query: str, n: int) -> list[Hit]:
        """Return at most ``n`` results; ``ReplayMissError`` where they were never recorded."""
        rows: Any = await self._recorder.search(query, n=n)
        try:
            return [Hit(**row) for row in rows]
        except TypeError as error:
            raise WebError(f"The recording of {self.name!r} holds something that is no result: {error}.") from error


def recorded(
    provider: Provider | None,
    folder: str | os.PathLike[str],
    mode: Mode,
    name: str,
    secrets: Iterable[str] = (),
) -> Provider:
    """Return a provider whose results are recorded, or come from a recording; failures never are.

    What is written is the query, the number of results asked for, and the results: no request, header or key.

    Args:
        provider: it is closed with the returned one; None where nothing but replay is wanted, which needs no key then.
        folder: of the recording; pages may be recorded in the same.
        mode: see ``Recorder``.
        name: of the provider, such as ``"tavily"``: recordings of two do not mix.
        secrets: texts that are never written, should a query or a result hold them.

    Raises:
        UsageError: the mode is unknown, a provider is missing, or there is no recording to replay.
    """
    return _Recorded(Recorder(None if provider is None else _Rows(provider), folder, mode, secrets, name), name)
