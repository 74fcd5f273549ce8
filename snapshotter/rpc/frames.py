"""HTTP/2 frames (RFC 9113 section 4 and 6) and the header blocks that we send. Pure."""

from __future__ import annotations

import struct
from urllib.parse import quote

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0, 1, 2, 3, 4
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 5, 6, 7, 8, 9

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
WITH_PRIORITY = 0x20

MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 3, 4

NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR = 0, 1, 3, 6
REFUSED_STREAM, COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 7, 9, 11

FRAME_LIMIT = 16384
"""Bytes of a frame's payload: what both sides take unless told otherwise, and we say nothing."""
DEFAULT_WINDOW = 65535
WINDOW_LIMIT = 2**31 - 1

HEAD = struct.Struct(">BHBBI")
"""Upper byte and rest of the length, type, flags, stream."""
_MESSAGE = struct.Struct(">BI")
"""Of gRPC: is it compressed, and how long."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    size = len(payload)
    return HEAD.pack(size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def setting(name: int, value: int) -> bytes:
    return struct.pack(">HI", name, value)


def message(payload: bytes) -> bytes:
    """A message with gRPC's prefix."""
    return _MESSAGE.pack(0, len(payload)) + payload


def message_size(body: bytes | bytearray) -> tuple[bool, int]:
    """Whether the message at the front of ``body`` (5 bytes at least) is compressed; its size."""
    compressed, size = _MESSAGE.unpack_from(body)
    return bool(compressed), size


# HPACK (RFC 7541) of what we send: constants, without a table that both sides must keep.

NO_TABLE = b"\x20"
"""At the front of a connection's first block: the table is empty from now on, section 6.3."""


def literal(name: bytes, value: bytes) -> bytes:
    """Section 6.2.2, not Huffman coded."""
    return b"\x00" + _string(name) + _string(value)


def _string(text: bytes) -> bytes:
    size = len(text)
    if size < 0x7F:
        return bytes([size]) + text
    rest, encoded = size - 0x7F, bytearray(b"\x7f")
    while rest >= 0x80:
        encoded.append(rest & 0x7F | 0x80)
        rest >>= 7
    encoded.append(rest)
    return bytes(encoded) + text


_STATUS_200 = b"\x88"
RESPONSE = _STATUS_200 + literal(b"content-type", b"application/grpc")
TRAILERS_OK = literal(b"grpc-status", b"0")


def trailers(code: int, why: str) -> bytes:
    """``grpc-status`` and ``grpc-message``; of a long message the beginning."""
    said = quote(why.encode()[:4096], safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~")
    return literal(b"grpc-status", b"%d" % code) + literal(b"grpc-message", said.encode())
