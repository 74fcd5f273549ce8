"""Only right bytes: by chunks and by whole blobs, against a real server that gives wrong ones."""

from __future__ import annotations

import gc
import hashlib
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fetch_answer import Answer
from fetch_origin import BlobServer, HttpOrigin, serving

from snapshotter.artifact.chunks import ChunkDigests
from snapshotter.artifact.digest import digest_of
from snapshotter.cache.blob import BlobState
from snapshotter.cache.options import CacheOptions
from snapshotter.cache.store import BlobStore
from snapshotter.fetch import gate as gate_module
from snapshotter.fetch.errors import FetchError
from snapshotter.fetch.fetcher import Fetcher
from snapshotter.fetch.options import FetchOptions
from snapshotter.fetch.verify_options import VerifyOptions
from snapshotter.units import Seconds

KIB, MIB = 1 << 10, 1 << 20
CHUNK = 256 * KIB
SIZE = 8 * MIB + 1234
CONTENT = random.Random(5).randbytes(SIZE)
DIGEST = digest_of(CONTENT)
CHUNKS = ChunkDigests(
    SIZE,
    CHUNK,
    b"".join(hashlib.sha256(CONTENT[at : at + CHUNK]).digest() for at in range(0, SIZE, CHUNK)),
)
QUICK = {"first_backoff": Seconds(0.01), "max_backoff": Seconds(0.02)}
FOREGROUND = FetchOptions(background=False, **QUICK)
COMPLETING = FetchOptions(background_delay=Seconds(0), **QUICK)
STRICT = VerifyOptions(mode="strict")
WRONG = 3 * MIB + 77
"""Where the server's copy has another byte than it should, once :func:`damage` was called."""


class Stage:
    """One blob on a server, a cache, and readers."""

    def __init__(
        self, cache: Path, server: BlobServer, *, chunks=None, verify=None, options=FOREGROUND
    ) -> None:
        self.server = server
        self.store = BlobStore(cache, CacheOptions())
        self.fetcher = Fetcher(options, verify)
        self.origin = HttpOrigin(server.port, SIZE)
        self.blob = self.store.open(DIGEST, SIZE)
        self.chunks = {DIGEST: chunks} if chunks else None
        self.model = self.fetcher.add_model([(self.blob, self.origin)], self.chunks)

    def ask(self, offset: int, size: int, *, stream: object = "file", model=None) -> Answer:
        answer = Answer()
        self.fetcher.read(model or self.model, self.blob, offset, size, stream, answer.deliver)
        return answer

    def read(self, offset: int, size: int, **how) -> bytes:
        return self.ask(offset, size, **how).get()

    def read_forward(self, step=MIB) -> bytes:
        return b"".join(self.read(offset, step) for offset in range(0, SIZE, step))

    def close(self) -> None:
        self.fetcher.close()
        self.store.close()
        self.origin.close()


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, "did not come about"
        time.sleep(0.01)


@pytest.fixture
def server(tmp_path) -> Iterator[BlobServer]:
    path = tmp_path / "source"
    path.write_bytes(CONTENT)
    with serving(path) as server:
        yield server


@pytest.fixture
def make(tmp_path, server) -> Iterator[Callable[..., Stage]]:
    stages = []

    def make(**how) -> Stage:
        stages.append(Stage(tmp_path / "cache", server, **how))
        return stages[-1]

    yield make
    for stage in stages:
        stage.close()


def damage(server: BlobServer, at: int = WRONG) -> None:
    with open(server.path, "r+b") as file:
        file.seek(at)
        file.write(bytes([CONTENT[at] ^ 1]))


def mend(server: BlobServer) -> None:
    server.path.write_bytes(CONTENT)


BOTH = pytest.mark.parametrize(
    "how", [{"chunks": CHUNKS}, {"verify": STRICT}], ids=["chunks", "strict"]
)


