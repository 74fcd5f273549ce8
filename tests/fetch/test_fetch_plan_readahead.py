"""The choice of the next range: how far ahead of readers is fetched, and in ranges of what size."""

from __future__ import annotations

import pytest
from fetch_play import GIB, KIB, MIB, Origin, Play

from snapshotter.fetch.options import FetchOptions
from snapshotter.fetch.pace import FIRST
from snapshotter.fetch.records import LoadedModel
from snapshotter.units import ByteSize, Seconds


def test_reading_forward_is_fetched_ahead_of_with_growing_windows() -> None:
    play = Play()
    play.read_forward(256 * KIB)
    play.settle()
    early = play.downloads[0].blob.present.total
    assert MIB <= early <= 3 * MIB
    play.read_forward(20 * MIB)
    play.settle()
    assert 40 * MIB <= play.downloads[0].blob.present.total <= 80 * MIB


def test_the_window_is_never_larger_than_allowed() -> None:
    play = Play()
    play.read_forward(300 * MIB, step=MIB)
    play.settle()
    assert 428 * MIB <= play.downloads[0].blob.present.total <= (300 + 128 + 16) * MIB


def test_a_forward_reader_gets_several_large_ranges_at_once() -> None:
    play = Play()
    play.read_forward(64 * MIB, step=MIB)
    play.downloads[0].blob.present.remove(64 * MIB, GIB)
    play.read(64 * MIB, MIB)
    ranges = play.begin_all()
    assert len(ranges) == FIRST
    assert {end - start for _, start, end in ranges} == {16 * MIB}


def test_the_reserved_connections_are_left_for_those_who_wait() -> None:
    play = Play(GIB, GIB, options=FetchOptions(background=False, connections=5))
    play.read_forward(64 * MIB, step=MIB)
    play.downloads[0].blob.present.remove(64 * MIB, GIB)
    play.read(64 * MIB, MIB)
    assert len(play.begin_all()) == 3
    play.read(0, of=1)
    play.read(512 * MIB, of=1)
    assert play.begin_all() == [(1, 0, 64 * KIB), (1, 512 * MIB, 512 * MIB + 64 * KIB)]


def test_each_registry_has_its_own_number_of_ranges_at_once() -> None:
    play = Play(GIB, GIB)
    here, there = play.downloads
    elsewhere = LoadedModel({there: Origin("other.example/models/m@sha256:0")})
    play.state.add_model(elsewhere)
    play.state.remove_model(play.model)
    play.model = LoadedModel({here: Origin()})
    play.state.add_model(play.model)
    play.read_forward(64 * MIB, step=MIB, of=0)
    play.read_forward(64 * MIB, step=MIB, of=1, model=elsewhere)
    for download in play.downloads:
        download.blob.present.remove(64 * MIB, GIB)
    begun = [blob for blob, _, _ in play.begin_all()]
    assert (begun.count(0), begun.count(1)) == (FIRST, FIRST)


def test_reading_a_whole_blob_forward_fetches_every_byte_once() -> None:
    play = Play(100 * MIB + 12345)
    play.read_forward(100 * MIB)
    play.read(100 * MIB, 12345)
    play.settle()
    assert play.model.fetched_bytes == 100 * MIB + 12345
    assert play.downloads[0].blob.complete


def test_readers_at_many_places_take_turns_by_how_near_they_are_to_waiting() -> None:
    play = Play(GIB, GIB)
    play.read_forward(8 * MIB, of=0)
    play.settle()
    play.read_forward(8 * MIB, of=1)
    # The first reader has all of its window; the second has none of it yet.
    assert play.begin().download is play.downloads[1]


def test_what_is_asked_for_ahead_of_reads_comes_after_readers_and_before_readahead() -> None:
    play = Play(GIB, MIB, options=FetchOptions(background=False, connections=3, reserved=1))
    first, second = play.downloads
    play.model.prefetch.extend([(second, 10, 500_000), (first, 600 * MIB, 601 * MIB)])
    play.read(0)
    assert play.begin_all() == [(0, 0, 64 * KIB), (1, 10, 500_000), (0, 600 * MIB, 601 * MIB)]
    assert play.begin() is None


def test_nothing_is_fetched_ahead_behind_the_tensor_a_reader_is_in() -> None:
    play = Play()
    play.downloads[0].pieces = [1 * MIB, 21 * MIB, 40 * MIB]
    play.read_forward(10 * MIB, start=1 * MIB, step=MIB)
    play.settle()
    assert list(play.downloads[0].blob.present) == [(1 * MIB, 21 * MIB)]


