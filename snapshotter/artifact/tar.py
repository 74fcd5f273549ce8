"""Where the files of a tar lie, found by reading its headers only.

Sans-I/O: :func:`index_tar` asks for the bytes it wants and is sent them, whoever
drives it knows where they come from: ranges of a blob, or a stream that passes. It
hops from header to header, so of a 40 GiB layer with one file two kilobytes are read.

Formats: POSIX.1-2001 pax and ustar (``pax``, IEEE Std 1003.1, "Extended Description"),
GNU long names and base-256 numbers, V7. Where readers are known to disagree
(global ``path``, sparse files) the archive is refused. Which names and links may be
served is not decided here: an index is kept, and settings change.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass, field

from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.names import decode_path
from snapshotter.artifact.tarheader import (
    BLOCK,
    SIZE_LIMIT,
    check_sum,
    number,
    padded,
    pax_records,
    pax_time,
    stored_name,
)

ENTRY_LIMIT = 100_000
"""Headers read of one archive, extended ones included."""
EXTENSION_LIMIT = 1 << 20
"""Bytes of one pax header or GNU long name."""
EXTENSIONS_LIMIT = 8 << 20
"""Bytes of all of them in one archive."""

_FIRST_READ = 4096
_MOST_READ = 1 << 20
_NEAR = 128 << 10  # a hop shorter than this costs more as a request than as bytes
_OFTEN = 16  # hops in a row after which reading on costs less than as many requests again
_NEAR_OFTEN = _MOST_READ
_ZEROS = bytes(BLOCK)
_REGULAR = (b"0", b"\0", b"7")
_LINKS = (b"1", b"2")
_SERVED = (*_REGULAR, *_LINKS, b"5")

_REFUSED = {
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a FIFO",
    b"S": "a GNU sparse file",
    b"M": "a part of a multi-volume archive",
}


@dataclass(frozen=True, slots=True)
class Want:
    """Bytes asked for. Send ``length`` of them, fewer only where the archive ends."""

    offset: int
    length: int
    useful: int = 0
    """If more than ``length``: so many are welcome where they cost little more than those."""

    @property
    def most(self) -> int:
        return max(self.length, self.useful)


@dataclass(frozen=True, slots=True)
class TarEntry:
    path: str
    """As stored, without a leading ``./``: not checked yet."""
    offset: int
    """Of the file's first byte in the archive."""
    size: int
    mode: int
    """Permission bits as stored."""
    mtime_ns: int
    is_directory: bool = False
    symlink: str = ""
    """Of a symbolic link: where it points to, as stored."""
    hardlink: str = ""
    """Of a hard link: the ``path`` of an entry before it."""

    @property
    def is_regular(self) -> bool:
        return not (self.is_directory or self.symlink or self.hardlink)


@dataclass(frozen=True, slots=True)
class TarIndex:
    """What an archive has, in its own order."""

    entries: tuple[TarEntry, ...]

    @property
    def end(self) -> int:
        """The archive must be at least so long, in bytes."""
        return max((entry.offset + entry.size for entry in self.entries), default=0)


Reading = Generator[Want, bytes, bytes]


@dataclass(slots=True)
class _Window:
    """The bytes at hand, and how many to ask for next."""

    size: int | None
    where: str
    start: int = 0
    data: bytes = b""
    step: int = _FIRST_READ
    hops: int = 0
    """In a row, none of them far."""

    def read(self, offset: int, length: int, *, may_end: bool = False) -> Reading:
        """``length`` bytes; with ``may_end`` none where an archive of unknown size has ended."""
        if self.size is not None and offset + length > self.size:
            raise self._truncated(offset + length, self.size)
        at = offset - self.start
        if at < 0 or at + length > len(self.data):
            useful = max(length, self._useful(offset))
            if self.size is not None:
                useful = min(useful, self.size - offset)
            data = yield Want(offset, length, useful)
            if len(data) < length and not (may_end and self.size is None and not data):
                if self.size is None:
                    raise self._truncated(offset + length, offset + len(data))
                raise ArtifactError(
                    f"{self.where}: {len(data)} bytes came for {length} at {offset}"
                )
            self.start, self.data, at = offset, bytes(data), 0
        return self.data[at : at + length]

    def _useful(self, offset: int) -> int:
        # Small files lie close together: read on in growing steps. A large one means that
        # what follows the header is its data, not ours. In between a hop is cheaper than
        # the bytes, but not if it goes on like that: then the round trips add up.
        gap = offset - (self.start + len(self.data))
        self.hops = self.hops + 1 if self.data and gap < _NEAR_OFTEN else 0
        near = self.data and gap < (_NEAR if self.hops < _OFTEN else _NEAR_OFTEN)
        self.step = min(self.step * 2, _MOST_READ) if near else _FIRST_READ
        return self.step

    def _truncated(self, needed: int, size: int) -> ArtifactError:
        return ArtifactError(
            f"{self.where}: the archive is truncated: byte {needed} is needed, it has {size}"
        )


@dataclass(slots=True)
class _Overrides:
    """What extended headers say of the next entry."""

    path: bytes | None = None
    link: bytes | None = None
    size: int | None = None
    mtime_ns: int | None = None


@dataclass(slots=True)
class _State:
    window: _Window
    entries: list[TarEntry]
    overrides: _Overrides = field(default_factory=_Overrides)
    headers: int = 0
    extension_bytes: int = 0

    @property
    def where(self) -> str:
        return self.window.where


