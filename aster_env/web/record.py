"""What came from outside, written down so that a run repeats without the network."""

from __future__ import annotations

import asyncio
import base64
import fcntl
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote
from weakref import WeakValueDictionary

import httpx

from aster_env.errors import UsageError, WebError, check_name
from aster_env.web.base import Fetched, PageError, shown

Mode = Literal["off", "record", "replay", "replay_or_record"]
MODES = ("off", "record", "replay", "replay_or_record")

_SECRET_NAMES = {"api_key", "apikey", "key", "token", "access_token", "authorization", "password", "secret"}
_WITHHELD = "[withheld]"
_USER = re.compile(r"(?<=//)[^/?#\s]*@")
_ARGUMENT = re.compile(
    rf"([?&;#](?:\w+[._-])?(?:{'|'.join(sorted(_SECRET_NAMES))})=)[^&#\s]+?(?=['\"]?[.,:;]?(?:[&#\s]|$))", re.IGNORECASE
)


class ReplayMissError(WebError):
    """A replay was asked for what was never recorded."""


class Recorder:
    """Goes around what has ``get(url)`` or ``search(query)``: plays what was recorded, or records what comes.

    A folder holds ``index.jsonl``, a line for each answer, and ``bodies/``, files named by the SHA-256 of what they
    hold. The first answer that a recorder gets to a request serves all who ask it later, as a replay will; of two runs'
    answers the later counts. Several processes may record into one folder. Page errors are recorded too; those that may
    pass (time-outs, 429, 5xx) carry a mark, and ``replay_or_record`` asks again for what an earlier run did not get.
    No header is written, no user or password of an address, no argument with the name of a credential, and none of
    ``secrets``, in a request or an answer. What pages themselves hold is written as it is.

    Args:
        source: what is recorded; None where nothing but replay is wanted.
        folder: of the recording.
        mode: ``off`` passes everything through; ``record`` always asks the source; ``replay`` never does;
            ``replay_or_record`` does what it has not recorded.
        secrets: texts that are never written, such as the key of a provider.
        name: of the source, in requests of ``search``: recordings of two providers do not mix.

    Raises:
        UsageError: the mode is unknown, a source is missing, or there is no recording to replay.
    """

    def __init__(
        self, source: Any, folder: str | os.PathLike[str], mode: Mode, secrets: Iterable[str] = (), name: str = ""
    ) -> None:
        check_name("mode of recording", mode, MODES)
        self._source, self._mode, self._name = source, mode, name
        self._folder = Path(folder)
        self._index, self._bodies = self._folder / "index.jsonl", self._folder / "bodies"
        forms = {form for secret in secrets if secret for form in _forms(secret)}
        self._secrets = sorted(forms, key=lambda form: (-len(form), form))
        self._entries: dict[str, dict[str, Any]] = {}
        self._read_to, self._damaged = 0, 0
        self._lock = asyncio.Lock()
        self._asked: set[str] = set()
        self._asking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        if mode == "replay" and not self._index.is_file():
            raise UsageError(f"There is no recording in {str(folder)!r}. Fix: mode='record' first, or another folder.")
        if mode != "replay" and source is None:
            raise UsageError(f"mode={mode!r} needs a source to ask. Fix: give one, or mode='replay'.")

    async def get(self, url: str) -> Fetched:
        """Return what is at an address; see ``Fetcher.get``.

        Raises:
            PageError: the page cannot be had, now or when it was recorded.
            ReplayMissError: it was never recorded.
            WebError: the source's machinery, or the recording, failed.
        """
        if self._mode == "off":
            return await self._source.get(url)

        async def live() -> tuple[dict[str, Any], bytes]:
            try:
                page: Fetched = await self._source.get(url)
            except PageError as error:
                return {"error": str(error), **({} if error.lasting else {"passing": True})}, b""
            told = {"url": page.url, "status": page.status, "content_type": page.content_type}
            return {**told, "truncated": page.truncated}, page.body

        told, body = await self._play({"get": _normal(url)}, live)
        if "error" in told:
            raise PageError(told["error"], lasting="passing" not in told)
        return Fetched(body=body, **told)

    async def search(self, query: str, **options: Any) -> Any:
        """Return what the source's ``search`` does, which has to be plain JSON.

        Raises:
            ReplayMissError: it was never recorded.
            WebError: the source's machinery, or the recording, failed.
        """
        if self._mode == "off":
            return await self._source.search(query, **options)

        async def live() -> tuple[dict[str, Any], bytes]:
            return {}, json.dumps(await self._source.search(query, **options)).encode()

        kept = {key: value for key, value in options.items() if key.lower() not in _SECRET_NAMES}
        _, body = await self._play({"search": query, "source": self._name, **kept}, live)
        return json.loads(body)

    async def close(self) -> None:
        """Close the source."""
        if self._source is not None:
            await self._source.close()

    async def _play(
        self, request: Mapping[str, Any], live: Callable[[], Awaitable[tuple[dict[str, Any], bytes]]]
    ) -> tuple[dict[str, Any], bytes]:
        line = self._withhold(json.dumps(request, sort_keys=True, ensure_ascii=True).encode())
        key = hashlib.sha256(line).hexdigest()
        # Kept by those who hold it: the others wait for the answer of the first.
        lock = self._asking.setdefault(key, asyncio.Lock())
        async with lock:
            return await self._answer(key, line, live)

    async def _answer(
        self, key: str, line: bytes, live: Callable[[], Awaitable[tuple[dict[str, Any], bytes]]]
    ) -> tuple[dict[str, Any], bytes]:
        if self._mode != "record" or key in self._asked:
            async with self._lock:
                found = await asyncio.to_thread(self._find, key)
            again = self._mode == "replay_or_record" and key not in self._asked
            if found is not None and not (again and "passing" in found[0]):
                return found
            if self._mode == "replay":
                asked = json.dumps(_without_secrets(json.loads(line)))
                raise ReplayMissError(
                    f"{shown(asked)} is not in the recording {str(self._folder)!r} "
                    f"({len(self._entries)} answers, {self._damaged} damaged lines). Fix: "
                    "mode='replay_or_record' once, with the network, or the folder that it was recorded in."
                )
        told, body = await live()
        written = _without_secrets(json.loads(self._withhold(json.dumps(told).encode()))), self._withhold(body)
        async with self._lock:
            await asyncio.to_thread(self._write, key, _without_secrets(json.loads(line)), *written)
        self._asked.add(key)
        # What a replay will give, so that the first run and its repetition are the same.
        return written

    def _find(self, key: str) -> tuple[dict[str, Any], bytes] | None:
        if key not in self._entries:
            self._refresh()
        entry = self._entries.get(key)
        if entry is None:
            return None
        name = entry["body"]
        try:
            body = (self._bodies / name[:2] / name).read_bytes()
        except OSError as error:
            raise WebError(f"The recording {str(self._folder)!r} lacks a body ({error}). Fix: record again.") from error
        if hashlib.sha256(body).hexdigest() != name:
            raise WebError(f"The body {name} in {str(self._folder)!r} is damaged. Fix: record again.")
        return entry["answer"], body

    def _refresh(self) -> None:
        """Read the lines that came since the last time; one that is being written waits for the next."""
        try:
            with self._index.open("rb") as file:
                file.seek(self._read_to)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._read_to += len(line)
                    self._learn(line)
        except FileNotFoundError:
            return
        except OSError as error:
            raise WebError(f"{str(self._index)!r} cannot be read ({error}).") from error

    def _learn(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
            self._entries[entry["key"]] = {"body": entry["body"], "answer": entry["answer"]}
        except (ValueError, KeyError, TypeError):
            # What a killed process left; the request counts as not recorded.
            self._damaged += 1

    def _write(self, key: str, request: dict[str, Any], answer: dict[str, Any], body: bytes) -> None:
        name = hashlib.sha256(body).hexdigest()
        entry = {"key": key, "request": request, "answer": answer, "body": name, "bytes": len(body)}
        try:
            self._put(name, body)
            with self._index.open("ab+") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                # A process that was killed in the middle of a line leaves the rest of it.
                torn = file.seek(0, os.SEEK_END) > 0 and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n"
                file.write(b"\n" * torn + json.dumps(entry).encode() + b"\n")
        except OSError as error:
            fix = "see that the disk has room, or name another folder."
            raise WebError(f"The recording {str(self._folder)!r} cannot be written ({error}). Fix: {fix}") from error
        self._entries[key] = {"body": name, "answer": answer}

    def _put(self, name: str, body: bytes) -> None:
        folder = self._bodies / name[:2]
        if (folder / name).exists():
            return
        folder.mkdir(parents=True, exist_ok=True)
        handle, path = tempfile.mkstemp(prefix=".", dir=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(body)
            os.replace(path, folder / name)
        except BaseException:
            Path(path).unlink(missing_ok=True)
            raise

    def _withhold(self, data: bytes) -> bytes:
        for form in self._secrets:
            data = data.replace(form, _WITHHELD.encode())
        return data


def _forms(secret: str) -> set[bytes]:
    """Return how a secret can stand in an answer: as it is, in an address, in JSON, in base64."""
    plain = secret.encode()
    written = {plain, quote(secret, safe="").encode(), json.dumps(secret)[1:-1].encode(), base64.b64encode(plain)}
    return {form for form in written if form}


def _without_secrets(told: dict[str, Any]) -> dict[str, Any]:
    """Return a request or an answer without what addresses in it hold of credentials."""
    return {
        name: _ARGUMENT.sub(rf"\1{_WITHHELD}", _USER.sub(f"{_WITHHELD}@", value)) if isinstance(value, str) else value
        for name, value in told.items()
    }


def _normal(url: str) -> str:
    """Return an address in one spelling, without its fragment; as it is where it is none."""
    try:
        return str(httpx.URL(url.strip()).copy_with(fragment=None))
    except (httpx.InvalidURL, ValueError):
        return url
