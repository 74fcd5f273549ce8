"""The choice of the next range: what failed, and when it is tried again."""

from __future__ import annotations

import pytest
from fetch_play import GIB, KIB, MIB, Play

from snapshotter.fetch.options import FetchOptions
from snapshotter.fetch.plan import backoff
from snapshotter.registry.errors import NotFound, Unreachable
from snapshotter.units import Seconds


def test_after_a_temporary_failure_nothing_is_asked_for_until_the_pause_is_over() -> None:
    play = Play()
    read = play.read(0)
    assert play.fail(play.begin(), Unreachable("gone", temporary=True), delay=3) == []
    assert play.begin() is None
    assert play.state.next_event(play.now) == 3
    play.now += 3
    play.settle()
    assert play.answered == [read]
    assert play.downloads[0].failures == 0


def test_a_failure_in_the_middle_keeps_what_has_arrived() -> None:
    play = Play()
    play.read(0, 512 * KIB)
    flight = play.begin()
    play.land(flight, 200 * KIB)
    play.fail(flight, Unreachable("gone", temporary=True), delay=0)
    assert play.begin_all() == [(0, 192 * KIB + 8 * KIB, 512 * KIB)]


def test_a_lasting_failure_fails_those_who_wait_for_that_range_only() -> None:
    play = Play()
    here, there = play.read(0), play.read(GIB // 2)
    assert play.fail(play.begin(), NotFound("404")) == [here]
    assert list(play.state.reads) == [there]
    again = play.read(0)
    assert play.begin() is not None
    assert again in play.state.reads


def test_a_lasting_failure_of_one_model_does_not_fail_another() -> None:
    play = Play()
    other = play.add_model()
    mine, its = play.read(0), play.read(0, model=other, stream="its file")
    assert play.fail(play.begin(), NotFound("404")) == [mine]
    assert play.begin().model is other
    assert list(play.state.reads) == [its]


def test_a_read_expires_at_its_deadline() -> None:
    play = Play()
    early = play.read(0)
    play.now += 200
    late = play.read(GIB // 2)
    play.now += 100
    assert play.state.expire(play.now) == [early]
    assert list(play.state.reads) == [late]


def test_without_a_cache_reads_are_answered_from_what_arrives_and_nothing_more_is_fetched() -> None:
    play = Play(options=FetchOptions(background_delay=Seconds(0)))
    play.state.uncached_until = play.now + 30
    read = play.read(60 * KIB, 8 * KIB)
    flight = play.begin()
    assert (flight.start, flight.end) == (0, 128 * KIB)
    play.land(flight, 64 * KIB, cached=False)
    assert read in play.state.reads
    play.land(flight, cached=False)
    assert play.answered == [read]
    assert play.begin() is None
    play.read(60 * KIB, 8 * KIB)
    assert play.begin() is not None


def test_without_a_cache_a_broken_range_goes_on_where_it_broke() -> None:
    play = Play()
    play.state.uncached_until = play.now + 30
    read = play.read(0, 128 * KIB)
    flight = play.begin()
    play.land(flight, 64 * KIB, cached=False)
    play.fail(flight, Unreachable("gone", temporary=True), delay=0)
    rest = play.begin()
    assert (rest.start, rest.end) == (64 * KIB, 128 * KIB)
    play.land(rest, cached=False)
    assert play.answered == [read]


def test_a_blob_with_wrong_bytes_is_not_fetched_again() -> None:
    play = Play(MIB, options=FetchOptions(background_delay=Seconds(0)))
    play.read(0)
    play.settle()
    play.downloads[0].blob.present.clear()
    play.downloads[0].bad = "wrong bytes"
    assert play.begin() is None


@pytest.mark.parametrize(
    ("failures", "asked", "jitter", "expected"),
    [
        (0, None, 0.999999, 0.2),
        (1, None, 0, 0.2),
        (3, None, 0, 0.8),
        (50, None, 0, 5.0),
        (0, 7, 0.5, 7),
        (0, 86400, 0.5, 300),
        (9, 0.1, 0, 5.0),
    ],
)
def test_pauses_double_and_keep_to_what_the_server_asks(failures, asked, jitter, expected) -> None:
    assert backoff(FetchOptions(), failures, asked, jitter) == pytest.approx(expected)


@pytest.mark.parametrize(
    "wrong", [{"connections": 2}, {"reserved": -1}, {"range_size": 1}, {"grain": 0}]
)
def test_settings_that_cannot_work_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match="must be"):
        FetchOptions(**wrong)


def test_a_range_that_fails_does_not_hold_up_those_behind_it() -> None:
    play = Play(MIB, MIB)
    first, second = play.downloads
    first.stream_at = play.now + 5
    play.model.prefetch.extend([(first, 0, 1000), (second, 0, 1000)])
    assert play.begin_all() == [(1, 0, 1000)]
    play.now += 10
    assert play.begin_all() == [(0, 0, 1000)]
