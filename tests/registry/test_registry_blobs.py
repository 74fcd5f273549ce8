"""Ranged reads, against an HTTP server that can be made to misbehave."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from registry_scripted import Reply, Request, ScriptedServer, ranged, scripted

from snapshotter.artifact.descriptor import Descriptor
from snapshotter.artifact.digest import Digest, digest_of
from snapshotter.registry.blobs import BlobOrigin
from snapshotter.registry.client import Registry
from snapshotter.registry.errors import (
    BadAnswer,
    NoRanges,
    NotFound,
    Overloaded,
    RegistryError,
    Unauthorized,
    Unreachable,
)
from snapshotter.registry.options import RegistryOptions
from snapshotter.units import Seconds

CONTENT = hashlib.shake_128(b"blob").digest(300_000)
DIGEST = digest_of(CONTENT)
PATH = f"/v2/team/model/blobs/{DIGEST}"
OPTIONS = RegistryOptions(certs_d=(), docker_config="/nonexistent", read_timeout=Seconds(100))

Answer = Callable[[Request], Reply]


@pytest.fixture
def registry() -> Iterator[Registry]:
    registry = Registry(OPTIONS)
    yield registry
    registry.close()


def origin(registry: Registry, server: ScriptedServer, size: int = len(CONTENT)) -> BlobOrigin:
    descriptor = Descriptor("application/octet-stream", Digest(DIGEST), size)
    return registry.origin(server.address, "team/model", descriptor)


def test_after_wrong_bytes_another_host_is_asked_if_there_is_one(
    registry: Registry, tmp_path: Path
) -> None:
    with scripted(ranged(bytes(len(CONTENT)))) as mirror, scripted(ranged(CONTENT)) as server:
        directory = tmp_path / server.address
        directory.mkdir()
        (directory / "hosts.toml").write_text(
            f'server = "{server.url}"\n[host."{mirror.url}"]\ncapabilities = ["pull"]\n'
        )
        registry = Registry(msgspec.structs.replace(OPTIONS, certs_d=(str(tmp_path),)))
        blob = origin(registry, server)
        assert read(blob, 0, 1000) == bytes(1000)
        blob.distrust()
        assert read(blob, 0, 1000) == CONTENT[:1000]
        assert read(origin(registry, server), 0, 10) == bytes(10)
        blob.distrust()
        assert read(blob, 0, 1000) == bytes(1000)
        registry.close()


def test_a_host_that_is_alone_is_asked_again_whatever_it_gave(registry: Registry) -> None:
    with scripted(ranged(CONTENT)) as server:
        blob = origin(registry, server)
        blob.distrust()
        assert read(blob, 0, 1000) == CONTENT[:1000]
        blob.distrust()
        assert read(blob, 0, 1000) == CONTENT[:1000]


def read(blob: BlobOrigin, start: int, end: int, step: int = 1 << 20) -> bytes:
    content = bytearray()
    buffer = memoryview(bytearray(step))
    with blob.open(start, end) as body:
        while count := body.readinto(buffer):
            content += buffer[:count]
    return bytes(content)


def failure(registry: Registry, answer: Answer, start: int = 10, end: int = 1000) -> RegistryError:
    with scripted(answer) as server:
        with pytest.raises(RegistryError) as caught:
            read(origin(registry, server), start, end)
        assert server.address in str(caught.value)
        assert "\n" not in str(caught.value)
        return caught.value


def test_ranges_are_read_over_one_connection(registry: Registry) -> None:
    with scripted(ranged(CONTENT)) as server:
        blob = origin(registry, server)
        for start, end in ((0, 1), (5, 100_000), (299_999, 300_000), (0, 300_000)):
            assert read(blob, start, end, step=7777) == CONTENT[start:end]
        assert server.connections == 1
        assert server.requests[1].headers["Range"] == "bytes=5-99999"


def test_an_empty_range_asks_nobody(registry: Registry) -> None:
    with scripted(ranged(CONTENT)) as server:
        assert read(origin(registry, server), 7, 7) == b""
        assert server.requests == []


def test_a_range_outside_of_the_blob_is_the_callers_mistake(registry: Registry) -> None:
    with scripted(ranged(CONTENT)) as server, pytest.raises(ValueError, match="outside"):
        origin(registry, server).open(0, len(CONTENT) + 1)


def test_a_range_answered_with_the_whole_blob_is_an_error(registry: Registry) -> None:
    error = failure(registry, lambda request: Reply(200, {}, CONTENT))
    assert isinstance(error, NoRanges)


def test_a_wrong_answer_is_believed_the_third_time(registry: Registry) -> None:
    bad = True
    right = ranged(CONTENT)

    def answer(request: Request) -> Reply:
        return Reply(200, {}, CONTENT) if bad else right(request)

    with scripted(answer) as server:
        blob = origin(registry, server)
        hopes = []
        for _ in range(4):
            with pytest.raises(NoRanges) as caught:
                blob.open(10, 1000)
            hopes.append(caught.value.temporary)
        assert hopes == [True, True, False, False]
        bad = False
        assert read(blob, 10, 1000) == CONTENT[10:1000]
        bad = True
        with pytest.raises(NoRanges) as caught:
            blob.open(10, 1000)
        assert caught.value.temporary


def test_the_whole_blob_may_be_answered_with_the_whole_blob(registry: Registry) -> None:
    with scripted(lambda request: Reply(200, {}, CONTENT)) as server:
        assert read(origin(registry, server), 0, len(CONTENT)) == CONTENT


def test_a_whole_blob_of_another_size_is_an_error(registry: Registry) -> None:
    error = failure(registry, lambda request: Reply(200, {}, b"x"), 0, len(CONTENT))
    assert isinstance(error, BadAnswer)


@pytest.mark.parametrize("content_range", ["bytes 0-989/300000", "bytes 10-999/5", "none"])
def test_another_range_than_asked_for_is_an_error(registry: Registry, content_range: str) -> None:
    error = failure(
        registry, lambda request: Reply(206, {"Content-Range": content_range}, CONTENT[10:1000])
    )
    assert isinstance(error, BadAnswer)


@pytest.mark.parametrize("length", [989, 991])
def test_a_body_of_another_length_than_the_range_is_an_error(
    registry: Registry, length: int
) -> None:
    body = CONTENT[10 : 10 + length]
    error = failure(
        registry, lambda request: Reply(206, {"Content-Range": "bytes 10-999/300000"}, body)
    )
    assert isinstance(error, BadAnswer)


def test_a_blob_shorter_than_the_manifest_says_is_an_error(registry: Registry) -> None:
    assert isinstance(failure(registry, lambda request: Reply(416)), BadAnswer)


def test_a_compressed_range_is_an_error(registry: Registry) -> None:
    headers = {"Content-Range": "bytes 10-999/300000", "Content-Encoding": "gzip"}
    assert isinstance(failure(registry, lambda r: Reply(206, headers, bytes(990))), BadAnswer)


def test_a_body_cut_short_is_temporary(registry: Registry) -> None:
    reply = Reply(206, {"Content-Range": "bytes 10-999/300000"}, CONTENT[10:1000], cut=500)
    error = failure(registry, lambda request: reply)
    assert isinstance(error, Unreachable)
    assert error.temporary
    assert "490 bytes" in str(error)


def chunked(body: bytes) -> Reply:
    headers = {"Content-Range": "bytes 10-999/300000", "Transfer-Encoding": "chunked"}
    half = len(body) // 2
    pieces = (body[:half], body[half:], b"")
    wire = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return Reply(206, headers, wire)


def test_a_chunked_range_is_read(registry: Registry) -> None:
    with scripted(lambda request: chunked(CONTENT[10:1000])) as server:
        blob = origin(registry, server)
        assert read(blob, 10, 1000, step=100) == CONTENT[10:1000]
        assert read(blob, 10, 1000) == CONTENT[10:1000]
        assert server.connections == 1


def test_a_chunked_body_longer_than_the_range_is_an_error(registry: Registry) -> None:
    assert isinstance(failure(registry, lambda request: chunked(CONTENT[10:1001])), BadAnswer)


def test_a_chunked_body_shorter_than_the_range_is_temporary(registry: Registry) -> None:
    error = failure(registry, lambda request: chunked(CONTENT[10:999]))
    assert error.temporary


@pytest.mark.parametrize(
    ("status", "kind", "temporary"),
    [
        (404, NotFound, False),
        (403, Unauthorized, False),
        (401, Unauthorized, False),
        (400, BadAnswer, True),
        (500, Overloaded, True),
        (503, Overloaded, True),
        (429, Overloaded, True),
    ],
)
def test_a_status_says_whether_to_try_again(
    registry: Registry, status: int, kind: type[RegistryError], temporary: bool
) -> None:
    error = failure(registry, lambda request: Reply(status, {"Retry-After": "3"}, b"{}"))
    assert type(error) is kind
    assert error.status == status
    assert error.temporary is temporary
    assert error.retry_after == (3.0 if status >= 429 else None)


def test_a_connection_closed_while_idle_is_replaced_unseen(registry: Registry) -> None:
    whole = ranged(CONTENT)

    def answer(request: Request) -> Reply:
        reply = whole(request)
        return Reply(reply.status, reply.headers, reply.body, silent_close=True)

    with scripted(answer) as server:
        blob = origin(registry, server)
        for start in range(0, 1000, 100):
            assert read(blob, start, start + 100) == CONTENT[start : start + 100]
        assert len(server.requests) == 10


def test_nobody_listening_is_temporary_and_says_so(registry: Registry) -> None:
    blob = registry.origin("127.0.0.1:1", "team/model", Descriptor("", Digest(DIGEST), 10))
    with pytest.raises(Unreachable, match=r"connection refused.*registry runs") as caught:
        blob.open(0, 10)
    assert caught.value.temporary


def test_something_that_is_not_http_is_named(registry: Registry) -> None:
    error = failure(registry, lambda request: Reply(raw=b"220 mail.example ESMTP\r\n"))
    assert isinstance(error, BadAnswer)
    assert "is it a registry" in str(error)


def test_a_server_that_hangs_up_without_a_word_is_temporary(registry: Registry) -> None:
    error = failure(registry, lambda request: Reply(raw=b""))
    assert isinstance(error, Unreachable)
    assert error.temporary


def test_a_server_that_says_nothing_is_given_up() -> None:
    registry = Registry(
        RegistryOptions(certs_d=(), docker_config="/none", read_timeout=Seconds(0.1))
    )
    done = threading.Event()

    def answer(request: Request) -> Reply:
        done.wait(60)
        return Reply(500)

    with scripted(answer) as server:
        with pytest.raises(Unreachable, match="in time") as caught:
            origin(registry, server).open(0, 10)
        done.set()
    registry.close()
    assert caught.value.temporary


@pytest.mark.parametrize("who", ["body", "registry"])
def test_closing_wakes_a_reader(registry: Registry, who: str) -> None:
    hold = threading.Event()
    head = b"HTTP/1.1 206 \r\nContent-Range: bytes 0-999/300000\r\nContent-Length: 1000\r\n\r\n"
    with scripted(lambda request: Reply(raw=head + CONTENT[:10], hold=hold)) as server:
        body = origin(registry, server).open(0, 1000)
        assert body.readinto(memoryview(bytearray(10))) == 10
        failed: list[RegistryError] = []

        def reader() -> None:
            try:
                body.readinto(memoryview(bytearray(1000)))
            except RegistryError as error:
                failed.append(error)

        close = body.close if who == "body" else registry.close
        threads = [threading.Thread(target=reader), threading.Thread(target=close)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        waiting = [thread for thread in threads if thread.is_alive()]
        hold.set()
        assert not waiting
        assert "given up" in str(failed[0])


def test_a_body_not_read_to_its_end_does_not_spoil_the_next(registry: Registry) -> None:
    with scripted(ranged(CONTENT)) as server:
        blob = origin(registry, server)
        with blob.open(0, 100_000) as body:
            body.readinto(memoryview(bytearray(10)))
        assert read(blob, 50, 60) == CONTENT[50:60]
        assert server.connections == 2


def test_many_threads_read_at_once(registry: Registry) -> None:
    with scripted(ranged(CONTENT)) as server:
        blob = origin(registry, server)
        wrong: list[int] = []

        def reader(number: int) -> None:
            for start in range(number * 1000, 250_000, 30_000):
                if read(blob, start, start + 5000) != CONTENT[start : start + 5000]:
                    wrong.append(start)

        threads = [threading.Thread(target=reader, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert server.connections <= 8


def test_after_close_nothing_is_asked(registry: Registry) -> None:
    with scripted(ranged(CONTENT)) as server:
        blob = origin(registry, server)
        assert read(blob, 0, 10) == CONTENT[:10]
        registry.close()
        with pytest.raises(Unreachable, match="shutting down"):
            read(blob, 0, 10)
