"""The durable map of a blob: which of its bytes are safely on the disk, as a small file.

The file is a line with the sha256 of the rest, then JSON. A map that is torn,
of another blob or of another version is worth nothing: reading it gives None,
and the blob starts from nothing. Pure: bytes in, bytes out.
"""

from __future__ import annotations

import hashlib

import msgspec

from snapshotter.artifact.digest import Digest

VERSION = 1


class Presence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    digest: str
    size: int
    verified: bool
    """All of the blob is there and it hashed to its digest."""
    ranges: list[tuple[int, int]]
    version: int = VERSION


def encode(presence: Presence) -> bytes:
    body = msgspec.json.encode(presence)
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def decode(raw: bytes, digest: Digest) -> Presence | None:
    """The map in ``raw``, or None unless it is a whole and sound one of this blob."""
    checksum, _, body = raw.partition(b"\n")
    if checksum != hashlib.sha256(body).hexdigest().encode():
        return None
    try:
        presence = msgspec.json.decode(body, type=Presence)
    except msgspec.DecodeError:
        return None
    if (presence.version, presence.digest) != (VERSION, digest):
        return None
    edges = [edge for pair in presence.ranges for edge in pair]
    if edges != sorted(set(edges)) or (edges and not 0 <= edges[0] < edges[-1] <= presence.size):
        return None
    if presence.verified and edges != [0, presence.size][: presence.size * 2]:
        return None
    return presence