@BOTH
def test_readers_get_the_bytes_they_asked_for(make, how) -> None:
    stage = make(**how)
    assert stage.read(5_000_000, 300_000) == CONTENT[5_000_000:5_300_000]
    assert stage.read(SIZE - 10, 100) == CONTENT[-10:]
    assert stage.read(SIZE + 10, 100) == b""
    assert stage.read_forward() == CONTENT
    assert stage.server.sent_bytes <= SIZE


@BOTH
def test_many_readers_at_once_fetch_every_byte_once(make, how) -> None:
    stage = make(**how)
    rng = random.Random(1)
    asked = [(rng.randrange(SIZE - MIB), rng.randrange(1, MIB)) for _ in range(60)]
    answers = [stage.ask(*place, stream=n) for n, place in enumerate(asked)]
    for (offset, size), answer in zip(asked, answers, strict=True):
        assert answer.get() == CONTENT[offset : offset + size]
    assert stage.fetcher.stats.fetched_bytes <= SIZE  # more is sent where a range is cut off


@BOTH
def test_closing_fails_who_waits(make, how) -> None:
    stage = make(**how)
    go = threading.Event()
    stuck = threading.Event()

    def before(answer, start, end) -> bool:
        answer.send_response(206)
        answer.send_header("Content-Length", str(end - start))
        answer.end_headers()
        answer.wfile.write(CONTENT[start : start + 100])
        stuck.set()
        go.wait(60)
        return answer.hang_up()

    stage.server.before = before
    answers = [stage.ask(0, 10), stage.ask(10, 10)]
    assert stuck.wait(60)
    stage.close()
    go.set()
    for answer in [*answers, stage.ask(0, 10)]:
        with pytest.raises(FetchError, match="closed"):
            answer.get()


@BOTH
def test_a_model_that_is_unloaded_keeps_no_other_from_reading(make, how, server) -> None:
    stage = make(**how)
    other = stage.fetcher.add_model([(stage.blob, stage.origin)], stage.chunks)
    stage.fetcher.remove_model(stage.model)
    with pytest.raises(FetchError, match="no longer served"):
        stage.read(0, 10)
    assert stage.read(0, 10, model=other) == CONTENT[:10]


@BOTH
def test_a_registry_that_refuses_fails_the_read_and_the_next_one_works(make, how) -> None:
    stage = make(**how)
    stage.server.before = lambda answer, start, end: answer.fail(404)
    with pytest.raises(FetchError, match="404"):
        stage.read(100, 10)
    stage.server.before = lambda answer, start, end: False
    assert stage.read(100, 10) == CONTENT[100:110]


def test_a_chunk_is_fetched_whole_for_one_byte_and_no_other(make) -> None:
    stage = make(chunks=CHUNKS)
    assert stage.read(CHUNK + 5, 1) == CONTENT[CHUNK + 5 : CHUNK + 6]
    assert stage.server.requests == [(CHUNK, 2 * CHUNK)]
    assert stage.fetcher.stats.right_chunks == 1


def test_a_chunk_that_is_right_is_hashed_once(make) -> None:
    stage = make(chunks=CHUNKS)
    for offset in range(0, CHUNK, 10_000):
        stage.read(offset, 1000)
    assert stage.fetcher.stats.right_chunks == 1


def test_a_wrong_chunk_is_never_served_and_all_others_are(make, server) -> None:
    damage(server)
    stage = make(chunks=CHUNKS)
    first, last = WRONG - WRONG % CHUNK, WRONG - WRONG % CHUNK + CHUNK
    for offset in range(0, SIZE, 64 * KIB):
        if first <= offset < last:
            with pytest.raises(FetchError, match=f"bytes {first}-{last - 1}.* wrong 3 times"):
                stage.read(offset, 64 * KIB)
        else:
            assert stage.read(offset, 64 * KIB) == CONTENT[offset : offset + 64 * KIB]
    assert stage.fetcher.stats.wrong_chunks >= gate_module.ATTEMPTS
    assert stage.origin.distrusted >= gate_module.ATTEMPTS
    assert not stage.blob.has(first, last)


def test_a_read_across_a_wrong_chunk_fails_whole(make, server) -> None:
    damage(server)
    stage = make(chunks=CHUNKS)
    first = WRONG - WRONG % CHUNK
    with pytest.raises(FetchError, match="wrong 3 times"):
        stage.read(first - 100, CHUNK + 200)


