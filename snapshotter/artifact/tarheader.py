"""Fields of a tar's headers: 512 bytes in, values out.

POSIX.1-2001 (``pax``, "ustar Interchange Format" and "pax Extended Header"), and what GNU
and star made of them.
"""

from __future__ import annotations

import re

from snapshotter.artifact.errors import ArtifactError

BLOCK = 512
SIZE_LIMIT = (1 << 63) - 1

_PAX_LENGTH = re.compile(rb"([0-9]{1,8}) ")


def pax_records(body: bytes, offset: int, where: str) -> dict[bytes, bytes]:
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


def pax_time(text: bytes, offset: int, where: str) -> int:
    match = re.fullmatch(rb"(-?)([0-9]{1,12})(?:\.([0-9]{0,64}))?", text)
    if match is None:
        raise ArtifactError(f"{where}: pax mtime {text[:40]!r} at {offset} is no time")
    if match[1]:
        return 0  # before 1970
    return int(match[2]) * 10**9 + int((match[3] or b"")[:9].ljust(9, b"0"))


def stored_name(block: bytes) -> bytes:
    name = block[:100].split(b"\0", 1)[0]
    if block[257:263] != b"ustar\0":
        return name  # V7 or GNU: other fields where POSIX has the prefix
    end = 476 if block[508:512] == b"tar\0" else 500  # star's own ustar has a shorter one
    prefix = block[345:end].split(b"\0", 1)[0]
    return prefix + b"/" + name if prefix else name


def number(text: bytes, what: str, offset: int, where: str) -> int:
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
    if value > SIZE_LIMIT:
        raise ArtifactError(f"{where}: {what} {value} in the tar header at {offset} is too large")
    return value


def check_sum(block: bytes, offset: int, where: str) -> None:
    stored = block[148:156].strip(b" \0")
    rest = block[:148] + b" " * 8 + block[156:]
    unsigned = sum(rest)
    value = int(stored, 8) if re.fullmatch(rb"[0-7]+", stored) else -1
    # Some old writers summed signed characters.
    if value != unsigned and value != unsigned - 256 * sum(byte > 127 for byte in rest):
        raise ArtifactError(f"{where}: no tar header at {offset}: the checksum is wrong")


def padded(size: int) -> int:
    return (size + BLOCK - 1) // BLOCK * BLOCK
