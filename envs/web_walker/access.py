"""What the tools reach the web through: checked when chosen, leased when needed, closed by the last user."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aster_env import loops
from aster_env.endpoints import read_key
from aster_env.errors import UsageError, check_name
from aster_env.web import Extractor, Fetcher, Recorder, Source
from aster_env.web.providers import PROVIDERS, Provider, open_provider, recorded
from aster_env.web.providers.wires import WIRES
from aster_env.web.record import MODES

from .site import Site, SiteSearch, SiteServer, site_guard


class Web:
    """Pages, what makes them to text, and a search; made by ``Access``, for one event loop.

    Attributes:
        pages: where pages come from.
        reader: makes them to text.
        search: finds them.
        about: what it is, for ``Trajectory.sources``.
    """

    pages: Source
    search: Provider

    def __init__(self, access: Access) -> None:
        self._access = access
        self.reader = Extractor(**access.reader)
        self.about = dict(access.about)
        self._server: SiteServer | None = None
        self._lock = asyncio.Lock()
        self._open = False

    async def open(self) -> None:
        """Serve the site, where there is one, and open the rest; calling it twice is harmless.

        Raises:
            WebError: the site cannot be served.
            UsageError: the provider's key is missing, or there is no recording to replay.
        """
        async with self._lock:
            if self._open:
                return
            access, replay = self._access, self._access.mode == "replay"
            pages: Fetcher | None = None
            if not replay:
                if access.site is not None:
                    self._server = SiteServer(access.site)
                    await self._server.open()
                guard = site_guard(self._server) if self._server is not None else None
                pages = Fetcher(guard=guard, **access.fetch)
            provider = None if replay else access.open_provider()
            if access.folder is None:
                assert pages is not None
                assert provider is not None
                self.pages, self.search = pages, provider
            else:
                place, secrets = (access.folder, access.mode), access.secrets()
                self.pages = Recorder(pages, *place, secrets)  # type: ignore[arg-type]
                self.search = recorded(provider, *place, access.name, secrets)  # type: ignore[arg-type]
            if replay and access.folder is not None:
                self.about["recording_sha256"] = await asyncio.to_thread(_digest, access.folder)
            self._open = True

    async def close(self) -> None:
        """End connections, processes and the site's server."""
        await self.reader.close()
        if self._open:
            await self.pages.close()
            if self._access.owns_provider:
                await self.search.close()
        if self._server is not None:
            await self._server.close()


class Access:
    """Which web is walked; the environments of a loop share what they choose alike.

    Args:
        provider: ``"site"``, the name of a search service, or a Provider, which stays open.
        provider_options: for ``aster_env.web.providers.open_provider``.
        site: the generated one; used where the provider is ``"site"``.
        record: the folder of a recording, or None.
        mode: ``"off"``, ``"record"``, ``"replay"`` or ``"replay_or_record"``.
        fetch: of ``aster_env.web.Fetcher``: ``seconds``, ``max_bytes``, ``concurrency``, ``robots``.
        reader: of ``aster_env.web.Extractor``: ``workers``, ``seconds``, ``recycle``, ``max_chars``, ``max_links``.

    Raises:
        UsageError: an argument is not allowed.
        MissingExtraError: what reads pages is not installed.
    """

    def __init__(
        self,
        provider: str | Provider,
        provider_options: Mapping[str, Any] | None,
        site: Site,
        record: str | Path | None,
        mode: str,
        fetch: Mapping[str, Any] | None,
        reader: Mapping[str, Any] | None,
    ) -> None:
        self._provider = check_provider(provider)
        self._provider_options = _options(
            "provider_options", provider_options, _SERVICE if _is_service(provider) else ()
        )
        self.fetch = _options("fetch_options", fetch, ("seconds", "max_bytes", "concurrency", "robots"))
        self.reader = _options("reader_options", reader, ("workers", "seconds", "recycle", "max_chars", "max_links"))
        self.folder, self.mode = _check_recording(record, mode)
        self.name = provider if isinstance(provider, str) else type(provider).__name__
        self.site = site if provider == "site" else None
        self.owns_provider = isinstance(provider, str)
        # Made and dropped, so that a wrong value is named before anything is opened.
        Fetcher(**self.fetch)
        Extractor(**self.reader)
        if self.mode != "replay":
            self.open_provider()
        self.about = self._describe()

    async def lease(self) -> Web:
        """Return the web, open; give it back with ``release``."""
        given = None if isinstance(self._provider, str) else id(self._provider)
        options = [sorted(each.items()) for each in (self._provider_options, self.fetch, self.reader)]
        key = ("web", self.name, given, self.site and self.site.digest, str(self.folder), self.mode, repr(options))
        web = loops.lease(key, lambda: Web(self))
        try:
            await web.open()
        except BaseException:
            await loops.release(web)
            raise
        return web

    async def release(self, web: Web) -> None:
        """Give a leased web back."""
        await loops.release(web)

    def open_provider(self) -> Provider:
        """Return the search; a Provider that was passed in as it is."""
        if not isinstance(self._provider, str):
            return self._provider
        if self.site is not None:
            return SiteSearch(self.site)
        return open_provider(self._provider, **self._provider_options)

    def secrets(self) -> list[str]:
        """Return what no recording may hold: the key of a search service."""
        if not _is_service(self._provider):
            return []
        given = self._provider_options.get("key_variable")
        return list(filter(None, [read_key(WIRES[self.name].key_variable if given is None else given)]))

    def _describe(self) -> dict[str, str]:
        about = {"web": "the web", "provider": self.name}
        if self.site is not None:
            site = self.site
            about = {"web": "generated site", "host": site.host, "seed": str(site.seed), "size": str(site.size)}
            about |= {"split": site.split, "sha256": site.digest}
        if self.folder is not None:
            about |= {"recording": self.folder.name, "mode": self.mode}
        return about


_SERVICE = ("key_variable", "url", "timeout", "retries", "concurrency")


def _is_service(provider: Any) -> bool:
    return isinstance(provider, str) and provider != "site"


def check_provider(provider: Any) -> str | Provider:
    """Return what an environment searches with.

    Raises:
        UsageError: it is neither a name of one, nor a Provider.
    """
    if isinstance(provider, str):
        return check_name("provider", provider, ("site", *PROVIDERS))
    if not isinstance(provider, Provider):
        raise UsageError(f"provider={provider!r} is a {type(provider).__name__}. Allowed: a name, or a Provider.")
    return provider


def _options(what: str, given: Any, allowed: tuple[str, ...]) -> dict[str, Any]:
    if given is not None and not isinstance(given, Mapping):
        raise UsageError(f"{what}={given!r} is a {type(given).__name__}. Allowed: a mapping of options.")
    for name in given or ():
        check_name(f"option in {what}", name, allowed)
    return dict(given or {})


def _check_recording(record: Any, mode: str) -> tuple[Path | None, str]:
    check_name("mode of recording", mode, MODES)
    if (record is None) != (mode == "off"):
        raise UsageError(
            f"record={record!r} and mode={mode!r} do not go together. Fix: a folder with mode='record', 'replay' or "
            "'replay_or_record'; or neither."
        )
    folder = None if record is None else Path(record).expanduser()
    if folder is not None and mode == "replay":
        Recorder(None, folder, "replay")
    return folder, mode


def _digest(folder: Path) -> str:
    return hashlib.sha256((folder / "index.jsonl").read_bytes()).hexdigest()
