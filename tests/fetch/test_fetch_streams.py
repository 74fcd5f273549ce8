"""Finding out who reads forward."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from snapshotter.fetch.streams import MAX_RUNS, Run, follow, is_sequential

KIB, MIB = 1 << 10, 1 << 20


def reads(*offsets: int, size: int = MIB, runs: list[Run] | None = None) -> list[Run]:
    runs = [] if runs is None else runs
    for offset in offsets:
        follow(runs, offset, offset + size)
    return runs


def test_one_read_is_no_sequence_however_large() -> None:
    (run,) = reads(0, size=100 * MIB)
    assert not is_sequential(run, after=MIB)


def test_reads_that_follow_each_other_earn_credit() -> None:
    (run,) = reads(*range(0, 4 * MIB, MIB))
    assert (run.start, run.head, run.credit) == (0, 4 * MIB, 4 * MIB)
    assert is_sequential(run, after=4 * MIB)


@given(st.permutations(range(8)))
def test_the_order_within_a_few_mib_does_not_matter(order) -> None:
    (run,) = reads(*(n * MIB for n in order))
    assert run.head == 8 * MIB
    assert is_sequential(run, after=MIB)


def test_random_small_reads_never_become_sequential() -> None:
    rng = random.Random(1)
    runs: list[Run] = []
    for _ in range(5000):
        offset = rng.randrange(0, 1 << 30, 4 * KIB)
        assert not is_sequential(follow(runs, offset, offset + 4 * KIB), after=256 * KIB)


def test_reading_the_same_bytes_again_is_no_reading_forward() -> None:
    (run,) = reads(*[4 * KIB] * 1000, size=4 * KIB)
    assert run.credit == 4 * KIB


def test_interleaved_tensors_are_runs_of_their_own() -> None:
    places = [0, 1000 * MIB, 3000 * MIB]
    runs = reads(*(place + n * MIB for n in range(8) for place in places))
    assert sorted((run.start, run.credit) for run in runs) == [(p, 8 * MIB) for p in places]


def test_a_sequence_is_found_also_where_random_reads_were() -> None:
    runs = reads(*range(0, 40 * MIB, 7 * MIB), size=4 * KIB)
    start = runs[-1].head
    reads(*range(start, start + 2 * MIB, 64 * KIB), size=64 * KIB, runs=runs)
    assert is_sequential(runs[-1], after=2 * MIB)


def test_only_so_many_runs_are_remembered() -> None:
    runs = reads(*range(0, 100 << 30, 1 << 30))
    assert len(runs) == MAX_RUNS
    assert runs[-1].start == 99 << 30
