"""The fetcher against a real server: what it asks for, and what readers get."""

from __future__ import annotations

import gc
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

from snapshotter.artifact.digest import digest_of
from snapshotter.cache.blob import Blob, BlobState
from snapshotter.cache.options import CacheOptions
from snapshotter.cache.store import BlobStore
from snapshotter.fetch import couriers, fetcher, hot, state, stats
from snapshotter.fetch.errors import FetchError
from snapshotter.fetch.fetcher import Fetcher, LoadedModel, ReadResult
from snapshotter.fetch.options import FetchOptions
from snapshotter.units import ByteSize, Seconds

KIB, MIB = 1 << 10, 1 << 20
SIZE = 24 * MIB + 1234
CONTENT = random.Random(7).randbytes(SIZE)
DIGEST = digest_of(CONTENT)
QUICK = {"first_backoff": Seconds(0.01), "max_backoff": Seconds(0.02)}
FOREGROUND = FetchOptions(background=False, **QUICK)
COMPLETING = FetchOptions(background_delay=Seconds(0), **QUICK)


class Stage:
    """One blob on a server, a cache, and readers."""

    def __init__(self, cache: Path, server: BlobServer, options: FetchOptions) -> None:
        self.server = server
        self.store = BlobStore(cache, CacheOptions())
        self.settled = threading.Event()
        self.fetcher = Fetcher(options, on_verified=self._settle, on_bad=self._settle)
        self.origins: list[HttpOrigin] = []
        self.blob = self.store.open(DIGEST, SIZE)
        self.model = self.add_model()

    def _settle(self, blob: Blob) -> None:
        self.settled.set()

    def add_model(self) -> LoadedModel:
        self.origins.append(HttpOrigin(self.server.port, SIZE))
        return self.fetcher.add_model([(self.blob, self.origins[-1])])

    def ask(self, offset, size, *, stream="file", model=None) -> Answer:
        answer = Answer()
        model = model or self.model
        self.fetcher.read(model, self.blob, offset, size, stream, answer.deliver)
        return answer

    def read(self, offset, size, **how) -> bytes:
        return self.ask(offset, size, **how).get()

    def read_forward(self, *, step=MIB, **how) -> bytes:
        return b"".join(self.read(offset, step, **how) for offset in range(0, SIZE, step))

    def close(self) -> None:
        self.fetcher.close()
        self.store.close()
        for origin in self.origins:
            origin.close()


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, "it never became true"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("source") / "blob"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def server(source) -> Iterator[BlobServer]:
    with serving(source) as server:
        yield server


@pytest.fixture
def stage(tmp_path, server, request) -> Iterator[Stage]:
    stage = Stage(tmp_path / "cache", server, getattr(request, "param", FOREGROUND))
    yield stage
    stage.close()


def with_options(options: FetchOptions) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("stage", [options], indirect=True, ids=[""])


def test_a_reader_gets_the_bytes_it_asked_for(stage) -> None:
    assert stage.read(5_000_000, 300_000) == CONTENT[5_000_000:5_300_000]
    assert stage.read(SIZE - 10, 100) == CONTENT[-10:]
    assert stage.read(SIZE + 10, 100) == b""


def test_bytes_that_are_there_are_answered_before_read_returns(stage) -> None:
    stage.read(0, 64 * KIB)
    assert stage.ask(100, 1000).results == [CONTENT[100:1100]]
    assert len(stage.server.requests) == 1


def test_reading_forward_fetches_every_byte_once(stage, monkeypatch) -> None:
    monkeypatch.setattr(stats, "_WINDOW", 3600.0)
    assert stage.read_forward() == CONTENT
    assert stage.server.sent_bytes == SIZE
    assert stage.model.present_of(stage.blob) == stage.model.total_bytes == SIZE
    # What is there can be read before it is counted.
    wait_until(lambda: stage.model.fetched_bytes == stage.fetcher.stats.fetched_bytes == SIZE)
    assert stage.fetcher.stats.requests == len(stage.server.requests)
    assert stage.fetcher.stats.rate() > 0


