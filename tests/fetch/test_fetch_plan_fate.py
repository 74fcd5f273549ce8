"""The choice of the next range: what becomes of bytes that have arrived."""

from __future__ import annotations

from fetch_play import GIB, MIB, Play

from snapshotter.fetch.options import FetchOptions
from snapshotter.fetch.records import Fate
from snapshotter.fetch.state import LULL
from snapshotter.units import ByteSize


def test_what_readers_wait_for_need_not_stay_in_memory() -> None:
    play = Play(64 * MIB)
    play.read(0, 2 * MIB)
    flight = play.begin()
    assert flight is not None
    assert play.state.fate(flight, 2 * MIB, play.now) is Fate.PASSES
    # A reader who needs more than that is answered later, and nobody may need the rest.
    assert play.state.fate(flight, MIB, play.now) is Fate.STAYS
    assert play.state.fate(flight, 3 * MIB, play.now) is Fate.STAYS


def test_what_was_fetched_ahead_of_a_reader_stays_in_its_buffers() -> None:
    play = Play(64 * MIB, options=FetchOptions(background=False, memory=ByteSize(4 * MIB)))
    play.read(0, MIB)
    play.read(MIB, MIB)
    flights = [flight for _ in range(4) if (flight := play.begin()) is not None]
    ahead = [flight for flight in flights if flight.start >= 2 * MIB]
    assert ahead
    for flight in ahead:
        assert play.state.fate(flight, flight.end, play.now) is Fate.SOON
        assert play.state.fate(flight, flight.end, play.now + LULL) is Fate.STAYS
    ahead[0].cursor = 7 * MIB  # further ahead than there is memory for
    assert play.state.fate(ahead[0], 8 * MIB, play.now) is Fate.STAYS


def test_what_a_gate_has_to_hash_stays_in_memory() -> None:
    play = Play(64 * MIB)
    play.downloads[0].gate = object()
    play.read(0, MIB)
    flight = play.begin()
    assert flight is not None
    assert play.state.fate(flight, MIB, play.now) is Fate.STAYS


def test_a_reader_who_goes_on_in_a_moment_keeps_the_node_busy() -> None:
    play = Play(GIB)
    play.read_forward(4 * MIB)
    play.settle()
    assert not play.state.flights
    assert play.state.busy(play.now)
    assert not play.state.busy(play.now + LULL)
