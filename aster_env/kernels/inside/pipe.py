"""Jupyter messages over one stream socket: a length of four bytes, then JSON in the form of Jupyter's websockets.

The pool's sessions use this instead of five ZeroMQ sockets: no threads, one descriptor, nothing to sign, since
nobody else holds the other end.
"""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

from .kernel import Request

_encode = json.JSONEncoder(separators=(",", ":")).encode
_decode = json.JSONDecoder().decode
_NOT_SENT = frozenset({"execute_input"})
_SEND_AT = 1 << 16


class PipeTransport:
    """The kernel's end of a pipe.

    Args:
        connection: a connected stream socket.
    """

    stdin = False

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = bytearray()
        self._pending: list[bytes] = []
        self._size = 0

    def receive(self) -> Request | None:
        """Wait for the next request; None when the other end is gone."""
        buffer = self._received
        while True:
            if len(buffer) >= 4:
                end = 4 + int.from_bytes(buffer[:4], "big")
                if len(buffer) >= end:
                    row = _decode(buffer[4:end].decode())
                    del buffer[:end]
                    return Request(row["channel"], row["header"], row["content"])
            chunk = self._connection.recv(1 << 16)
            if not chunk:
                return None
            buffer += chunk

    def send(self, channel: str, kind: str, content: dict[str, Any], request: Request | None) -> None:
        """Queue a message; it goes out with ``flush``, or when enough wait."""
        if kind in _NOT_SENT or (kind == "status" and content["execution_state"] == "busy"):
            return
        parent = _encode(request.header["msg_id"]) if request else '""'
        text = (
            f'{{"channel":"{channel}","header":{{"msg_type":"{kind}"}},'
            f'"parent_header":{{"msg_id":{parent}}},"metadata":{{}},"content":{_encode(content)}}}'
        ).encode()
        self._pending += (struct.pack(">I", len(text)), text)
        self._size += len(text)
        if kind == "stream" or self._size > _SEND_AT:
            self.flush()

    def flush(self) -> None:
        """Send what waits."""
        if self._pending:
            data, self._pending, self._size = b"".join(self._pending), [], 0
            self._connection.sendall(data)
