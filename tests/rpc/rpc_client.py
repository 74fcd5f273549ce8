"""A client that sends exactly the frames a test wants, and reads what comes."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from hpack import Decoder, Encoder

from snapshotter.rpc import frames
from snapshotter.rpc.connection import Connection, Request

Frame = tuple[int, int, int, bytes]
"""Type, flags, stream, payload."""

FIELDS = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/service/Call"),
    (b":authority", b"localhost"),
    (b"content-type", b"application/grpc"),
    (b"te", b"trailers"),
]


class Client:
    """The other side of a :class:`Connection`, which has greeted."""

    def __init__(self, connection: Connection, settings: bytes = b"") -> None:
        self.connection = connection
        self._encoder = Encoder()
        self._decoder = Decoder()
        greeting = frames.PREFACE + frames.frame(frames.SETTINGS, 0, 0, settings)
        assert connection.receive(greeting) == []
        self.read()

    def block(self, fields: Iterable[tuple[bytes, bytes]] = FIELDS) -> bytes:
        encoded: bytes = self._encoder.encode(list(fields))
        return encoded

    def headers(self, stream: int, block: bytes | None = None, flags: int = 0) -> bytes:
        block = self.block() if block is None else block
        return frames.frame(frames.HEADERS, flags | frames.END_HEADERS, stream, block)

    def call(self, stream: int, message: bytes = b"asked") -> list[Request]:
        body = frames.frame(frames.DATA, frames.END_STREAM, stream, frames.message(message))
        return self.connection.receive(self.headers(stream) + body)

    def read(self) -> list[Frame]:
        """The frames that were sent since the last time."""
        data, found, at = bytes(self.connection.out), [], 0
        self.connection.out.clear()
        while at < len(data):
            upper, lower, kind, flags, stream = frames.HEAD.unpack_from(data, at)
            end = at + frames.HEAD.size + (upper << 16 | lower)
            found.append((kind, flags, stream, data[at + frames.HEAD.size : end]))
            at = end
        assert at == len(data)
        return found

    def answers(self) -> dict[int, tuple[bytes, dict[str, str]]]:
        """What was answered since the last time: by stream the DATA and all header fields."""
        found: dict[int, tuple[bytes, dict[str, str]]] = {}
        for kind, _, stream, payload in self.read():
            data, fields = found.get(stream, (b"", {}))
            if kind == frames.DATA:
                data += payload
            elif kind == frames.HEADERS:
                fields = fields | dict(self._decoder.decode(payload))
            else:
                continue
            found[stream] = data, fields
        return found


def window(stream: int, by: int) -> bytes:
    return frames.frame(frames.WINDOW_UPDATE, 0, stream, struct.pack(">I", by))
