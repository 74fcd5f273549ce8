"""Pieces that stay in the buffers they arrived in until they are read."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from snapshotter.fetch import hot
from snapshotter.fetch.hot import PIECE, HotPieces


@dataclass(eq=False)
class Known:
    """What the pool sees of a blob."""

    losses: int = 0


@pytest.fixture(autouse=True)
def _nothing_is_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hot, "STALE", 3600.0)


def fill(pool: HotPieces, blob: Known, number: int, *, size: int = PIECE) -> None:
    """Receive and keep piece ``number`` of ``blob``: bytes that are its number."""
    buffer = pool.lend()
    assert buffer is not None
    buffer[:size] = bytes([number]) * size
    pool.done(pool.keep(blob, number * PIECE, buffer, size))


def read(pool: HotPieces, blob: Known, start: int, end: int) -> bytes | None:
    taken = pool.take(blob, start, end)
    if taken is None:
        return None
    try:
        return b"".join(taken.views)
    finally:
        pool.put_back(taken)


def test_a_read_across_pieces_gets_the_bytes_of_each() -> None:
    pool, blob = HotPieces(4 * PIECE), Known()
    for number in (2, 0, 1):
        fill(pool, blob, number)
    got = read(pool, blob, PIECE - 3, 2 * PIECE + 2)
    assert got == bytes([0]) * 3 + bytes([1]) * PIECE + bytes([2]) * 2


def test_a_read_that_is_not_all_here_gets_nothing() -> None:
    pool, blob = HotPieces(4 * PIECE), Known()
    fill(pool, blob, 0)
    fill(pool, blob, 2)
    assert read(pool, blob, PIECE - 1, PIECE + 1) is None
    assert read(pool, blob, 0, 3 * PIECE) is None
    assert read(pool, blob, 5 * PIECE, 6 * PIECE) is None
    assert read(pool, Known(), 0, 10) is None


def test_what_was_read_makes_room_for_what_comes() -> None:
    pool, blob = HotPieces(2 * PIECE), Known()
    fill(pool, blob, 0)
    fill(pool, blob, 1)
    assert pool.lend() is None
    assert read(pool, blob, 0, PIECE // 2) == bytes(PIECE // 2)
    assert pool.lend() is None
    assert read(pool, blob, PIECE // 2, PIECE) == bytes(PIECE // 2)
    assert pool.lend() is not None
    assert read(pool, blob, 0, 10) is None
    assert read(pool, blob, PIECE, PIECE + 10) == bytes([1]) * 10


def test_a_buffer_that_is_being_read_is_lent_to_nobody() -> None:
    pool, blob = HotPieces(PIECE), Known()
    fill(pool, blob, 1)
    first, second = pool.take(blob, PIECE, 2 * PIECE), pool.take(blob, PIECE, 2 * PIECE)
    assert first is not None
    assert second is not None
    pool.put_back(first)
    assert pool.lend() is None
    assert second.views[0][:1] == b"\x01"
    pool.put_back(second)
    assert pool.lend() is not None
    assert pool.lend() is None  # one buffer, though two gave it back


def test_who_received_a_piece_uses_it_until_he_is_done() -> None:
    pool, blob = HotPieces(PIECE), Known()
    buffer = pool.lend()
    assert buffer is not None
    piece = pool.keep(blob, 0, buffer, PIECE)
    assert read(pool, blob, 0, PIECE) == bytes(PIECE)  # all of it, and still in his hands
    assert pool.lend() is None
    pool.done(piece)
    assert pool.lend() is buffer


def test_bytes_that_were_given_out_as_they_came_are_read() -> None:
    pool, blob = HotPieces(PIECE), Known()
    buffer = pool.lend()
    assert buffer is not None
    pool.done(pool.keep(blob, 0, buffer, 1000), read=1000)
    assert pool.lend() is buffer


def test_bytes_that_the_cache_did_not_take_are_not_kept() -> None:
    pool, blob = HotPieces(PIECE), Known()
    buffer = pool.lend()
    assert buffer is not None
    pool.done(pool.keep(blob, 0, buffer, PIECE), good=False)
    assert read(pool, blob, 0, 10) is None
    assert pool.lend() is buffer


def test_what_a_blob_lost_is_not_here_either() -> None:
    pool, blob = HotPieces(2 * PIECE), Known()
    fill(pool, blob, 0)
    blob.losses += 1
    assert read(pool, blob, 0, 10) is None
    fill(pool, blob, 0)
    assert read(pool, blob, 0, 10) == bytes(10)


def test_a_piece_that_nobody_came_for_makes_room_after_a_while(monkeypatch) -> None:
    pool, blob = HotPieces(2 * PIECE), Known()
    fill(pool, blob, 0)
    fill(pool, blob, 1)
    assert pool.lend() is None
    monkeypatch.setattr(hot, "STALE", -1.0)
    fill(pool, blob, 2)
    assert read(pool, blob, 0, 10) is None
    assert read(pool, blob, PIECE, PIECE + 10) == bytes([1]) * 10
    assert read(pool, blob, 2 * PIECE, 2 * PIECE + 10) == bytes([2]) * 10


def test_a_blob_that_nobody_reads_any_more_is_forgotten() -> None:
    pool, blob, other = HotPieces(2 * PIECE), Known(), Known()
    fill(pool, blob, 0)
    fill(pool, other, 1)
    pool.forget(blob)
    assert read(pool, blob, 0, 10) is None
    assert read(pool, other, PIECE, PIECE + 10) == bytes([1]) * 10
    assert pool.lend() is not None


def test_at_rest_it_holds_no_memory_but_what_is_just_used() -> None:
    pool, blob = HotPieces(3 * PIECE), Known()
    assert pool.idle
    for number in range(2):
        fill(pool, blob, number)
    taken, lent = pool.take(blob, 0, 10), pool.lend()
    assert taken is not None
    assert lent is not None
    pool.rest()
    assert read(pool, blob, PIECE, PIECE + 10) is None
    assert bytes(taken.views[0]) == bytes(10)
    assert not pool.idle
    pool.put_back(taken)
    pool.give_back(lent)
    pool.rest()
    assert pool.idle
    assert pool.lend() is not None


@pytest.mark.parametrize("limit", [0, PIECE - 1])
def test_a_pool_of_less_than_a_piece_lends_nothing(limit: int) -> None:
    assert HotPieces(limit).lend() is None