def test_a_chunk_that_comes_right_the_second_time_harms_nobody(make, server) -> None:
    damage(server)
    requests = server.requests

    def before(answer, start, end) -> bool:
        if len(requests) > 1:
            mend(server)
        return False

    server.before = before
    stage = make(chunks=CHUNKS)
    assert stage.read(WRONG, 10) == CONTENT[WRONG : WRONG + 10]
    assert (stage.fetcher.stats.wrong_chunks, stage.origin.distrusted) == (1, 1)


def test_a_chunk_that_kept_coming_wrong_is_tried_again_after_a_while(
    make, server, monkeypatch
) -> None:
    monkeypatch.setattr(gate_module, "BAD_SECONDS", 3600.0)
    damage(server)
    stage = make(chunks=CHUNKS)
    for _ in range(2):
        with pytest.raises(FetchError):
            stage.read(WRONG, 10)
        assert sum(start <= WRONG < end for start, end in server.requests) == gate_module.ATTEMPTS
    mend(server)
    gate = stage.fetcher._downloads[DIGEST].gate
    gate._bad = {number: (0.0, error) for number, (_, error) in gate._bad.items()}
    assert stage.read(WRONG, 10) == CONTENT[WRONG : WRONG + 10]


def test_wrong_bytes_that_nobody_read_are_found_when_the_blob_is_hashed(make, server) -> None:
    damage(server)
    stage = make(chunks=CHUNKS, options=COMPLETING)
    stage.read(0, 10)
    eventually(lambda: stage.fetcher.stats.wrong_chunks > 0)
    first = WRONG - WRONG % CHUNK
    eventually(lambda: not stage.blob.has(first, first + CHUNK))
    assert stage.blob.state is BlobState.PARTIAL
    assert stage.blob.present_bytes >= SIZE - CHUNK
    mend(server)
    assert stage.read_forward() == CONTENT
    eventually(lambda: stage.blob.state is BlobState.VERIFIED)


def test_what_an_earlier_life_left_is_hashed_before_it_is_served(make, server) -> None:
    damage(server)
    stage = make()
    left = 2 * WRONG  # not all, which would be hashed
    assert stage.read(0, left) != CONTENT[:left]
    stage.close()
    mend(server)
    stage = make(chunks=CHUNKS)
    assert stage.read_forward() == CONTENT


