"""Content codings undone as the bytes come in, and no further than the bound."""

from __future__ import annotations

import zlib

from aster_env.web.base import PageError, shown

_GZIP, _ZLIB, _RAW = 31, 15, -15


class Inflater:
    """Collects a body in ``body``, decompressed, of at most ``most`` bytes.

    Args:
        coding: the header ``Content-Encoding``.
        most: bytes.

    Raises:
        PageError: the coding is none that was asked for, or more than one.
    """

    def __init__(self, coding: str, most: int) -> None:
        named = [name.strip().lower() for name in coding.split(",")]
        codings = [name for name in named if name not in ("", "identity")]
        if len(codings) > 1 or (codings and codings[0] not in ("gzip", "x-gzip", "deflate")):
            raise PageError(f"The page is compressed in a way that cannot be read ({shown(coding, 60)!r}).")
        self.body = bytearray()
        self.full = False
        self._most = most
        self._coding = codings[0] if codings else ""
        self._head = b""
        self._stream: zlib._Decompress | None = None

    @property
    def finished(self) -> bool:
        """Whether the compressed stream, if there is one, came to its end."""
        return not self._coding or (not self._head if self._stream is None else self._stream.eof)

    def feed(self, part: bytes) -> None:
        """Take in some bytes; those above the bound are dropped and set ``full``.

        Raises:
            PageError: they cannot be decompressed, and nothing before them could.
        """
        if not self._coding:
            self._take(part)
            return
        if self._stream is None:
            self._head += part
            if len(self._head) < 2:
                return
            part, self._stream = self._head, zlib.decompressobj(self._bits())
        while part and not self.full:
            if self._stream.eof:
                if self._coding == "deflate" or not part.startswith(b"\x1f\x8b"):
                    return
                self._stream = zlib.decompressobj(_GZIP)
            try:
                self._take(self._stream.decompress(part, self._most - len(self.body) + 1))
            except zlib.error as error:
                if not self.body:
                    raise PageError("The page is compressed, and damaged.") from error
                self.full = True
            part = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail

    def _take(self, plain: bytes) -> None:
        room = self._most - len(self.body)
        self.full = self.full or len(plain) > room
        self.body += plain[:room]

    def _bits(self) -> int:
        """Tell the form of the stream by its first bytes: "deflate" is sent with and without zlib's header."""
        if self._coding != "deflate":
            return _GZIP
        return _ZLIB if self._head[0] & 15 == 8 and int.from_bytes(self._head[:2], "big") % 31 == 0 else _RAW
