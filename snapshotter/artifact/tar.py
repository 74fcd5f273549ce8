"""Where the files of an uncompressed tar lie, found by reading its headers only.

Sans-I/O: :func:`index_tar` asks for the bytes it wants and is sent them, whoever
drives it knows where they come from. It hops from header to header, so of a
40 GiB layer with one file two kilobytes are read.

Formats: POSIX.1-2001 pax and ustar (``pax``, IEEE Std 1003.1, "Extended Description"),
GNU long names and base-256 numbers, V7. Where readers are known to disagree
(global ``path``, sparse files, links) the archive is refused.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass, field

from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.names import check_path, decode_path

BLOCK = 512
ENTRY_LIMIT = 100_000
"""Headers read of one archive, extended ones included."""
EXTENSION_LIMIT = 1 << 20
"""Bytes of one pax header or GNU long name."""
EXTENSIONS_LIMIT = 8 << 20
"""Bytes of all of them in one archive."""

_FIRST_READ = 4096
_MOST_READ = 1 << 20
_NEAR = 128 << 10  # a hop shorter than this costs more as a request than as bytes
_SIZE_LIMIT = (1 << 63) - 1
_ZEROS = bytes(BLOCK)
_PAX_LENGTH = re.compile(rb"([0-9]{1,8}) ")

_REFUSED = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a FIFO",
    b"S": "a GNU sparse file",
    b"M": "a part of a multi-volume archive",
}


@dataclass(frozen=True, slots=True)
class Want:
    """Bytes asked for: send exactly ``length`` of them; they never pass the archive's end."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class TarEntry:
    path: str
    """Checked by :func:`.names.check_path`."""
    offset: int
    """Of the file's first byte in the archive."""
    size: int
    mode: int
    """Permission bits as stored."""
    mtime_ns: int
    is_directory: bool = False


@dataclass(frozen=True, slots=True)
class TarIndex:
    """Files and directories in the archive's order."""

    entries: tuple[TarEntry, ...]


Reading = Generator[Want, bytes, bytes]


@dataclass(slots=True)
class _Window:
    """The bytes at hand, and how many to ask for next."""

    size: int
    where: str
    start: int = 0
    data: bytes = b""
    step: int = _FIRST_READ

    def read(self, offset: int, length: int) -> Reading:
        end = offset + length
        if end > self.size:
            raise ArtifactError(
                f"{self.where}: the archive is truncated: byte {end} is needed, it has {self.size}"
            )
        at = offset - self.start
        if at < 0 or at + length > len(self.data):
            # Small files lie close together: read on in growing steps. A large
            # one means that what follows the header is its data, not ours.
            near = offset - (self.start + len(self.data)) < _NEAR
            self.step = min(self.step * 2, _MOST_READ) if near and self.data else _FIRST_READ
            want = Want(offset, min(max(self.step, length), self.size - offset))
            data = yield want
            if len(data) != want.length:
                raise ArtifactError(
                    f"{self.where}: {len(data)} bytes came for {want.length} at {want.offset}"
                )
            self.start, self.data, at = offset, bytes(data), 0
        return self.data[at : at + length]


@dataclass(slots=True)
class _Overrides:
    """What extended headers say of the next entry."""

    path: bytes | None = None
    size: int | None = None
    mtime_ns: int | None = None


@dataclass(slots=True)
class _State:
    window: _Window
    entries: list[TarEntry] = field(default_factory=list)
    overrides: _Overrides = field(default_factory=_Overrides)
    headers: int = 0
    extension_bytes: int = 0

    @property
    def where(self) -> str:
        return self.window.where


