"""The durable map: whole and sound, or worth nothing."""

from __future__ import annotations

import hashlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshotter.artifact.digest import digest_of
from snapshotter.cache.presence import Presence, decode, encode

DIGEST = digest_of(b"some blob")
SOUND = Presence(digest=DIGEST, size=100, verified=False, ranges=[(0, 10), (20, 100)])


def checksummed(**changes: object) -> bytes:
    body = msgspec.json.encode(msgspec.to_builtins(SOUND) | changes)
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def test_a_map_survives_being_written_and_read() -> None:
    assert decode(encode(SOUND), DIGEST) == SOUND


@given(st.data())
def test_a_map_torn_anywhere_is_worth_nothing(data) -> None:
    raw = encode(SOUND)
    assert decode(raw[: data.draw(st.integers(0, len(raw) - 1))], DIGEST) is None


@given(st.data())
def test_a_map_with_a_flipped_bit_is_worth_nothing(data) -> None:
    raw = bytearray(encode(SOUND))
    bit = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[bit // 8] ^= 1 << bit % 8
    assert decode(bytes(raw), DIGEST) is None


@given(st.binary())
def test_anything_else_is_worth_nothing(raw) -> None:
    assert decode(raw, DIGEST) is None


def test_the_map_of_another_blob_is_worth_nothing() -> None:
    assert decode(encode(SOUND), digest_of(b"another")) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"size": 99},
        {"ranges": [[20, 10]]},
        {"ranges": [[-1, 10]]},
        {"ranges": [[0, 10], [5, 20]]},
        {"ranges": [[0, 10], [10, 20]]},
        {"verified": True},
        {"verified": True, "ranges": []},
        {"more": 1},
    ],
)
def test_a_map_that_contradicts_itself_is_worth_nothing(changes) -> None:
    assert decode(checksummed(), DIGEST) == SOUND
    assert decode(checksummed(**changes), DIGEST) is None


@pytest.mark.parametrize("size", [0, 1, 100])
def test_a_verified_map_has_every_byte(size) -> None:
    whole = [(0, size)] if size else []
    verified = Presence(digest=DIGEST, size=size, verified=True, ranges=whole)
    assert decode(encode(verified), DIGEST) == verified
