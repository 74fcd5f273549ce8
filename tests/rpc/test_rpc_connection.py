"""HTTP/2 as gRPC needs it: what comes in pieces, what comes wrong, what may not be sent yet."""

from __future__ import annotations

import struct

import pytest
from hpack import Encoder
from hypothesis import example, given
from hypothesis import strategies as st
from rpc_client import FIELDS, Client, window

from snapshotter.rpc import frames
from snapshotter.rpc.connection import MESSAGE_LIMIT, STREAMS_LIMIT, Connection, Request
from snapshotter.rpc.errors import ConnectionFailed


@pytest.fixture
def client() -> Client:
    return Client(Connection())


ASKED = Request(1, "/service/Call", b"asked")


def test_a_call_is_answered_with_one_message_and_its_status(client: Client) -> None:
    assert client.call(1) == [ASKED]
    client.connection.answer(1, b"told")
    ((data, fields),) = client.answers().values()
    assert data == frames.message(b"told")
    assert fields == {":status": "200", "content-type": "application/grpc", "grpc-status": "0"}
    assert client.connection.calls == 0


def test_a_refusal_has_a_code_and_a_line(client: Client) -> None:
    client.call(1)
    client.connection.finish(1, 5, "100 % nicht da:\nü")
    ((data, fields),) = client.answers().values()
    assert data == b""
    assert fields["grpc-status"] == "5"
    assert fields["grpc-message"] == "100 %25 nicht da:%0A%C3%BC"


@given(st.data())
def test_what_comes_in_pieces_is_what_came(data: st.DataObject) -> None:
    client = Client(Connection())
    stream, expected = b"", []
    for number in range(1, 12, 2):
        message = bytes(number)
        stream += client.headers(number)
        stream += frames.frame(
            frames.DATA, frames.END_STREAM, number, frames.message(message)
        ) + frames.frame(frames.PING, 0, 0, b"pingping")
        expected.append(Request(number, "/service/Call", message))
    requests, at = [], 0
    while at < len(stream):
        size = data.draw(st.integers(1, len(stream) - at))
        requests += client.connection.receive(stream[at : at + size])
        at += size
    assert requests == expected
    pings = [frame for frame in client.read() if frame[0] == frames.PING]
    assert pings == [(frames.PING, frames.ACK, 0, b"pingping")] * 6


def test_headers_are_continued_padded_and_weighed(client: Client) -> None:
    block = client.block()
    data = frames.frame(frames.DATA, frames.PADDED, 1, b"\x03" + frames.message(b"asked") + b"xxx")
    first = b"\x02" + struct.pack(">IB", 0, 15) + block[:3] + b"\0\0"
    requests = client.connection.receive(
        frames.frame(frames.HEADERS, frames.PADDED | frames.WITH_PRIORITY, 1, first)
        + frames.frame(frames.CONTINUATION, 0, 1, block[3:9])
        + frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1, block[9:])
        + data
        + frames.frame(frames.DATA, frames.END_STREAM, 1)
    )
    assert requests == [ASKED]


def test_one_path_is_not_taken_for_another_when_the_table_changes(client: Client) -> None:
    """Blocks that change nothing are remembered, and what they name may be another field."""
    for number, path in enumerate([b"/a", b"/a", b"/b", b"/a", b"/c", b"/b", b"/b", b"/b"]):
        fields = [(name, path if name == b":path" else value) for name, value in FIELDS]
        block = client.block(fields)
        stream = 2 * number + 1
        body = frames.frame(frames.DATA, frames.END_STREAM, stream, frames.message(b""))
        (request,) = client.connection.receive(client.headers(stream, block) + body)
        assert request.path == path.decode()


@given(
    calls=st.lists(st.tuples(st.sampled_from([b"/a", b"/b", b"/c"]), st.booleans()), max_size=40),
    others_kept_out=st.booleans(),
    size=st.sampled_from([0, 80, 160, 4096]),
)
@example(
    calls=[(path, False) for path in (b"/a", b"/a", b"/b", b"/b")], others_kept_out=True, size=99
)
def test_a_path_is_read_as_it_was_sent_however_fields_are_encoded(
    calls: list[tuple[bytes, bool]], others_kept_out: bool, size: int
) -> None:
    """With a table of any size, and fields that are kept out of it."""
    client = Client(Connection())
    encoder = Encoder()
    encoder.header_table_size = size
    for number, (path, kept_out) in enumerate(calls):
        fields = [
            (b":path", path, kept_out) if name == b":path" else (name, value, others_kept_out)
            for name, value in FIELDS
        ]
        stream = 2 * number + 1
        body = frames.frame(frames.DATA, frames.END_STREAM, stream, frames.message(b""))
        sent = client.headers(stream, encoder.encode(fields)) + body
        (request,) = client.connection.receive(sent)
        assert request.path == path.decode()


def test_answers_wait_for_the_windows_and_end_with_their_status(client: Client) -> None:
    big = bytes(range(256)) * 400
    client.call(1)
    client.call(3)
    for stream in (1, 3):
        client.connection.send(stream, big)
        client.connection.finish(stream)
    sent: dict[int, bytes] = {1: b"", 3: b""}
    status: dict[int, str] = {}

    def take() -> None:
        for stream, (data, fields) in client.answers().items():
            sent[stream] += data
            if "grpc-status" in fields:
                status[stream] = fields["grpc-status"]

    take()
    assert len(sent[1] + sent[3]) == frames.DEFAULT_WINDOW
    client.connection.receive(window(1, 1 << 20))
    client.connection.receive(window(3, 1 << 20))
    take()
    assert len(sent[1] + sent[3]) == frames.DEFAULT_WINDOW  # of the connection
    client.connection.receive(window(0, 1 << 20))
    take()
    assert sent == {1: frames.message(big), 3: frames.message(big)}
    assert status == {1: "0", 3: "0"}
    assert client.connection.calls == 0


