"""An HTTP server on this machine that follows a script, byte by byte, and breaks as servers do."""

from __future__ import annotations

import asyncio
import contextlib
import json

NEVER = object()
"""A reply that does not come."""


def http(status, body, *headers, cut=None):
    """A whole response, or its beginning."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(text)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + text[:cut]


class ScriptedServer:
    """Answers the requests in turn with ``replies``, and all after them with the last.

    Attributes:
        heads, bodies: of the requests, as they came.
        open, most: connections now, and the most there were at once.
    """

    def __init__(self, *replies):
        self.replies, self.heads, self.bodies, self.open, self.most = replies, [], [], 0, 0

    @contextlib.asynccontextmanager
    async def __call__(self):
        served = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 24)
        try:
            yield f"http://127.0.0.1:{served.sockets[0].getsockname()[1]}"
        finally:
            served.close()
            await served.wait_closed()

    def answer(self, head, body):
        """The bytes of a reply, or ``NEVER``; a scripted one that can be called is given the body's JSON."""
        reply = self.replies[min(len(self.bodies), len(self.replies)) - 1]
        return reply(json.loads(body)) if callable(reply) else reply

    async def _serve(self, reader, writer):
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            body = await reader.readexactly(int(fields(head).get("content-length", 0)))
            self.heads.append(head)
            self.bodies.append(body)
            reply = self.answer(head, body)
            if reply is NEVER:
                await reader.read()
            else:
                await asyncio.sleep(0.005)  # so that requests at once overlap, which ``most`` counts
                writer.write(reply)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1
            writer.close()


def fields(head):
    """The header fields of a request, in small letters."""
    return dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
