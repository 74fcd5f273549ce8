"""Compressed layers in memory, an origin that gives them out as it is told, and a node's rooms."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import struct
import tarfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import zstandard

from snapshotter.artifact.descriptor import Descriptor
from snapshotter.artifact.digest import Digest, digest_of
from snapshotter.artifact.layers import Archive
from snapshotter.artifact.mediatypes import Encoding
from snapshotter.cache.blob import Blob
from snapshotter.cache.options import CacheOptions
from snapshotter.cache.store import BlobStore
from snapshotter.fetch.fetcher import Fetcher, ReadResult
from snapshotter.fetch.options import FetchOptions
from snapshotter.registry.errors import NotFound, Unreachable
from snapshotter.units import Seconds
from snapshotter.unpack.options import UnpackOptions
from snapshotter.unpack.unpacked import Unpacked
from snapshotter.unpack.unpacker import Unpacker

TAIL = 64 << 10
"""Bytes of the smallest range that is asked for."""


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def tar(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def packed(data: bytes, encoding: Encoding) -> bytes:
    if encoding is Encoding.TAR_GZIP:
        return gzip.compress(data, compresslevel=1, mtime=0)
    return zstandard.ZstdCompressor(level=1).compress(data)


def seekable(
    data: bytes,
    frame: int,
    *,
    checksums: bool = False,
    entries: Sequence[tuple[int, int]] | None = None,
) -> bytes:
    """``data`` in zstd frames of ``frame`` bytes each, with a seek table; of ``entries`` if it is
    to be a wrong one."""
    pieces = [data[at : at + frame] for at in range(0, len(data), frame)]
    frames = [zstandard.ZstdCompressor(level=1).compress(piece) for piece in pieces]
    right = [(len(one), len(piece)) for one, piece in zip(frames, pieces, strict=True)]
    return b"".join(frames) + seek_table(entries or right, checksums=checksums)


def seek_table(entries: Sequence[tuple[int, int]], *, checksums: bool = False) -> bytes:
    """As ``contrib/seekable_format/zstd_seekable_compression_format.md`` has it."""
    check = struct.pack("<I", 0) if checksums else b""
    body = b"".join(struct.pack("<II", *entry) + check for entry in entries)
    body += struct.pack("<IBI", len(entries), 0x80 if checksums else 0, 0x8F92EAB1)
    return struct.pack("<II", 0x184D2A5E, len(body)) + body


def archive_of(
    compressed: bytes, encoding: Encoding, single: tuple[str, int] | None = None
) -> Archive:
    descriptor = Descriptor("application/octet-stream", digest_of(compressed), len(compressed))
    return Archive(descriptor, encoding, 0, "layer 1 of 1 (sha256:test)", single)


def sha256(data: bytes) -> Digest:
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


class Origin:
    """Gives ``data``, but no byte from ``limit`` on until that is raised by :meth:`allow`; only
    the end, where a seek table would be, who asks for that alone."""

    name = "registry.test/model@sha256:test"

    def __init__(self, data: bytes, limit: int | None = None) -> None:
        self.data = data
        self.size = len(data)
        self.asked: list[tuple[int, int]] = []
        self.gone = False
        self._hung = 0
        self._limit = len(data) if limit is None else limit
        self._news = threading.Condition()

    def allow(self, limit: int | None = None) -> None:
        with self._news:
            self._limit = self.size if limit is None else limit
            self._news.notify_all()

    def open(self, start: int, end: int) -> Body:
        self.asked.append((start, end))
        if self.gone:
            raise NotFound(f"{self.name}: 404", status=404)
        return Body(self, start, end)

    def wait_for(self, end: int) -> None:
        with self._news:
            hung = self._hung
            assert self._news.wait_for(
                lambda: self._limit >= end or self.gone or self._hung > hung, timeout=60
            )
            if self._hung > hung:
                raise Unreachable(f"{self.name}: hung up", temporary=True)

    def hang_up(self) -> None:
        with self._news:
            self._hung += 1
            self._news.notify_all()


class Body:
    def __init__(self, origin: Origin, start: int, end: int) -> None:
        self._origin, self._begin, self._at, self._end = origin, start, start, end

    def readinto(self, buffer: memoryview) -> int:
        count = min(len(buffer), self._end - self._at)
        if self._begin < self._origin.size - TAIL:
            self._origin.wait_for(self._at + count)
        if self._origin.gone:
            raise NotFound(f"{self._origin.name}: 404", status=404)
        buffer[:count] = self._origin.data[self._at : self._at + count]
        self._at += count
        return count

    def close(self) -> None:
        if self._at < self._end:
            self._origin.hang_up()

    def __enter__(self) -> Body:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Rooms:
    """Store, fetcher and unpacker on ``directory``."""

    def __init__(self, directory: Path, options: UnpackOptions, stack: ExitStack) -> None:
        self.bad: list[Blob] = []
        self.store = BlobStore(directory, CacheOptions())
        stack.callback(self.store.close)
        # One piece at a time: what is allowed is then what has passed, nearly.
        self.fetcher = Fetcher(
            FetchOptions(read_deadline=Seconds(30), background=False, connections=2, reserved=1),
            on_bad=self.bad.append,
        )
        stack.callback(self.fetcher.close)
        self.unpacker = Unpacker(self.store, self.fetcher, options, on_bad=self.bad.append)
        stack.callback(self.unpacker.close)


@contextmanager
def rooms(directory: Path, options: UnpackOptions = UnpackOptions()) -> Iterator[Rooms]:  # noqa: B008
    with ExitStack() as stack:
        yield Rooms(directory, options, stack)


class Reading:
    """A read under way."""

    def __init__(self, unpacked: Unpacked, offset: int, size: int) -> None:
        self._answered = threading.Event()
        self._answer: list[bytes | Exception] = []
        unpacked.read(offset, size, self._deliver)

    def _deliver(self, result: ReadResult) -> None:
        self._answer.append(result if isinstance(result, Exception) else b"".join(result))
        self._answered.set()

    @property
    def answered(self) -> bool:
        return self._answered.is_set()

    def result(self) -> bytes:
        assert self._answered.wait(60)
        if isinstance(self._answer[0], Exception):
            raise self._answer[0]
        return self._answer[0]


def read(unpacked: Unpacked, offset: int, size: int) -> bytes:
    return Reading(unpacked, offset, size).result()
