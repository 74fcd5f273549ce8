"""gzip and zstd as streams of bounded memory: compressed bytes in, pieces out on demand.

Whoever drives it puts bytes into the :class:`Feed` whenever :class:`Dry` says that there
are none at hand. Nothing is lost by that: a piece either comes out whole or not at all.
"""

from __future__ import annotations

import zlib
from typing import Protocol

import zstandard

from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.mediatypes import Encoding

ZSTD_WINDOW = 128 << 20
"""Bytes of the largest window (RFC 8878, 3.1.1.1.2) accepted, as zstd(1) without ``--long=31``."""
_GZIP = b"\x1f\x8b"
_STEP = 128 << 10


class Dry(Exception):
    """No compressed byte is at hand, and there are more to come."""


class Feed:
    """Compressed bytes that have arrived and were not taken yet."""

    def __init__(self) -> None:
        self._data = memoryview(b"")
        self._ended = False

    def put(self, data: bytes) -> None:
        """The next bytes, once those before were taken."""
        if self._data:
            raise ValueError("there are bytes at hand")
        self._data = memoryview(data)

    def end(self) -> None:
        """There are no more."""
        self._ended = True

    def read(self, size: int = -1) -> bytes:
        """At most ``size`` bytes, none only at the end; :class:`Dry` when more are to come."""
        if not self._data:
            if self._ended:
                return b""
            raise Dry
        taken = bytes(self._data[:size] if size >= 0 else self._data)
        self._data = self._data[len(taken) :]
        return taken


class Inflater(Protocol):
    def read(self, limit: int) -> bytes:
        """The next bytes, at most ``limit``; none only at the end of the stream.

        Raises :class:`Dry`, and :class:`ArtifactError` when the stream is malformed.
        """
        ...


def inflater(encoding: Encoding, feed: Feed, where: str) -> Inflater:
    """Of a compressed encoding; ``where`` begins every message."""
    return Gzip(feed, where) if encoding is Encoding.TAR_GZIP else Zstd(feed, where)


class Gzip:
    """RFC 1952: one member or several; zeros behind the last are padding."""

    def __init__(self, feed: Feed, where: str) -> None:
        self._feed = feed
        self._where = where
        self._rest = b""
        self._stream: zlib._Decompress | None = None
        self._members = 0

    def read(self, limit: int) -> bytes:
        while True:
            if self._stream is None and not self._begin():
                return b""
            assert self._stream is not None
            try:
                data = self._stream.decompress(self._rest, limit)
            except zlib.error as error:
                raise ArtifactError(f"{self._where}: malformed gzip: {error}") from None
            self._rest = self._stream.unconsumed_tail
            if self._stream.eof:
                self._rest = self._stream.unused_data
                self._stream = None
            if data:
                return data
            if self._stream is not None and not self._rest:
                self._rest = self._feed.read(_STEP)
                if not self._rest:
                    raise ArtifactError(f"{self._where}: the gzip stream is truncated")

    def _begin(self) -> bool:
        """Begin the next member; False when there is none."""
        while True:
            if self._members:
                self._rest = self._rest.lstrip(b"\0")
            if len(self._rest) >= len(_GZIP):
                break
            more = self._feed.read(_STEP)
            if not more:
                break
            self._rest += more
        if not self._rest and self._members:
            return False
        if self._rest[: len(_GZIP)] != _GZIP:
            if self._members:
                raise ArtifactError(f"{self._where}: there is garbage behind its gzip stream")
            raise ArtifactError(
                f"{self._where}: no gzip, though its media type says so: it begins with "
                f"{self._rest[:8].hex(' ') or 'nothing'}"
            )
        self._stream = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        self._members += 1
        return True


class Zstd:
    """RFC 8878: one frame or several, skippable ones among them."""

    def __init__(self, feed: Feed, where: str) -> None:
        self._where = where
        self._stream = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW).stream_reader(
            feed,  # type: ignore[arg-type]
            read_size=_STEP,
            read_across_frames=True,
        )

    def read(self, limit: int) -> bytes:
        try:
            return self._stream.read1(limit)
        except zstandard.ZstdError as error:
            raise ArtifactError(
                f"{self._where}: malformed zstd, or one that needs a window of more than "
                f"{ZSTD_WINDOW >> 20} MiB: {error}"
            ) from None