def test_reading_forward_is_answered_from_the_buffers_bytes_arrived_in(stage, monkeypatch) -> None:
    for module, name in ((state, "LULL"), (hot, "STALE"), (couriers, "_REST")):
        monkeypatch.setattr(module, name, 3600.0)  # however late this reader goes on
    for offset in range(0, SIZE, MIB):
        assert stage.read(offset, MIB) == CONTENT[offset : offset + MIB]
        if offset:  # with the second read it is known to go forward: the next bytes come unasked
            soon = min(offset + 2 * MIB, SIZE)
            wait_until(lambda soon=soon: stage.blob.has(0, soon))
    assert stage.fetcher.stats.hot_bytes > SIZE // 2


def test_the_buffers_are_given_back_when_nothing_is_fetched(stage, monkeypatch) -> None:
    monkeypatch.setattr(couriers, "_REST", 0.1)
    stage.read_forward()
    wait_until(lambda: stage.fetcher._hot.idle)
    assert stage.read(0, SIZE) == CONTENT


@with_options(FetchOptions(background=False, memory=ByteSize(0), **QUICK))
def test_without_memory_for_them_everything_comes_from_the_cache(stage) -> None:
    assert stage.read_forward() == CONTENT
    assert stage.fetcher.stats.hot_bytes == 0


@pytest.mark.parametrize("stage", [FOREGROUND, COMPLETING], indirect=True)
def test_eight_readers_of_one_file_fetch_it_once(stage) -> None:
    contents: dict[int, bytes] = {}

    def read(number: int) -> None:
        contents[number] = stage.read_forward(step=(number + 1) * 100 * KIB, stream=number)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(contents.values()) == [CONTENT] * 8
    assert stage.server.sent_bytes == SIZE


def test_two_models_with_one_blob_fetch_it_once(stage) -> None:
    other = stage.add_model()
    assert stage.read_forward() == CONTENT
    assert stage.read_forward(model=other) == CONTENT
    assert stage.server.sent_bytes == SIZE
    assert other.present_of(stage.blob) == SIZE
    assert other.fetched_bytes == 0


def test_random_small_reads_fetch_little(stage) -> None:
    rng = random.Random(3)
    for _ in range(100):
        offset = rng.randrange(SIZE - 4 * KIB)
        assert stage.read(offset, 4 * KIB) == CONTENT[offset : offset + 4 * KIB]
    assert max(end - start for start, end in stage.server.requests) <= 128 * KIB


def test_random_reads_beside_each_other_and_completion_fetch_every_byte_once(
    tmp_path, server
) -> None:
    stage = Stage(tmp_path / "cache", server, COMPLETING)
    rng = random.Random(4)
    asked = [(rng.randrange(SIZE), rng.randrange(1, 2 * MIB)) for _ in range(200)]
    answers = [stage.ask(*place, stream=n) for n, place in enumerate(asked)]
    for (offset, size), answer in zip(asked, answers, strict=True):
        assert answer.get() == CONTENT[offset : offset + size]
    assert stage.settled.wait(60)
    wait_until(lambda: stage.fetcher.stats.fetched_bytes == SIZE)
    stage.close()


@with_options(COMPLETING)
def test_a_model_that_was_read_from_is_completed_and_verified(stage) -> None:
    stage.read(0, 1)
    assert stage.settled.wait(60)
    assert stage.blob.state is BlobState.VERIFIED
    assert stage.server.sent_bytes == SIZE


def test_what_was_complete_before_is_verified_when_the_model_is_added(tmp_path, server) -> None:
    store = BlobStore(tmp_path / "cache", CacheOptions())
    store.open(DIGEST, SIZE).write(0, CONTENT)
    store.close()
    stage = Stage(tmp_path / "cache", server, FOREGROUND)
    assert stage.settled.wait(60)
    assert stage.blob.state is BlobState.VERIFIED
    assert stage.server.requests == []
    stage.close()