def test_what_the_kernel_reads_behind_a_tensor_is_no_reason_to_fetch_the_next() -> None:
    play = Play()
    play.downloads[0].pieces = [1 * MIB, 21 * MIB, 40 * MIB]
    play.read_forward(21 * MIB, start=1 * MIB, step=MIB)
    play.settle()
    assert list(play.downloads[0].blob.present) == [(1 * MIB, 22 * MIB)]


def test_a_reader_who_goes_on_to_the_next_tensor_is_read_ahead_of_as_any_other() -> None:
    play = Play()
    play.downloads[0].pieces = [1 * MIB, 21 * MIB, 40 * MIB]
    play.read_forward(24 * MIB, start=1 * MIB, step=MIB)
    play.settle()
    ((start, end),) = play.downloads[0].blob.present
    assert (start, end > 41 * MIB) == (1 * MIB, True)


def test_where_cpu_is_short_no_more_is_fetched_ahead_than_memory_holds() -> None:
    options = FetchOptions(background=False, memory=ByteSize(16 * MIB))
    ahead = {}
    for short in (False, True):
        play = Play(GIB, options=options)
        play.state.cpu_short = short
        play.read_forward(64 * MIB)
        play.settle()
        ahead[short] = play.model.fetched_bytes - 64 * MIB
    assert ahead[False] >= 64 * MIB
    assert ahead[True] <= 2 * 16 * MIB


def test_from_far_away_as_much_comes_ahead_where_cpu_is_short() -> None:
    """What is on its way is more than memory holds: 80 MiB for 0.1 s at 800 MiB/s."""
    options = FetchOptions(background=False, memory=ByteSize(16 * MIB))
    ahead = {}
    for waited in (0.001, 0.1):
        play = Play(GIB, options=options)
        play.state.cpu_short = True
        play.read_forward(64 * MIB)
        play.state.pace("registry.example").nearest = waited
        ahead[waited] = max((end for _, _, end in play.begin_all()), default=0)
    assert ahead[0.001] <= 96 * MIB
    assert ahead[0.1] >= 128 * MIB


def test_readers_who_wait_get_large_ranges_though_more_at_once_are_no_faster() -> None:
    play = Play(GIB, options=FetchOptions(background=False))
    for stream in range(12):
        for part in range(2):
            start = stream * 64 * MIB + part * MIB
            play.read(start, MIB, stream=stream)
            play.downloads[0].blob.present.add(start, start + MIB)
    play.state.reads.clear()
    play.downloads[0].reads.clear()
    for stream in range(12):
        play.read(stream * 64 * MIB + 2 * MIB, MIB, stream=stream)
    flights = [play.begin() for _ in range(12)]
    assert len(flights) > FIRST
    assert all(flight is not None and flight.streaming for flight in flights)


def test_a_reader_of_a_model_that_is_to_come_anyway_has_much_ahead_from_the_start() -> None:
    ahead = {}
    for background in (False, True):
        play = Play(GIB, options=FetchOptions(background=background))
        play.read_forward(512 * KIB)
        if background:
            play.model.background_at = play.now
        play.begin_all()
        ahead[background] = max(flight.end for flight in play.state.flights)
    assert ahead[False] <= 2 * MIB
    assert ahead[True] >= 16 * MIB


@pytest.mark.parametrize(
    ("rate", "size"), [(10 * MIB, 16 * MIB), (160 * MIB, 32 * MIB), (GIB, 64 * MIB)]
)
def test_ranges_are_as_large_as_a_connection_brings_in_a_moment(rate: int, size: int) -> None:
    play = Play(GIB, options=FetchOptions(background_delay=Seconds(0)))
    play.state.pace("registry.example").ended(8 * MIB, 8 * MIB / rate)
    play.read(0)
    flights = [flight for _ in range(3) if (flight := play.begin()) is not None]
    assert max(flight.end - flight.start for flight in flights) == size


def test_a_reader_who_moves_on_a_little_has_whole_steps_fetched() -> None:
    play = Play()
    play.read_forward(64 * MIB)
    play.settle()
    for offset in range(64 * MIB, 96 * MIB, MIB):
        play.read(offset, MIB)
        for _, start, end in play.begin_all():
            assert end - start == 16 * MIB
        for flight in list(play.state.flights):
            play.land(flight)
