"""Jupyter messages over five ZeroMQ sockets, for stock clients; the listening sockets come from outside the sandbox."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import uuid
from datetime import UTC, datetime
from typing import Any

import zmq

from .kernel import Request

_DELIMITER = b"<IDS|MSG>"
CHANNELS = ("shell", "control", "iopub", "stdin", "hb")
_KINDS = {"shell": zmq.ROUTER, "control": zmq.ROUTER, "iopub": zmq.XPUB, "stdin": zmq.ROUTER, "hb": zmq.ROUTER}


class ZmqTransport:
    """The kernel's end of the five channels.

    Args:
        addresses: where each channel of ``CHANNELS`` listens.
        listeners: descriptors of listening sockets, in the same order.
        key: signs every message.
    """

    stdin = True

    def __init__(self, addresses: dict[str, str], listeners: list[int], key: bytes) -> None:
        self._context = zmq.Context()
        self._session = uuid.uuid4().hex
        self._hmac = hmac.new(key, digestmod=hashlib.sha256) if key else None
        self._sockets: dict[str, zmq.Socket[bytes]] = {}
        for name, fd in zip(CHANNELS, listeners, strict=True):
            made = self._context.socket(_KINDS[name])
            made.linger = 1000
            made.setsockopt(zmq.USE_FD, fd)
            made.bind(addresses[name])
            self._sockets[name] = made
        beat = self._sockets["hb"]
        # In C, without the interpreter's lock: a busy cell does not look like a dead kernel.
        threading.Thread(target=zmq.proxy, args=(beat, beat), daemon=True).start()
        self._poller = zmq.Poller()
        for name in ("control", "shell", "iopub"):
            self._poller.register(self._sockets[name], zmq.POLLIN)

    def receive(self) -> Request | None:
        """Wait for the next request with a good signature."""
        while True:
            ready = dict(self._poller.poll())
            if self._sockets["iopub"] in ready:
                self._welcome(self._sockets["iopub"].recv())
            for name in ("control", "shell"):
                if self._sockets[name] in ready and (request := self._read(name)) is not None:
                    return request

    def send(self, channel: str, kind: str, content: dict[str, Any], request: Request | None) -> None:
        """Send a message."""
        route = [f"kernel.{kind}".encode()] if channel == "iopub" else list(request.route) if request else []
        parent = request.header if request else {}
        self._sockets[channel].send_multipart([*route, *self._pack(kind, parent, content)])

    def flush(self) -> None:
        """Nothing waits here."""

    def read_input(self) -> str:
        """Wait for the answer to an ``input_request``."""
        while (request := self._read("stdin")) is None or request.header.get("msg_type") != "input_reply":
            continue
        return str(request.content.get("value", ""))

    def _welcome(self, subscription: bytes) -> None:
        """Tell a new subscriber that it will miss nothing from now on (JEP 65)."""
        if subscription[:1] == b"\x01":
            packed = self._pack("iopub_welcome", {}, {"subscription": subscription[1:].decode("utf-8", "replace")})
            self._sockets["iopub"].send_multipart([subscription[1:] or b"welcome", *packed])

    def _read(self, name: str) -> Request | None:
        parts = self._sockets[name].recv_multipart()
        try:
            start = parts.index(_DELIMITER)
            signature, header, parent, metadata, content = parts[start + 1 : start + 6]
            good = hmac.compare_digest(signature, self._sign([header, parent, metadata, content]))
            return Request(name, json.loads(header), json.loads(content), parts[:start]) if good else None
        except ValueError:
            return None

    def _pack(self, kind: str, parent: dict[str, Any], content: dict[str, Any]) -> list[bytes]:
        header = {
            "msg_id": uuid.uuid4().hex,
            "session": self._session,
            "username": "aster",
            "date": datetime.now(UTC).isoformat(),
            "msg_type": kind,
            "version": "5.4",
        }
        parts = [json.dumps(part).encode() for part in (header, parent, {}, content)]
        return [_DELIMITER, self._sign(parts), *parts]

    def _sign(self, parts: list[bytes]) -> bytes:
        if self._hmac is None:
            return b""
        signer = self._hmac.copy()
        for part in parts:
            signer.update(part)
        return signer.hexdigest().encode()