def test_a_client_changes_the_windows_of_its_calls_under_way(client: Client) -> None:
    client.call(1)
    client.connection.receive(
        frames.frame(frames.SETTINGS, 0, 0, frames.setting(frames.INITIAL_WINDOW_SIZE, 10))
    )
    client.connection.answer(1, b"x" * 20)
    assert len(client.answers()[1][0]) == 10
    client.connection.receive(
        frames.frame(frames.SETTINGS, 0, 0, frames.setting(frames.INITIAL_WINDOW_SIZE, 100))
    )
    data, fields = client.answers()[1]
    assert (len(data), fields["grpc-status"]) == (15, "0")


def test_a_call_that_was_given_up_is_not_answered(client: Client) -> None:
    client.call(1)
    client.connection.receive(frames.frame(frames.RST_STREAM, 0, 1, struct.pack(">I", 8)))
    client.read()
    client.connection.answer(1, b"told")
    client.connection.finish(1, 5, "no")
    assert client.read() == []
    assert client.connection.calls == 0


@pytest.mark.parametrize(
    ("body", "code", "why"),
    [
        (b"\x01" + struct.pack(">I", 1) + b"x", "12", "compressed"),
        (b"\x00" + struct.pack(">I", 2) + b"x", "13", "one message"),
        (frames.message(b"x") + frames.message(b"y"), "13", "one message"),
        (b"", "13", "one message"),
    ],
)
def test_what_is_no_message_is_refused(client: Client, body: bytes, code: str, why: str) -> None:
    asked = client.headers(1) + frames.frame(frames.DATA, frames.END_STREAM, 1, body)
    assert client.connection.receive(asked) == []
    fields = client.answers()[1][1]
    assert fields["grpc-status"] == code
    assert why in fields["grpc-message"]


def test_a_message_that_is_too_long_is_refused_before_it_is_there(client: Client) -> None:
    client.connection.receive(client.headers(1))
    chunk = frames.frame(frames.DATA, 0, 1, bytes(frames.FRAME_LIMIT))
    for _ in range(MESSAGE_LIMIT // frames.FRAME_LIMIT + 1):
        assert client.connection.receive(chunk) == []
    assert client.answers()[1][1]["grpc-status"] == "8"
    assert client.connection.calls == 0


def test_what_is_no_call_of_grpc_is_refused(client: Client) -> None:
    plain = [(name, b"text/html" if name == b"content-type" else v) for name, v in FIELDS]
    client.connection.receive(client.headers(1, client.block(plain), frames.END_STREAM))
    assert client.answers()[1][1]["grpc-status"] == "12"


def test_more_calls_than_can_be_under_way_are_refused_one_by_one(client: Client) -> None:
    for number in range(STREAMS_LIMIT):
        client.call(2 * number + 1)
    client.read()
    beyond = 2 * STREAMS_LIMIT + 1
    assert client.call(beyond) == []
    refused = struct.pack(">I", frames.REFUSED_STREAM)
    assert client.read() == [(frames.RST_STREAM, 0, beyond, refused)]


@pytest.mark.parametrize(
    "sent",
    [
        frames.frame(frames.DATA, 0, 7, b"x"),
        frames.frame(frames.DATA, 0, 0, b"x"),
        frames.frame(frames.HEADERS, frames.END_HEADERS, 2, b"\x82"),
        frames.frame(frames.HEADERS, frames.END_HEADERS, 1, b"\xff\xff\xff"),
        frames.frame(frames.HEADERS, 0, 1, b"\x82") + frames.frame(frames.PING, 0, 0, bytes(8)),
        frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1, b"\x82"),
        frames.frame(frames.HEADERS, frames.PADDED | frames.END_HEADERS, 1, b"\x09"),
        frames.frame(frames.PING, 0, 0, b"short"),
        frames.frame(frames.RST_STREAM, 0, 9, bytes(4)),
        frames.frame(frames.SETTINGS, 0, 0, b"\0"),
        frames.frame(frames.SETTINGS, 0, 0, frames.setting(frames.INITIAL_WINDOW_SIZE, 1 << 31)),
        frames.frame(frames.PUSH_PROMISE, 0, 1, bytes(8)),
        window(0, 0),
        window(0, frames.WINDOW_LIMIT),
        frames.HEAD.pack(0xFF, 0xFFFF, frames.DATA, 0, 1),
    ],
)
def test_who_breaks_the_protocol_is_told_and_left(client: Client, sent: bytes) -> None:
    with pytest.raises(ConnectionFailed) as failure:
        client.connection.receive(sent)
    ((kind, _, _, payload),) = client.read()
    assert kind == frames.GOAWAY
    assert struct.unpack(">II", payload)[1] == failure.value.code != frames.NO_ERROR


def test_another_protocol_is_noticed_at_its_first_bytes() -> None:
    with pytest.raises(ConnectionFailed, match="expected HTTP/2"):
        Connection().receive(b"GET / HTTP/1.1\r\n")


@given(st.binary(max_size=200))
def test_any_bytes_are_taken_or_refused(data: bytes) -> None:
    client = Client(Connection())
    try:
        client.connection.receive(data)
    except ConnectionFailed:
        pass


def test_what_is_received_opens_the_window_again(client: Client) -> None:
    client.connection.receive(client.headers(1))
    client.connection._received = (1 << 30) - 1
    client.connection.receive(frames.frame(frames.DATA, 0, 1, b"x"))
    assert client.read() == [(frames.WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 30))]
