"""The choice of the next range, without threads, network or disk."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from snapshotter.cache.ranges import RangeSet
from snapshotter.fetch.options import FetchOptions
from snapshotter.fetch.pace import FIRST
from snapshotter.fetch.plan import backoff, next_range
from snapshotter.fetch.records import Download, Fate, Flight, LoadedModel, Read
from snapshotter.fetch.state import LULL, State
from snapshotter.registry.errors import NotFound, Unreachable
from snapshotter.units import ByteSize, Seconds

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
FOREGROUND = FetchOptions(background=False)


@dataclass
class Pieces:
    """What the decision sees of a blob."""

    size: int
    present: RangeSet = field(default_factory=RangeSet)

    @property
    def complete(self) -> bool:
        return self.present.total == self.size

    def first_gap(self, start: int, end: int) -> tuple[int, int] | None:
        return self.present.first_gap(start, end)


@dataclass(frozen=True)
class Origin:
    name: str = "registry.example/models/m@sha256:0"


class Play:
    """A state, the events that happen to it, and a clock."""

    def __init__(self, *sizes: int, options: FetchOptions = FOREGROUND) -> None:
        self.state = State(options)
        self.now = 100.0
        self.downloads = [Download(Pieces(size)) for size in sizes or (GIB,)]
        self.model = self.add_model()
        self.answered: list[Read] = []

    def add_model(self) -> LoadedModel:
        model = LoadedModel(dict.fromkeys(self.downloads, Origin()))
        self.state.add_model(model)
        return model

    def read(self, start, size=4 * KIB, *, of=0, stream="file", model=None) -> Read:
        model, download = model or self.model, self.downloads[of]
        run = self.state.note(model, download, start, start + size, stream, self.now)
        deadline = self.now + self.state.options.read_deadline
        read = Read(download, model, start, start + size, run, deadline, lambda result: None)
        if download.lacks(read):
            self.state.park(read)
        else:
            self.answered.append(read)
        return read

    def begin(self) -> Flight | None:
        chosen = next_range(self.state, self.now)
        return None if chosen is None else self.state.begin(chosen, self.now)

    def begin_all(self) -> list[tuple[int, int, int]]:
        """Every range that would be fetched now, as (blob, start, end)."""
        flights = []
        while (flight := self.begin()) is not None:
            flights.append(flight)
        return [(self.downloads.index(f.download), f.start, f.end) for f in flights]

    def land(self, flight: Flight, count: int | None = None, *, cached: bool = True) -> None:
        end = min(flight.end, flight.cursor + (count or flight.end))
        data = memoryview(bytes(end - flight.cursor))
        if cached:
            flight.download.blob.present.add(flight.cursor, end)
        self.answered += self.state.landed(flight, data, cached=cached, now=self.now)
        if flight.cursor >= flight.end:
            self.fail(flight, None)

    def fail(self, flight: Flight, error: Exception | None, delay: float = 1) -> list[Read]:
        return self.state.ended(flight, error, delay, self.now)

    def settle(self) -> int:
        """Fetch until there is nothing to do; bytes fetched."""
        before = self.model.fetched_bytes
        while (flight := self.begin()) is not None:
            self.land(flight)
        return self.model.fetched_bytes - before

    def read_forward(self, size: int, *, start: int = 0, step: int = 128 * KIB, **of) -> None:
        for offset in range(start, start + size, step):
            self.read(offset, step, **of)
            while self.state.reads:
                flight = self.begin()
                assert flight is not None
                self.land(flight)


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


def test_two_models_share_the_bytes_of_a_blob() -> None:
    play = Play()
    other = play.add_model()
    play.read(0)
    play.read(0, model=other, stream="its file")
    assert len(play.begin_all()) == 1


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


def test_after_a_lasting_failure_completion_pauses_but_readers_do_not() -> None:
    play = Play(options=FetchOptions(background_delay=Seconds(0)))
    play.read(0)
    play.land(play.begin())
    play.fail(play.begin(), NotFound("404"), delay=5)
    assert play.begin() is None
    play.read(GIB // 2)
    assert play.begin() is not None
    assert play.begin() is None


def test_a_read_expires_at_its_deadline() -> None:
    play = Play()
    early = play.read(0)
    play.now += 200
    late = play.read(GIB // 2)
    play.now += 100
    assert play.state.expire(play.now) == [early]
    assert list(play.state.reads) == [late]


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


def test_what_is_asked_for_ahead_of_reads_comes_after_readers_and_before_readahead() -> None:
    play = Play(GIB, MIB, options=FetchOptions(background=False, connections=3, reserved=1))
    first, second = play.downloads
    play.model.prefetch.extend([(second, 10, 500_000), (first, 600 * MIB, 601 * MIB)])
    play.read(0)
    assert play.begin_all() == [(0, 0, 64 * KIB), (1, 10, 500_000), (0, 600 * MIB, 601 * MIB)]
    assert play.begin() is None


def test_a_range_that_fails_does_not_hold_up_those_behind_it() -> None:
    play = Play(MIB, MIB)
    first, second = play.downloads
    first.stream_at = play.now + 5
    play.model.prefetch.extend([(first, 0, 1000), (second, 0, 1000)])
    assert play.begin_all() == [(1, 0, 1000)]
    play.now += 10
    assert play.begin_all() == [(0, 0, 1000)]


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


def test_a_model_is_completed_in_the_order_that_was_arranged() -> None:
    options = FetchOptions(background_delay=Seconds(0))
    play = Play(MIB, MIB, MIB, options=options)
    first, second, third = play.downloads
    play.model.arrange([third, first, second])
    play.model.background_at = play.now
    assert [blob for blob, _, _ in play.begin_all()] == [2, 0, 1]


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


def test_a_model_that_comes_anyway_is_read_ahead_past_the_tensor_a_reader_is_in() -> None:
    play = Play(options=FetchOptions(background_delay=Seconds(0)))
    play.downloads[0].pieces = [1 * MIB, 21 * MIB, 40 * MIB]
    play.state.cpu_short = True
    play.read_forward(16 * MIB, start=2 * MIB)
    play.settle()
    assert play.downloads[0].blob.present.contains(2 * MIB, 46 * MIB)