def index_tar(size: int, where: str = "tar layer") -> Generator[Want, bytes, TarIndex]:
    """Index an archive of ``size`` bytes; ``where`` begins every error message.

    Raises :class:`ArtifactError` when it is no tar, truncated, or has something
    that is not served.
    """
    state = _State(_Window(size, where))
    offset = 0
    while offset < size:
        block = yield from state.window.read(offset, BLOCK)
        if block == _ZEROS:
            # The end is two blocks of zeros; one at the very end is tolerated.
            if offset + 2 * BLOCK <= size:
                second = yield from state.window.read(offset + BLOCK, BLOCK)
                if second != _ZEROS:
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
    _check_sum(block, offset, state.where)
    kind = block[156:157]
    stored = _number(block[124:136], "size", offset, state.where)
    data = offset + BLOCK
    if kind in (b"x", b"g", b"L", b"K"):
        body = yield from _extension(state, data, stored)
        _extend(state, kind, body, offset)
        return data + _padded(stored)
    overrides, state.overrides = state.overrides, _Overrides()
    raw = _name(block) if overrides.path is None else overrides.path
    name = decode_path(raw, state.where)
    if kind in _REFUSED or kind not in (b"0", b"\0", b"7", b"5"):
        what = _REFUSED.get(kind, f"of unknown type {kind!r}")
        raise ArtifactError(
            f"{state.where}: entry {name[:120]!r} is {what}: "
            "only regular files and directories are served"
        )
    # V7 archives mark a directory by the name's end alone.
    is_directory = kind == b"5" or name.endswith("/")
    length = stored if overrides.size is None else overrides.size
    if is_directory:
        length = 0  # header only, whatever its size field says; as Go and GNU tar read it
    if data + length > state.window.size:
        raise ArtifactError(
            f"{state.where}: the archive is truncated: {name[:120]!r} ends at "
            f"{data + length}, the archive at {state.window.size}"
        )
    path = _clean(name, is_directory)
    if path is not None:
        mtime = overrides.mtime_ns
        if mtime is None:
            mtime = _number(block[136:148], "mtime", offset, state.where) * 10**9
        state.entries.append(
            TarEntry(
                path=check_path(path, state.where),
                offset=data,
                size=length,
                mode=_number(block[100:108], "mode", offset, state.where) & 0o7777,
                mtime_ns=min(mtime, _SIZE_LIMIT),
                is_directory=is_directory,
            )
        )
    return data + _padded(length)


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
        return  # a link's target; the link itself is refused
    records = _pax_records(body, offset, state.where)
    if any(key.startswith(b"GNU.sparse.") for key in records):
        raise ArtifactError(f"{state.where}: GNU sparse file at {offset}: not served")
    if kind == b"g":
        if records.keys() & {b"path", b"size", b"linkpath"}:
            raise ArtifactError(f"{state.where}: global path or size at {offset}: refused")
        return
    if path := records.get(b"path"):
        state.overrides.path = path
    if size := records.get(b"size"):
        if not re.fullmatch(rb"[0-9]{1,19}", size) or int(size) > _SIZE_LIMIT:
            raise ArtifactError(f"{state.where}: pax size {size[:40]!r} at {offset} is no size")
        state.overrides.size = int(size)
    if mtime := records.get(b"mtime"):
        state.overrides.mtime_ns = _pax_time(mtime, offset, state.where)


def _pax_records(body: bytes, offset: int, where: str) -> dict[bytes, bytes]:
    """``"%d %s=%s\\n", length, key, value``, length counting the whole record."""
    records: dict[bytes, bytes] = {}
    at = 0
    while at < len(body):
        match = _PAX_LENGTH.match(body, at)
        end = at + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(body) or body[end - 1 : end] != b"\n":
            raise ArtifactError(f"{where}: malformed pax header at {offset}")
        key, equals, value = body[match.end() : end - 1].partition(b"=")
        if not equals or not key:
            raise ArtifactError(f"{where}: malformed pax header at {offset}")
        records[key] = value
        at = end
    return records


def _pax_time(text: bytes, offset: int, where: str) -> int:
    match = re.fullmatch(rb"(-?)([0-9]{1,12})(?:\.([0-9]{0,64}))?", text)
    if match is None:
        raise ArtifactError(f"{where}: pax mtime {text[:40]!r} at {offset} is no time")
    if match[1]:
        return 0  # before 1970
    return int(match[2]) * 10**9 + int((match[3] or b"")[:9].ljust(9, b"0"))


def _name(block: bytes) -> bytes:
    name = block[:100].split(b"\0", 1)[0]
    if block[257:263] != b"ustar\0":
        return name  # V7 or GNU: other fields where POSIX has the prefix
    end = 476 if block[508:512] == b"tar\0" else 500  # star's own ustar has a shorter one
    prefix = block[345:end].split(b"\0", 1)[0]
    return prefix + b"/" + name if prefix else name


def _number(text: bytes, what: str, offset: int, where: str) -> int:
    """Octal digits, or base-256 when the first bit is set; negative numbers count as 0."""
    if text[0] & 0x80:
        if text[0] & 0x40:
            if what == "size":
                raise ArtifactError(f"{where}: negative size in the tar header at {offset}")
            return 0
        value = int.from_bytes(bytes([text[0] & 0x7F]) + text[1:])
    else:
        digits = text.strip(b" \0")
        if not re.fullmatch(rb"[0-7]*", digits):
            raise ArtifactError(f"{where}: {what} {text!r} in the tar header at {offset}: no octal")
        value = int(digits or b"0", 8)
    if value > _SIZE_LIMIT:
        raise ArtifactError(f"{where}: {what} {value} in the tar header at {offset} is too large")
    return value


def _check_sum(block: bytes, offset: int, where: str) -> None:
    stored = block[148:156].strip(b" \0")
    rest = block[:148] + b" " * 8 + block[156:]
    unsigned = sum(rest)
    value = int(stored, 8) if re.fullmatch(rb"[0-7]+", stored) else -1
    # Some old writers summed signed characters.
    if value != unsigned and value != unsigned - 256 * sum(byte > 127 for byte in rest):
        raise ArtifactError(f"{where}: no tar header at {offset}: the checksum is wrong")


def _padded(size: int) -> int:
    return (size + BLOCK - 1) // BLOCK * BLOCK