def test_bytes_the_disk_lost_are_hashed_again_when_they_come_again(make, server) -> None:
    stage = make(chunks=CHUNKS)
    assert stage.read(WRONG, 10) == CONTENT[WRONG : WRONG + 10]
    stage.blob.drop(*CHUNKS.span(WRONG // CHUNK))
    damage(server)
    with pytest.raises(FetchError, match="wrong 3 times"):
        stage.read(WRONG, 10)


def test_a_model_without_a_list_shares_the_gate_of_one_that_has_it(make, server) -> None:
    damage(server)
    stage = make()
    other = stage.fetcher.add_model([(stage.blob, stage.origin)], {DIGEST: CHUNKS})
    del other
    assert stage.fetcher._downloads[DIGEST].gate is not None
    with pytest.raises(FetchError, match="wrong 3 times"):
        stage.read(WRONG, 10)


def test_strict_serves_nothing_before_the_last_byte_is_there(make, server) -> None:
    go = threading.Event()

    def before(answer, start, end) -> bool:
        if end >= SIZE:
            go.wait(60)
        return False

    server.before = before
    stage = make(verify=STRICT)
    waiting = stage.ask(0, 10)
    eventually(lambda: stage.blob.present_bytes >= SIZE - 2 * MIB)
    assert waiting.results == []
    go.set()
    assert waiting.get() == CONTENT[:10]
    assert stage.blob.state is BlobState.VERIFIED
    assert stage.server.sent_bytes == SIZE


def test_strict_serves_nothing_of_a_blob_with_one_wrong_byte(make, server) -> None:
    damage(server)
    stage = make(verify=STRICT)
    answers = [stage.ask(offset, 64 * KIB) for offset in range(0, SIZE, MIB)]
    for answer in answers:
        with pytest.raises(FetchError, match=r"gave wrong bytes|wrong bytes came, none is served"):
            answer.get()
    with pytest.raises(FetchError):
        stage.read(0, 10)
    eventually(lambda: stage.fetcher.stats.wrong_blobs == 1)


def test_strict_with_a_chunk_list_reads_lazily(make) -> None:
    stage = make(verify=STRICT, chunks=CHUNKS)
    assert stage.read(0, 10) == CONTENT[:10]
    assert stage.server.sent_bytes == CHUNK


def test_strict_after_a_restart_waits_for_no_verified_blob(make, server) -> None:
    stage = make(verify=STRICT)
    assert stage.read_forward() == CONTENT
    stage.close()
    server.before = lambda answer, start, end: answer.fail(404)
    assert make(verify=STRICT).read_forward() == CONTENT


def test_a_blob_is_hashed_while_it_comes_and_not_again(make) -> None:
    stage = make()
    assert stage.read(0, 4 * MIB) == CONTENT[: 4 * MIB]
    hashed = stage.fetcher._verifier._hashed
    eventually(lambda: stage.blob in hashed and hashed[stage.blob].position == 4 * MIB)
    stage.read_forward()
    eventually(lambda: stage.fetcher.stats.verified_blobs == 1)
    assert stage.blob.state is BlobState.VERIFIED


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A tmpfs of 4 MiB."""
    directory = tmp_path / "small"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", directory], check=True)
    yield directory
    gc.collect()  # the last descriptor goes with the last user of a blob
    subprocess.run(["umount", directory], check=True)


def test_a_full_disk_stops_no_reader_of_chunks(small_disk, server) -> None:
    stage = Stage(small_disk, server, chunks=CHUNKS)
    assert stage.read_forward(step=300 * KIB) == CONTENT
    assert stage.read_forward(step=64 * KIB) == CONTENT
    # A chunk the cache does not take is kept for the reads that follow.
    assert stage.server.sent_bytes < 3 * SIZE
    # One that is not all there; the small one at the end may have found room.
    gap = stage.blob.missing(0, SIZE - CHUNK)[-1][0]
    lacking = gap // CHUNK * CHUNK
    damage(server, gap)
    for offset in range(0, SIZE - CHUNK, CHUNK):
        if offset != lacking:
            assert stage.read(offset, CHUNK) == CONTENT[offset : offset + CHUNK]
    with pytest.raises(FetchError, match="wrong 3 times"):
        stage.read(lacking, 10)
    stage.close()
    stage.__dict__.clear()


def test_a_full_disk_fails_strict_readers_and_says_why(small_disk, server) -> None:
    stage = Stage(small_disk, server, verify=STRICT)
    with pytest.raises(FetchError, match="cache did not take all of it"):
        stage.read(0, 10)
    stage.close()
    stage.__dict__.clear()


def test_forty_readers_beside_a_server_that_fails_and_gives_wrong_bytes(make, server) -> None:
    copies = [server.path, server.path.with_name("damaged")]
    copies[1].write_bytes(CONTENT[:WRONG] + bytes(500_000) + CONTENT[WRONG + 500_000 :])

    def before(answer, start, end) -> bool:
        server.path = copies[os.urandom(1)[0] < 60]
        return os.urandom(1)[0] < 30 and (answer.fail(503) or answer.hang_up())

    server.before = before
    stage = make(chunks=CHUNKS)
    rng = random.Random(11)
    asked = [(rng.randrange(SIZE - MIB), rng.randrange(1, MIB)) for _ in range(40)]
    answers = [stage.ask(*place, stream=n) for n, place in enumerate(asked)]
    failed = []
    for (offset, size), answer in zip(asked, answers, strict=True):
        try:
            seen = answer.get()
        except FetchError as error:
            failed.append(str(error))
        else:
            assert seen == CONTENT[offset : offset + size]
    assert all("wrong 3 times" in why for why in failed)
