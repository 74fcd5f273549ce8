"""The server's side of one HTTP/2 connection that carries gRPC: bytes in, calls out. No I/O.

Of RFC 9113 all that a client may do, and what gRPC needs of the server: nothing is pushed,
nothing is compressed, and of a request only its path and its one message are looked at.

Not its ``grpc-timeout``: a client keeps its deadline itself, and gives the call up with a
RST_STREAM when that has passed. What was begun for it goes on, as it would in a server that
was told: a snapshot is written or mounted in full or not at all.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from hpack import Decoder, HPACKError, OversizedHeaderListError

from snapshotter.rpc import frames
from snapshotter.rpc.errors import ConnectionFailed

MESSAGE_LIMIT = 4 << 20
"""Bytes of a request's message, as grpc's own servers have it."""
STREAMS_LIMIT = 1024
_HEADERS_LIMIT = 64 << 10
_UNSENT_LIMIT = 64 << 20
"""Bytes of answers that a client does not fetch, before it is given up."""
_PATHS_LIMIT, _PATH_BLOCK_LIMIT = 64, 1024
"""Header blocks that are known again, and bytes of each."""
_WINDOW = 2 * MESSAGE_LIMIT
_RENEW = 1 << 30
"""Bytes received before the connection's window is opened again."""

RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL = 8, 12, 13
"""Of gRPC's status codes, those that are given here."""


@dataclass(frozen=True, slots=True)
class Request:
    stream: int
    path: str
    message: bytes


@dataclass(slots=True)
class _Stream:
    path: str
    window: int
    """Bytes of DATA that the client takes."""
    body: bytearray = field(default_factory=bytearray)
    ended: bool = False
    """The client has sent all."""
    begun: bool = False
    """Our headers were sent."""
    unsent: bytearray = field(default_factory=bytearray)
    trailers: bytes | None = None
    """To be sent behind what is unsent."""