def test_what_an_earlier_life_fetched_is_not_fetched_again(tmp_path, server) -> None:
    stage = Stage(tmp_path / "cache", server, FOREGROUND)
    stage.read(0, 64 * KIB)
    stage.close()
    stage = Stage(tmp_path / "cache", server, FOREGROUND)
    assert stage.read(0, 64 * KIB) == CONTENT[: 64 * KIB]
    assert len(server.requests) == 1
    stage.close()


@pytest.mark.parametrize("fault", ["503", "hang up", "half"])
def test_a_passing_fault_is_not_seen_by_the_reader(stage, fault) -> None:
    faults = iter([True] * 3)

    def before(answer, start, end) -> bool:
        if not next(faults, False):
            return False
        if fault == "503":
            return answer.fail(503)
        if fault == "half":
            answer.send_range(start, end, until=(start + end) // 2)
            return True
        return answer.hang_up()

    stage.server.before = before
    assert stage.read(0, 256 * KIB) == CONTENT[: 256 * KIB]
    assert len(stage.server.requests) >= 4
    assert stage.fetcher.stats.fetched_bytes == 256 * KIB


def test_a_lasting_fault_fails_that_read_only_and_the_next_one_works(stage) -> None:
    gone = threading.Event()
    gone.set()
    stage.server.before = lambda answer, start, end: (
        start == 0 and gone.is_set() and answer.fail(404)
    )
    broken, fine = stage.ask(0, 10), stage.ask(10 * MIB, 10)
    with pytest.raises(FetchError, match="404"):
        broken.get()
    assert fine.get() == CONTENT[10 * MIB : 10 * MIB + 10]
    gone.clear()
    assert stage.read(0, 10) == CONTENT[:10]


class Clock:
    """The fetcher's, which can be put forward."""

    ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


def wait_in_vain(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read waits for its whole deadline, and no attempt is under way after it."""
    clock = Clock()
    for module in (fetcher, couriers):
        monkeypatch.setattr(module, "time", clock)
    stage.server.before = lambda answer, start, end: answer.fail(503)
    answer = stage.ask(0, 10)
    (download,) = stage.model.origins
    wait_until(lambda: download.failures > 0)
    assert answer.results == []
    clock.ahead = FOREGROUND.read_deadline
    with pytest.raises(FetchError, match=r"bytes 0-9 did not come within 300 s; last error: .*503"):
        answer.get()
    wait_until(lambda: not download.flights)


def test_a_registry_that_stays_away_fails_the_read_at_its_deadline(stage, monkeypatch) -> None:
    wait_in_vain(stage, monkeypatch)
    stage.server.before = lambda answer, start, end: False
    assert stage.read(0, 10) == CONTENT[:10]


def test_after_a_read_waited_too_long_those_behind_it_wait_for_one_attempt(
    stage, monkeypatch
) -> None:
    """Readers of one page come one after the other: each would wait for a deadline of its own."""
    wait_in_vain(stage, monkeypatch)
    for _ in range(20):
        asked = len(stage.server.requests)
        with pytest.raises(FetchError, match="503") as caught:
            stage.read(0, 10)
        assert "did not come within" not in str(caught.value)
        assert len(stage.server.requests) > asked


def test_wrong_bytes_are_found_and_nothing_is_served_any_more(stage, tmp_path) -> None:
    wrong = bytearray(CONTENT)
    wrong[20 * MIB] ^= 1
    stage.server.path = tmp_path / "wrong"
    stage.server.path.write_bytes(wrong)
    stage.read(0, SIZE)  # at once: between two reads it could be found out
    assert stage.settled.wait(60)
    assert stage.blob.state is BlobState.BAD
    for model in (stage.model, stage.add_model()):
        with pytest.raises(FetchError, match="none is served any more"):
            stage.read(0, 10, model=model)
    assert stage.blob.present_bytes == 0


def test_a_receiver_that_fails_harms_nobody_else(stage) -> None:
    def fails(result: ReadResult) -> None:
        raise RuntimeError("a receiver's own fault")

    for _ in range(3):
        stage.fetcher.read(stage.model, stage.blob, 0, 10, "broken", fails)
    assert stage.read(0, 10) == CONTENT[:10]
    assert stage.read(10 * MIB, 10) == CONTENT[10 * MIB : 10 * MIB + 10]


def held_back(server: BlobServer) -> threading.Event:
    """Let the server send nothing until the event is set."""
    go = threading.Event()

    def before(answer, start, end) -> bool:
        go.wait(60)
        return False

    server.before = before
    return go


def test_reads_of_a_removed_model_are_still_answered_and_new_ones_fail(stage) -> None:
    go = held_back(stage.server)
    waiting = stage.ask(0, 10)
    stage.fetcher.remove_model(stage.model)
    go.set()
    assert waiting.get() == CONTENT[:10]
    with pytest.raises(FetchError, match="model was unloaded"):
        stage.read(0, 10)


@with_options(FetchOptions(background_delay=Seconds(0), connections=3, reserved=2))
def test_removing_a_model_ends_its_completion(stage) -> None:
    go = held_back(stage.server)
    waiting = stage.ask(0, 10)
    wait_until(lambda: len(stage.server.requests) == 2)
    stage.fetcher.remove_model(stage.model)
    go.set()
    assert waiting.get() == CONTENT[:10]
    (download,) = stage.model.origins
    wait_until(lambda: not download.flights)
    assert stage.fetcher.stats.fetched_bytes < 8 * MIB


def test_closing_fails_whoever_waits_and_wakes_whoever_receives(
    tmp_path, server, monkeypatch
) -> None:
    monkeypatch.setattr(couriers, "_JOIN", 20.0)  # less than its socket would wait
    stuck = threading.Event()
    go = threading.Event()

    def before(answer, start, end) -> bool:
        answer.send_response(206)
        answer.send_header("Content-Length", str(end - start))
        answer.end_headers()
        answer.wfile.write(CONTENT[start : start + 100])
        stuck.set()
        go.wait(60)
        return answer.hang_up()

    server.before = before
    stage = Stage(tmp_path / "cache", server, FOREGROUND)
    answer = stage.ask(0, 4 * KIB)
    assert stuck.wait(60)
    threads = [t for t in threading.enumerate() if t.name.startswith("modelpack-")]
    stage.close()
    stage.close()
    go.set()
    with pytest.raises(FetchError, match="closed"):
        answer.get()
    assert not any(thread.is_alive() for thread in threads)
    with pytest.raises(FetchError, match="closed"):
        stage.read(0, 10)
    with pytest.raises(FetchError, match="closed"):
        stage.add_model()


def test_nonsense_offsets_are_refused(stage) -> None:
    with pytest.raises(ValueError, match="cannot read"):
        stage.ask(-1, 10)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A tmpfs of 8 MiB."""
    directory = tmp_path / "small"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", directory], check=True)
    yield directory
    gc.collect()  # the last descriptor goes with the last user of a blob
    subprocess.run(["umount", directory], check=True)


def test_a_full_disk_stops_no_reader(small_disk, server) -> None:
    stage = Stage(small_disk, server, COMPLETING)
    answers = [stage.ask(offset, MIB) for offset in range(0, SIZE, MIB)]
    assert b"".join(answer.get() for answer in answers) == CONTENT
    assert stage.read_forward(step=300 * KIB) == CONTENT
    assert 0 < stage.blob.present_bytes < 8 * MIB
    for start, end in stage.blob.present:
        assert stage.blob.pread(start, end - start) == CONTENT[start:end]
    stage.close()
    stage.__dict__.clear()


def test_forty_random_readers_beside_a_server_that_fails_now_and_then(stage) -> None:
    rng = random.Random(11)
    stage.server.before = lambda answer, start, end: (
        os.urandom(1)[0] < 40 and (answer.fail(503) or answer.hang_up())
    )
    asked = [(rng.randrange(SIZE - MIB), rng.randrange(1, MIB)) for _ in range(40)]
    answers = [stage.ask(*place, stream=n) for n, place in enumerate(asked)]
    for (offset, size), answer in zip(asked, answers, strict=True):
        assert answer.get() == CONTENT[offset : offset + size]