def index_tar(
    size: int | None, where: str = "tar layer", found: list[TarEntry] | None = None
) -> Generator[Want, bytes, TarIndex]:
    """Index an archive of ``size`` bytes, or of a size that is not known yet (None).

    ``where`` begins every error message. Entries are put into ``found`` as soon as their
    headers were read. Raises :class:`ArtifactError` when it is no tar, truncated, or has
    something that is never served; where the size is not known compare it with
    :attr:`TarIndex.end` afterwards.
    """
    state = _State(_Window(size, where), found if found is not None else [])
    offset = 0
    while size is None or offset < size:
        block = yield from state.window.read(offset, BLOCK, may_end=True)
        if not block:
            break  # without the two blocks of zeros, as some writers leave it
        if block == _ZEROS:
            # The end is two blocks of zeros; one at the very end is tolerated.
            if size is None or offset + 2 * BLOCK <= size:
                second = yield from state.window.read(offset + BLOCK, BLOCK, may_end=True)
                if second not in (b"", _ZEROS):
                    raise ArtifactError(f"{where}: data after a block of zeros at {offset}")
            break
        state.headers += 1
        if state.headers > ENTRY_LIMIT:
            raise ArtifactError(f"{where}: more than {ENTRY_LIMIT} entries in one archive")
        offset = yield from _entry(state, block, offset)
    if state.overrides != _Overrides():
        raise ArtifactError(f"{where}: the archive is truncated: an extended header ends it")
    return TarIndex(tuple(state.entries))


def _entry(state: _State, block: bytes, offset: int) -> Generator[Want, bytes, int]:
    """Handle the header at ``offset``; returns where the next one is."""
    check_sum(block, offset, state.where)
    kind = block[156:157]
    stored = number(block[124:136], "size", offset, state.where)
    data = offset + BLOCK
    if kind in (b"x", b"g", b"L", b"K"):
        body = yield from _extension(state, data, stored)
        _extend(state, kind, body, offset)
        return data + padded(stored)
    overrides, state.overrides = state.overrides, _Overrides()
    raw = stored_name(block) if overrides.path is None else overrides.path
    name = decode_path(raw, state.where)
    if kind not in _SERVED:
        what = _REFUSED.get(kind, f"of unknown type {kind!r}")
        raise ArtifactError(
            f"{state.where}: entry {name[:120]!r} is {what}: "
            "only regular files, directories and, where allowed, links are served"
        )
    # V7 archives mark a directory by the name's end alone.
    is_directory = kind == b"5" or (kind in _REGULAR and name.endswith("/"))
    length = stored if overrides.size is None else overrides.size
    if is_directory or kind in _LINKS:
        length = 0  # header only, whatever its size field says; as Go and GNU tar read it
    if state.window.size is not None and data + length > state.window.size:
        raise ArtifactError(
            f"{state.where}: the archive is truncated: {name[:120]!r} ends at "
            f"{data + length}, the archive at {state.window.size}"
        )
    path = _clean(name, is_directory)
    if path is not None:
        link = ""
        if kind in _LINKS:
            stored_link = block[157:257].split(b"\0", 1)[0]
            link = decode_path(
                stored_link if overrides.link is None else overrides.link, state.where
            )
            if not link:
                raise ArtifactError(f"{state.where}: link {name[:120]!r} has no target")
        mtime = overrides.mtime_ns
        if mtime is None:
            mtime = number(block[136:148], "mtime", offset, state.where) * 10**9
        state.entries.append(
            TarEntry(
                path=path,
                offset=data,
                size=length,
                mode=number(block[100:108], "mode", offset, state.where) & 0o7777,
                mtime_ns=min(mtime, SIZE_LIMIT),
                is_directory=is_directory,
                symlink=link if kind == b"2" else "",
                hardlink=_clean(link, False) or "" if kind == b"1" else "",
            )
        )
    return data + padded(length)


def _clean(name: str, is_directory: bool) -> str | None:
    """Without what tar itself adds: a leading ``./`` and a directory's ``/``. Root is None."""
    if is_directory:
        name = name.removesuffix("/")
        if name == ".":
            return None
    return name.removeprefix("./")


def _extension(state: _State, offset: int, size: int) -> Reading:
    state.extension_bytes += size
    if size > EXTENSION_LIMIT or state.extension_bytes > EXTENSIONS_LIMIT:
        raise ArtifactError(
            f"{state.where}: extended headers too large: {size} bytes at {offset}, at most "
            f"{EXTENSION_LIMIT} each and {EXTENSIONS_LIMIT} in all"
        )
    body: bytes = yield from state.window.read(offset, size)
    return body


def _extend(state: _State, kind: bytes, body: bytes, offset: int) -> None:
    if kind == b"L":
        state.overrides.path = body.split(b"\0", 1)[0]
        return
    if kind == b"K":
        state.overrides.link = body.split(b"\0", 1)[0]
        return
    records = pax_records(body, offset, state.where)
    if any(key.startswith(b"GNU.sparse.") for key in records):
        raise ArtifactError(f"{state.where}: GNU sparse file at {offset}: not served")
    if kind == b"g":
        if records.keys() & {b"path", b"size", b"linkpath"}:
            raise ArtifactError(f"{state.where}: global path or size at {offset}: refused")
        return
    if path := records.get(b"path"):
        state.overrides.path = path
    if link := records.get(b"linkpath"):
        state.overrides.link = link
    if size := records.get(b"size"):
        if not re.fullmatch(rb"[0-9]{1,19}", size) or int(size) > SIZE_LIMIT:
            raise ArtifactError(f"{state.where}: pax size {size[:40]!r} at {offset} is no size")
        state.overrides.size = int(size)
    if mtime := records.get(b"mtime"):
        state.overrides.mtime_ns = pax_time(mtime, offset, state.where)