class Connection:
    """Not thread-safe. What is to be sent collects in :attr:`out`."""

    def __init__(self) -> None:
        settings = frames.setting(frames.MAX_CONCURRENT_STREAMS, STREAMS_LIMIT)
        settings += frames.setting(frames.INITIAL_WINDOW_SIZE, _WINDOW)
        self.out = bytearray(frames.frame(frames.SETTINGS, 0, 0, settings))
        self._open_window(frames.WINDOW_LIMIT - frames.DEFAULT_WINDOW)
        self._in = bytearray()
        self._greeted = False
        self._decoder = Decoder(max_header_list_size=_HEADERS_LIMIT)
        self._paths: dict[bytes, str] = {}
        """Of header blocks that left the decoder's table as it was, while that is the same."""
        self._streams: dict[int, _Stream] = {}
        self._last = 0
        self._block: tuple[int, bool, bytearray] | None = None
        """Stream, whether it ends, and beginning of a header block that is to be continued."""
        self._window = self._initial_window = frames.DEFAULT_WINDOW
        self._received = 0
        self._first_block = frames.NO_TABLE

    @property
    def calls(self) -> int:
        """How many are not answered in full."""
        return len(self._streams)

    def receive(self, data: bytes) -> list[Request]:
        """Take what came; the requests that are complete now.

        Raises :class:`ConnectionFailed`; a GOAWAY that says so is in :attr:`out` then.
        """
        self._in += data
        requests: list[Request] = []
        try:
            self._take_frames(requests)
        except ConnectionFailed as failure:
            self.say_goodbye(failure.code)
            raise
        return requests

    def _take_frames(self, requests: list[Request]) -> None:
        at, data = 0, self._in
        if not self._greeted:
            if not data.startswith(frames.PREFACE[: len(data)]):
                raise ConnectionFailed(frames.PROTOCOL_ERROR, "expected HTTP/2, got another thing")
            if len(data) < len(frames.PREFACE):
                return
            self._greeted, at = True, len(frames.PREFACE)
        while len(data) - at >= frames.HEAD.size:
            upper, lower, kind, flags, stream = frames.HEAD.unpack_from(data, at)
            size = upper << 16 | lower
            if size > frames.FRAME_LIMIT:
                raise ConnectionFailed(
                    frames.FRAME_SIZE_ERROR,
                    f"a frame of {size} bytes, expected {frames.FRAME_LIMIT} at most",
                )
            begin, end = at + frames.HEAD.size, at + frames.HEAD.size + size
            if end > len(data):
                break
            self._take(kind, flags, stream & frames.WINDOW_LIMIT, bytes(data[begin:end]), requests)
            at = end
        del data[:at]

    def _take(
        self, kind: int, flags: int, stream: int, payload: bytes, requests: list[Request]
    ) -> None:
        if self._block is not None and kind != frames.CONTINUATION:
            raise ConnectionFailed(frames.PROTOCOL_ERROR, "headers are not continued")
        match kind:
            case frames.HEADERS:
                block = _unpadded(flags, payload)
                if flags & frames.WITH_PRIORITY:
                    block = block[5:]
                self._take_block(stream, flags, bytearray(block), requests)
            case frames.DATA:
                self._take_data(stream, flags, payload, requests)
            case frames.WINDOW_UPDATE:
                self._take_window(stream, payload)
            case frames.SETTINGS:
                self._take_settings(flags, payload)
            case frames.PING:
                _expect(len(payload) == 8 and stream == 0, frames.FRAME_SIZE_ERROR, "PING")
                if not flags & frames.ACK:
                    self._send(frames.frame(frames.PING, frames.ACK, 0, payload))
            case frames.RST_STREAM:
                _expect(len(payload) == 4, frames.FRAME_SIZE_ERROR, "RST_STREAM")
                _expect(0 < stream <= self._last, frames.PROTOCOL_ERROR, "RST_STREAM")
                self._streams.pop(stream, None)
            case frames.CONTINUATION:
                block_of = self._block
                if block_of is None or block_of[0] != stream:
                    raise ConnectionFailed(frames.PROTOCOL_ERROR, "a CONTINUATION of nothing")
                if block_of[1]:
                    flags |= frames.END_STREAM
                self._take_block(stream, flags, block_of[2] + payload, requests)
            case frames.PUSH_PROMISE:
                raise ConnectionFailed(frames.PROTOCOL_ERROR, "a client cannot push")
            case _:
                pass  # PRIORITY, GOAWAY, and whatever is new: it asks nothing of us

    def _take_block(
        self, stream: int, flags: int, block: bytearray, requests: list[Request]
    ) -> None:
        _expect(len(block) <= _HEADERS_LIMIT, frames.ENHANCE_YOUR_CALM, "headers without an end")
        ends = bool(flags & frames.END_STREAM)
        if not flags & frames.END_HEADERS:
            self._block = (stream, ends, block)
            return
        self._block = None
        path = self._path(bytes(block))
        if stream in self._streams:  # its trailers, which gRPC's clients do not send
            _expect(ends, frames.PROTOCOL_ERROR, "trailers that do not end their stream")
            self._end(stream, requests)
            return
        _expect(stream % 2 == 1 and stream > self._last, frames.PROTOCOL_ERROR, "stream number")
        self._last = stream
        if len(self._streams) >= STREAMS_LIMIT:
            self._reset(stream, frames.REFUSED_STREAM)
            return
        self._streams[stream] = _Stream(path, self._initial_window)
        if ends:
            self._end(stream, requests)

    def _path(self, block: bytes) -> str:
        """The path a header block asks for; empty where it asks for no call of gRPC."""
        path = self._paths.get(block)
        if path is not None:
            return path
        table = self._decoder.header_table
        before = table.maxsize, list(table.dynamic_entries)
        try:
            headers = dict(self._decoder.decode(block, raw=True))
        except OversizedHeaderListError as error:
            raise ConnectionFailed(frames.ENHANCE_YOUR_CALM, f"headers: {error}") from None
        except HPACKError as error:
            raise ConnectionFailed(frames.COMPRESSION_ERROR, f"headers: {error}") from None
        path = ""
        kind = headers.get(b"content-type", b"")
        if headers.get(b":method") == b"POST" and kind.startswith(b"application/grpc"):
            path = headers.get(b":path", b"").decode(errors="replace")
        if before != (table.maxsize, list(table.dynamic_entries)):
            self._paths.clear()
        elif len(self._paths) < _PATHS_LIMIT and len(block) <= _PATH_BLOCK_LIMIT:
            self._paths[block] = path
        return path

    def _take_data(self, number: int, flags: int, payload: bytes, requests: list[Request]) -> None:
        _expect(0 < number <= self._last, frames.PROTOCOL_ERROR, "DATA of no stream")
        self._received += len(payload)
        if self._received >= _RENEW:
            self._open_window(self._received)
            self._received = 0
        stream = self._streams.get(number)
        if stream is None or stream.ended:
            return  # of a call that was answered or given up
        stream.body += _unpadded(flags, payload)
        if len(stream.body) > MESSAGE_LIMIT + 5:
            why = f"the request has more than {MESSAGE_LIMIT} bytes"
            self.finish(number, RESOURCE_EXHAUSTED, why)
            self._reset(number, frames.NO_ERROR)
        elif flags & frames.END_STREAM:
            self._end(number, requests)

    def _end(self, number: int, requests: list[Request]) -> None:
        stream = self._streams[number]
        stream.ended = True
        body = stream.body
        stream.body = bytearray()
        if not stream.path:
            self.finish(number, UNIMPLEMENTED, "expected a POST of application/grpc")
            return
        compressed, size = frames.message_size(body) if len(body) >= 5 else (False, -1)
        if compressed:
            self.finish(number, UNIMPLEMENTED, "the message is compressed, expected identity")
        elif size != len(body) - 5:
            self.finish(number, INTERNAL, "expected one message, got another number of bytes")
        else:
            requests.append(Request(number, stream.path, bytes(body[5:])))

    def _take_window(self, number: int, payload: bytes) -> None:
        _expect(len(payload) == 4, frames.FRAME_SIZE_ERROR, "WINDOW_UPDATE")
        more = int.from_bytes(payload, "big") & frames.WINDOW_LIMIT
        _expect(more > 0, frames.PROTOCOL_ERROR, "WINDOW_UPDATE by nothing")
        if number == 0:
            self._window += more
            _expect(self._window <= frames.WINDOW_LIMIT, frames.FLOW_CONTROL_ERROR, "window")
        elif stream := self._streams.get(number):
            stream.window += more
            _expect(stream.window <= frames.WINDOW_LIMIT, frames.FLOW_CONTROL_ERROR, "window")
        self._send_unsent()

    def _take_settings(self, flags: int, payload: bytes) -> None:
        if flags & frames.ACK:
            return
        _expect(len(payload) % 6 == 0, frames.FRAME_SIZE_ERROR, "SETTINGS")
        for name, value in struct.iter_unpack(">HI", payload):
            if name != frames.INITIAL_WINDOW_SIZE:
                continue  # of the others none concerns what we send
            _expect(value <= frames.WINDOW_LIMIT, frames.FLOW_CONTROL_ERROR, "window")
            for stream in self._streams.values():
                stream.window += value - self._initial_window
            self._initial_window = value
        self._send(frames.frame(frames.SETTINGS, frames.ACK, 0))
        self._send_unsent()

    def answer(self, number: int, message: bytes) -> None:
        """The one answer to a call, and its end."""
        stream = self._streams.get(number)
        if stream is None:
            return  # given up
        body = frames.message(message)
        size = len(body)
        if stream.begun or size > min(frames.FRAME_LIMIT, self._window, stream.window):
            self.send(number, message)
            self.finish(number)
            return
        self._window -= size
        del self._streams[number]
        block = self._response()
        self._send(
            frames.HEAD.pack(0, len(block), frames.HEADERS, frames.END_HEADERS, number)
            + block
            + frames.HEAD.pack(size >> 16, size & 0xFFFF, frames.DATA, 0, number)
            + body
            + frames.HEAD.pack(0, len(frames.TRAILERS_OK), frames.HEADERS, _LAST, number)
            + frames.TRAILERS_OK
        )

    def send(self, number: int, message: bytes) -> None:
        """One of several answers to a call."""
        stream = self._streams.get(number)
        if stream is None:
            return
        self._begin(number, stream)
        stream.unsent += frames.message(message)
        self._send_unsent()

    def finish(self, number: int, code: int = 0, why: str = "") -> None:
        """The end of a call: well, or with one of gRPC's status codes."""
        stream = self._streams.get(number)
        if stream is None:
            return
        trailers = frames.TRAILERS_OK if code == 0 else frames.trailers(code, why)
        if not stream.begun and code:
            stream.begun = True
            trailers = self._response() + trailers  # "Trailers-Only"
        self._begin(number, stream)
        stream.trailers = trailers
        self._send_unsent()

    def say_goodbye(self, code: int = frames.NO_ERROR) -> None:
        """No call after those that came; for the client to begin another connection."""
        said = struct.pack(">II", self._last, code)
        self._send(frames.frame(frames.GOAWAY, 0, 0, said))

    def _begin(self, number: int, stream: _Stream) -> None:
        if not stream.begun:
            stream.begun = True
            block = self._response()
            self._send(frames.frame(frames.HEADERS, frames.END_HEADERS, number, block))

    def _response(self) -> bytes:
        block, self._first_block = self._first_block + frames.RESPONSE, b""
        return block

    def _send_unsent(self) -> None:
        """What the windows let through."""
        for number, stream in list(self._streams.items()):
            while stream.unsent and self._window > 0 and stream.window > 0:
                size = min(len(stream.unsent), frames.FRAME_LIMIT, self._window, stream.window)
                self._send(frames.frame(frames.DATA, 0, number, bytes(stream.unsent[:size])))
                del stream.unsent[:size]
                stream.window -= size
                self._window -= size
            if not stream.unsent and stream.trailers is not None:
                self._send(frames.frame(frames.HEADERS, _LAST, number, stream.trailers))
                del self._streams[number]

    def _reset(self, number: int, code: int) -> None:
        self._send(frames.frame(frames.RST_STREAM, 0, number, struct.pack(">I", code)))

    def _open_window(self, by: int) -> None:
        self._send(frames.frame(frames.WINDOW_UPDATE, 0, 0, struct.pack(">I", by)))

    def _send(self, data: bytes) -> None:
        self.out += data
        if len(self.out) > _UNSENT_LIMIT:
            raise ConnectionFailed(frames.ENHANCE_YOUR_CALM, "the client fetches no answers")


_LAST = frames.END_STREAM | frames.END_HEADERS


def _expect(true: bool, code: int, what: str) -> None:
    if not true:
        raise ConnectionFailed(code, f"against HTTP/2: {what}")


def _unpadded(flags: int, payload: bytes) -> bytes:
    if not flags & frames.PADDED:
        return payload
    _expect(bool(payload) and payload[0] < len(payload), frames.PROTOCOL_ERROR, "padding")
    return payload[1 : len(payload) - payload[0]]
