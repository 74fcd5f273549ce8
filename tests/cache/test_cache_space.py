"""How much the cache may take, and what goes when it is too much."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from snapshotter.artifact.digest import Digest
from snapshotter.cache.errors import CacheFull
from snapshotter.cache.eviction import Candidate, Eviction, Kind, choose, tail
from snapshotter.cache.options import CacheOptions
from snapshotter.cache.space import FileSystem, Space, allowance
from snapshotter.config import ConfigError, parse_config
from snapshotter.units import Capacity, UnitError

MIB = 1 << 20
NEVER = float("-inf")


def options(quota: str = "100%", keep_free: str = "0%") -> CacheOptions:
    return CacheOptions(quota=Capacity(quota), keep_free=Capacity(keep_free))


@pytest.mark.parametrize(
    ("quota", "keep_free", "used", "free", "expected"),
    [
        ("100%", "0%", 0, 400, 400),
        ("100%", "10%", 0, 400, 300),
        ("50%", "0%", 0, 1000, 500),
        ("300B", "0%", 100, 900, 300),
        ("300B", "10%", 100, 150, 150),
        ("100%", "10%", 100, 20, 20),  # others took what is to be kept free: give back
        ("100%", "50%", 100, 10, 0),
    ],
)
def test_what_the_cache_may_take(quota, keep_free, used, free, expected) -> None:
    assert allowance(options(quota, keep_free), used, FileSystem(1000, free)) == expected


class Disk:
    def __init__(self, free: int) -> None:
        self.free = free

    def look(self, _: Path) -> FileSystem:
        return FileSystem(1000 * MIB, self.free)


def space(quota: str, used: int = 0, free: int = 1000 * MIB, keep_free: str = "0%") -> Space:
    return Space(Path("/cache"), options(quota, keep_free), used, Disk(free).look)


def test_what_is_too_much_is_refused_and_said_to_be_so() -> None:
    pressed = threading.Event()
    bounded = space("10MiB", used=9 * MIB)
    bounded.on_pressure = pressed.set
    bounded.take(MIB)
    assert pressed.is_set()
    with pytest.raises(CacheFull, match=r"may take 10.0 MiB of the disk and has 10.0 MiB: raise"):
        bounded.take(1)
    assert bounded.excess() == MIB
    assert bounded.shortage()
    assert not bounded.shortage()
    bounded.give_back(2 * MIB)
    assert bounded.excess() == 0
    assert bounded.plenty
    bounded.take(MIB)


def test_what_was_refused_is_made_room_for_however_small_the_cache_is() -> None:
    bounded = space("4MiB", used=3 * MIB + MIB // 2)
    with pytest.raises(CacheFull):
        bounded.take(MIB)
    assert bounded.excess() == MIB // 2


def test_room_that_others_take_is_not_ours_any_more() -> None:
    disk = Disk(100 * MIB)
    bounded = Space(Path("/cache"), options(keep_free="5%"), 0, disk.look)
    bounded.take(20 * MIB)
    bounded.settle(20 * MIB)
    assert bounded.allowed == 50 * MIB
    disk.free = 10 * MIB
    bounded.measure(lambda: 20 * MIB)
    assert bounded.allowed == 0
    assert bounded.excess() == 20 * MIB
    assert bounded.shortage()


def test_what_is_being_written_while_the_disk_is_looked_at_counts() -> None:
    bounded = space("10MiB")
    bounded.take(2 * MIB)

    def look() -> int:
        bounded.take(MIB)  # somebody else
        return 0  # nothing of it is on the disk yet

    bounded.measure(look)
    assert bounded.used == 3 * MIB
    bounded.settle(2 * MIB)
    bounded.settle(MIB, unused=MIB // 2)
    assert bounded.used == 2 * MIB + MIB // 2
    bounded.measure(lambda: 7)
    assert bounded.used == 7


def test_who_can_wait_for_room_gets_it_when_it_is_made() -> None:
    bounded = space("10MiB", used=10 * MIB)
    asked, taken = threading.Event(), threading.Event()
    bounded.on_pressure = asked.set

    def take() -> None:
        bounded.take_later(MIB, 60)
        taken.set()

    waiter = threading.Thread(target=take)
    waiter.start()
    assert asked.wait(60)
    assert not taken.is_set()
    bounded.measure(lambda: 5 * MIB)
    assert taken.wait(60)
    waiter.join()
    with pytest.raises(CacheFull):
        bounded.take_later(6 * MIB, 0)


@pytest.mark.parametrize("text", ["-1", "101%", "ten", 5.5, True])
def test_what_is_no_size_and_no_share_is_refused(text) -> None:
    with pytest.raises(UnitError):
        Capacity.parse(text)


def test_marks_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="low_water between 0 and high_water"):
        parse_config({"cache": {"low_water": 0.97}}, "test")
    assert parse_config({"cache": {"quota": "20%"}}, "test").cache.quota.of(50) == 10
    assert parse_config({"cache": {"quota": 12}}, "test").cache.quota.of(50) == 12


def blob(name: str, used_at: float, size: int = 100 * MIB) -> Candidate:
    return Candidate(Digest(name), size, size, used_at)


def names(chosen: list[Eviction]) -> list[tuple[str, int | None]]:
    return [(eviction.candidate.digest, eviction.wanted) for eviction in chosen]


OLD, NEW = blob("old", 1), blob("new", 9)
MOUNTED = replace(blob("mounted", 0), mounted=True)


def test_what_was_used_least_recently_goes_first_and_no_more_than_is_needed() -> None:
    assert names(choose([NEW, OLD], 1, idle_since=NEVER)) == [("old", None)]
    chosen = names(choose([NEW, OLD], 101 * MIB, idle_since=NEVER))
    assert chosen == [("old", None), ("new", None)]
    assert choose([NEW, OLD], 0, idle_since=NEVER) == []


def test_what_mounted_models_have_goes_last_and_only_when_idle() -> None:
    everything = [NEW, MOUNTED, OLD]
    assert names(choose(everything, 10**12, idle_since=NEVER)) == [("old", None), ("new", None)]
    assert names(choose(everything, 10**12, idle_since=0))[-1] == ("mounted", None)
    assert choose([replace(MOUNTED, used_at=5)], 1, idle_since=4) == []


def test_pinned_and_empty_blobs_and_unpacked_layers_in_use_stay() -> None:
    stay = [
        replace(OLD, pinned=True),
        replace(OLD, allocated=0),
        replace(MOUNTED, kind=Kind.UNPACKED),
    ]
    assert choose(stay, 1, idle_since=10) == []
    unused = replace(OLD, kind=Kind.UNPACKED, size=10**12)
    assert names(choose([unused], 1, idle_since=NEVER)) == [("old", None)]


def test_of_a_huge_blob_only_a_part_goes() -> None:
    huge = blob("huge", 0, 1000 * MIB)
    assert names(choose([huge], 5, idle_since=NEVER)) == [("huge", 5)]
    assert names(choose([huge], 5, idle_since=NEVER, huge=2000 * MIB)) == [("huge", None)]


@pytest.mark.parametrize(
    ("present", "wanted", "expected"),
    [
        ([(0, 10 * MIB)], 1, [(9 * MIB, 10 * MIB)]),
        ([(0, 10 * MIB)], 3 * MIB, [(7 * MIB, 10 * MIB)]),
        ([(0, 10 * MIB + 5)], 6, [(9 * MIB, 10 * MIB + 5)]),
        ([(0, MIB), (5 * MIB, 6 * MIB)], MIB, [(5 * MIB, 6 * MIB)]),
        ([(0, MIB), (5 * MIB, 6 * MIB)], 10 * MIB, [(0, MIB), (5 * MIB, 6 * MIB)]),
        ([(0, MIB)], 0, []),
        ([], 5, []),
    ],
)
def test_the_end_of_a_blob_goes_before_its_beginning(present, wanted, expected) -> None:
    assert tail(present, wanted) == expected
