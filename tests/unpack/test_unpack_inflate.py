from __future__ import annotations

import gzip
import tracemalloc

import pytest
import zstandard
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from unpack_origin import noise, packed

from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.mediatypes import Encoding
from snapshotter.unpack.inflate import Dry, Feed, inflater

BOTH = (Encoding.TAR_GZIP, Encoding.TAR_ZSTD)


def inflate(data: bytes, encoding: Encoding, step: int = 1000, limit: int = 4096) -> bytes:
    """All of it, fed in steps, taken in pieces."""
    feed = Feed()
    stream = inflater(encoding, feed, "layer 1 of 1")
    pieces, at = [], 0
    while True:
        try:
            piece = stream.read(limit)
        except Dry:
            if at < len(data):
                feed.put(data[at : at + step])
                at += step
            else:
                feed.end()
            continue
        assert len(piece) <= limit
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)


@pytest.mark.parametrize("encoding", BOTH)
@examples(60)
@given(
    parts=st.lists(st.binary(max_size=3000).map(lambda data: data * 3), max_size=4),
    step=st.integers(1, 5000),
    limit=st.integers(1, 5000),
)
def test_whatever_was_compressed_comes_out_in_any_steps(
    encoding: Encoding, parts: list[bytes], step: int, limit: int
) -> None:
    # Several gzip members and zstd frames follow each other: the content is theirs together.
    data = b"".join(packed(part, encoding) for part in parts) or packed(b"", encoding)
    assert inflate(data, encoding, step, limit) == b"".join(parts)


@pytest.mark.parametrize("encoding", BOTH)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_inflated_or_refused(encoding: Encoding, data: bytes) -> None:
    try:
        inflate(data, encoding)
    except ArtifactError:
        pass


@pytest.mark.parametrize("encoding", BOTH)
@given(place=st.integers(0, 900), junk=st.binary(min_size=1, max_size=4), end=st.integers(1, 2000))
def test_a_damaged_stream_is_refused_or_gives_other_bytes_but_never_hangs(
    encoding: Encoding, place: int, junk: bytes, end: int
) -> None:
    data = bytearray(packed(noise(1500), encoding)[:end])
    data[place : place + len(junk)] = junk
    try:
        inflate(bytes(data), encoding)
    except ArtifactError:
        pass


def test_zeros_behind_gzip_are_padding_and_anything_else_is_refused() -> None:
    data = gzip.compress(b"content")
    assert inflate(data + bytes(700), Encoding.TAR_GZIP) == b"content"
    with pytest.raises(ArtifactError, match="garbage behind"):
        inflate(data + b"more", Encoding.TAR_GZIP)


def test_a_truncated_gzip_is_refused() -> None:
    with pytest.raises(ArtifactError, match="truncated"):
        inflate(gzip.compress(noise(9000))[:5000], Encoding.TAR_GZIP)


def test_skippable_frames_of_zstd_are_skipped() -> None:
    skippable = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"hello"
    data = skippable + packed(b"one", Encoding.TAR_ZSTD) + skippable
    assert inflate(data + packed(b"two", Encoding.TAR_ZSTD), Encoding.TAR_ZSTD) == b"onetwo"


@pytest.mark.parametrize(
    ("encoding", "message"), [(BOTH[0], "no gzip, .* begins with 75 73"), (BOTH[1], "zstd")]
)
def test_bytes_that_are_not_what_the_media_type_says_are_refused(
    encoding: Encoding, message: str
) -> None:
    with pytest.raises(ArtifactError, match=message):
        inflate(b"ustar, by mistake", encoding)


def test_a_window_of_zstd_beyond_the_limit_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=False)
    writer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = writer.compress(noise(1 << 20)) + writer.flush()
    with pytest.raises(ArtifactError, match="window of more than 128 MiB"):
        inflate(data, Encoding.TAR_ZSTD)


@pytest.mark.parametrize("encoding", BOTH)
def test_a_bomb_costs_no_more_memory_than_a_piece(encoding: Encoding) -> None:
    data = packed(bytes(64 << 20), encoding)
    feed = Feed()
    feed.put(data)
    stream = inflater(encoding, feed, "layer 1 of 1")
    tracemalloc.start()
    try:
        for _ in range(8):
            assert len(stream.read(1 << 20)) <= 1 << 20
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20
