"""The choice of the next range: completing models that are read."""

from __future__ import annotations

import pytest
from fetch_play import GIB, KIB, MIB, Play

from snapshotter.fetch.options import FetchOptions
from snapshotter.fetch.state import LULL
from snapshotter.registry.errors import NotFound
from snapshotter.units import ByteSize, Seconds


def test_completion_keeps_to_its_rate_and_readers_need_not() -> None:
    options = FetchOptions(background_delay=Seconds(0), background_rate=ByteSize(MIB))
    play = Play(GIB, options=options)
    play.read(GIB - 4 * KIB)
    assert play.begin_all() == [(0, GIB - 64 * KIB, GIB), (0, 0, 16 * MIB)]
    play.now += 15.9
    assert play.begin() is None
    assert play.state.next_event(play.now) == pytest.approx(0.1)
    play.read(512 * MIB)
    assert play.begin_all() == [(0, 512 * MIB, 512 * MIB + 64 * KIB)]
    play.now += 0.2
    assert play.begin_all() == [(0, 16 * MIB, 32 * MIB)]


def test_completion_waits_for_the_first_read_and_its_delay() -> None:
    play = Play(10 * MIB, 10 * MIB, options=FetchOptions(background_delay=Seconds(10)))
    assert play.begin() is None
    assert play.state.next_event(play.now) == float("inf")
    play.read(0)
    play.settle()
    assert play.state.next_event(play.now) == 10
    play.now += 10
    assert play.settle() == 20 * MIB - 64 * KIB
    assert all(download.blob.complete for download in play.downloads)


def test_a_forward_reader_starts_completion_at_once_from_where_it_reads() -> None:
    play = Play(100 * MIB, 100 * MIB, 100 * MIB, options=FetchOptions(readahead=0))
    play.read_forward(3 * MIB, start=16 * MIB, of=1)
    order = []
    while (flight := play.begin()) is not None:
        order.append((play.downloads.index(flight.download), flight.start // MIB))
        play.land(flight)
    first_of = {blob: order.index(next(o for o in order if o[0] == blob)) for blob in range(3)}
    assert first_of[1] < first_of[2] < first_of[0]
    focused = [start for blob, start in order if blob == 1]
    assert focused.index(0) > focused.index(80)
    assert all(download.blob.complete for download in play.downloads)


def test_completion_is_off_when_switched_off() -> None:
    play = Play(100 * MIB, 100 * MIB)
    play.read_forward(4 * MIB)
    play.now += 3600
    play.settle()
    assert not play.downloads[0].blob.complete
    assert play.downloads[1].blob.present.total == 0


def test_somebody_who_waits_goes_before_completion() -> None:
    play = Play(GIB, GIB, options=FetchOptions(background_delay=Seconds(0)))
    play.read(0)
    play.read(0, of=1)
    assert [blob for blob, *_ in play.begin_all()][:3] == [0, 1, 0]


def test_a_model_that_is_gone_is_not_completed_and_its_ranges_end() -> None:
    play = Play(options=FetchOptions(background_delay=Seconds(0)))
    play.read(0)
    demanded, large = play.begin(), play.begin()
    assert large.end - large.start > MIB
    play.land(demanded)
    play.state.remove_model(play.model)
    assert large.end == large.cursor
    assert play.begin() is None
    play.state.remove_model(play.model)


def test_reads_of_a_model_that_is_gone_are_still_answered() -> None:
    play = Play()
    read = play.read(0)
    play.state.remove_model(play.model)
    play.settle()
    assert play.answered == [read]


def test_after_a_lasting_failure_completion_pauses_but_readers_do_not() -> None:
    play = Play(options=FetchOptions(background_delay=Seconds(0)))
    play.read(0)
    play.land(play.begin())
    play.fail(play.begin(), NotFound("404"), delay=5)
    assert play.begin() is None
    play.read(GIB // 2)
    assert play.begin() is not None
    assert play.begin() is None


def test_a_model_is_completed_in_the_order_that_was_arranged() -> None:
    options = FetchOptions(background_delay=Seconds(0))
    play = Play(MIB, MIB, MIB, options=options)
    first, second, third = play.downloads
    play.model.arrange([third, first, second])
    play.model.background_at = play.now
    assert [blob for blob, _, _ in play.begin_all()] == [2, 0, 1]


def short_of_cpu() -> Play:
    """A reader who reads forward and has all in reach, on a node that is short of CPU time."""
    play = Play(GIB, GIB, options=FetchOptions(background_delay=Seconds(0)))
    play.state.cpu_short = True
    play.read_forward(8 * MIB)
    while (flight := play.begin()) is not None:
        play.land(flight)
    return play


def test_completion_makes_way_for_a_reader_who_has_all_in_reach_where_cpu_is_short() -> None:
    play = short_of_cpu()
    window = 2 * 8 * MIB
    assert play.downloads[0].blob.present.contains(0, 8 * MIB + window)
    assert play.model.fetched_bytes < 8 * MIB + window + 16 * MIB


def test_completion_goes_on_when_that_reader_pauses_or_cpu_is_there_again() -> None:
    play = short_of_cpu()
    assert play.state.next_event(play.now) == pytest.approx(LULL)
    play.now += LULL
    assert play.begin() is not None
    play = short_of_cpu()
    play.state.cpu_short = False
    assert play.begin() is not None


def test_a_model_that_comes_anyway_is_read_ahead_past_the_tensor_a_reader_is_in() -> None:
    play = Play(options=FetchOptions(background_delay=Seconds(0)))
    play.downloads[0].pieces = [1 * MIB, 21 * MIB, 40 * MIB]
    play.state.cpu_short = True
    play.read_forward(16 * MIB, start=2 * MIB)
    play.settle()
    assert play.downloads[0].blob.present.contains(2 * MIB, 46 * MIB)
