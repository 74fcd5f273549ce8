"""The choice of the next range: what a reader waits for, and little more than that."""

from __future__ import annotations

import random

from fetch_play import GIB, KIB, MIB, Play
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from snapshotter.fetch.options import FetchOptions
from snapshotter.fetch.records import Flight
from snapshotter.registry.errors import Unreachable
from snapshotter.units import Seconds


def test_nothing_is_fetched_before_somebody_reads() -> None:
    assert Play().begin() is None


def test_an_isolated_read_fetches_the_grain_it_touches_and_nothing_more() -> None:
    play = Play()
    play.read(1_000_000, 4 * KIB)
    assert play.begin_all() == [(0, 983_040, 1_048_576)]


def test_an_isolated_read_across_two_grains_fetches_both() -> None:
    play = Play()
    play.read(64 * KIB - 2, 4)
    assert play.begin_all() == [(0, 0, 128 * KIB)]


def test_the_last_grain_ends_with_the_blob() -> None:
    play = Play(100_000)
    play.read(99_000, 1000)
    assert play.begin_all() == [(0, 65_536, 100_000)]


def test_a_read_of_what_is_on_its_way_waits_for_it() -> None:
    play = Play()
    play.read(0)
    flight = play.begin()
    play.read(8 * KIB, stream="another file")
    assert play.begin() is None
    play.land(flight)
    assert len(play.answered) == 2


def test_only_what_lacks_is_fetched() -> None:
    play = Play()
    play.downloads[0].blob.present.add(64 * KIB, 128 * KIB)
    play.read(0, 256 * KIB)
    assert play.begin_all() == [(0, 0, 64 * KIB), (0, 128 * KIB, 256 * KIB)]


def test_the_read_that_has_waited_longest_goes_first() -> None:
    play = Play(GIB, GIB)
    play.read(512 * MIB, of=1)
    play.read(0, of=0)
    assert [blob for blob, *_ in play.begin_all()] == [1, 0]


def test_random_reads_fetch_at_most_two_grains_each() -> None:
    play, rng = Play(), random.Random(2)
    for _ in range(500):
        play.read(rng.randrange(GIB - 4 * KIB))
        assert play.settle() <= 128 * KIB
    assert not play.state.reads


def test_two_models_share_the_bytes_of_a_blob() -> None:
    play = Play()
    other = play.add_model()
    play.read(0)
    play.read(0, model=other, stream="its file")
    assert len(play.begin_all()) == 1


def slow_flight(play: Play) -> Flight:
    """8 MiB of which 1 MiB came in two seconds."""
    play.read(0)
    play.land(play.begin())
    flight = play.begin()
    assert flight.end == 8 * MIB
    play.now += 2
    play.land(flight, MIB)
    return flight


def test_a_read_far_inside_a_slow_range_cuts_it_and_is_fetched_at_once() -> None:
    play = Play(8 * MIB, options=FetchOptions(background_delay=Seconds(0)))
    slow = slow_flight(play)
    read = play.read(6 * MIB, stream="random")
    cutting = play.begin()
    assert (cutting.start, cutting.end, slow.end) == (6 * MIB, 6 * MIB + 64 * KIB, 6 * MIB)
    play.land(cutting)
    assert play.answered[-1] is read
    play.land(slow)
    play.settle()
    assert play.model.fetched_bytes == 8 * MIB


def test_a_read_just_ahead_of_a_range_waits_for_it() -> None:
    play = Play(8 * MIB, options=FetchOptions(background_delay=Seconds(0)))
    slow = slow_flight(play)
    play.read(slow.cursor + 128 * KIB, stream="random")
    assert play.begin() is None
    assert slow.end == 8 * MIB


def test_a_range_lands_where_somebody_waits_for_it() -> None:
    play = Play()
    play.read(64 * KIB, MIB)
    flight = play.begin()
    assert flight.due == 64 * KIB + MIB
    play.read(100 * KIB, 8 * KIB, stream="another")
    assert flight.due == 108 * KIB
    play.land(flight, 44 * KIB)
    assert len(play.answered) == 1
    assert flight.due == 64 * KIB + MIB


@examples(60)
@given(st.data())
def test_whatever_happens_no_byte_is_fetched_twice_and_every_read_is_answered(data) -> None:
    size = 3 * MIB + 777
    play = Play(size, size, options=FetchOptions(background_delay=Seconds(1), connections=3))
    flights: list[Flight] = []
    for _ in range(data.draw(st.integers(1, 60))):
        match data.draw(st.sampled_from(["read", "begin", "begin", "land", "fail", "time"])):
            case "read":
                start = data.draw(st.integers(0, size - 1))
                length = data.draw(st.integers(1, min(MIB, size - start)))
                play.read(start, length, of=data.draw(st.integers(0, 1)))
            case "begin" if len(flights) < 3:
                if (flight := play.begin()) is not None:
                    assert flight.download.blob.first_gap(flight.start, flight.end) == (
                        flight.start,
                        flight.end,
                    )
                    flights.append(flight)
            case "land" if flights:
                flight = data.draw(st.sampled_from(flights))
                if flight.cursor < flight.end:
                    play.land(flight, data.draw(st.integers(1, 2 * MIB)))
                elif flight in play.state.flights:
                    play.fail(flight, None)
            case "fail" if flights:
                flight = flights.pop(data.draw(st.integers(0, len(flights) - 1)))
                if flight in play.state.flights:
                    play.fail(flight, Unreachable("gone", temporary=True))
            case "time":
                play.now += 0.7
        flights = [flight for flight in flights if flight in play.state.flights]
    for flight in flights:
        if flight.cursor < flight.end:
            play.land(flight)
        else:
            play.fail(flight, None)
    play.now += 10
    play.settle()
    assert not play.state.reads
    assert not play.state.flights
    present = sum(download.blob.present.total for download in play.downloads)
    assert play.model.fetched_bytes == present
