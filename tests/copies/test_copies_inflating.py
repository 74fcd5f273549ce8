"""Compressed layers that pass: the same files whatever pieces they come in."""

from __future__ import annotations

import tarfile
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from producers import encoded, tar

from snapshotter.artifact.descriptor import Descriptor
from snapshotter.artifact.digest import digest_of
from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.layers import Archive
from snapshotter.artifact.mediatypes import Encoding
from snapshotter.artifact.tar import TarIndex, index_tar
from snapshotter.copies.errors import WrongBytes
from snapshotter.copies.inflating import index_passing, inflated

_LONG = "directory/" + "n" * 120
_TARS = [
    tar({"a": b"1", "b/": b"", "b/c": b"2" * 2000, _LONG: b"3"}, format=form)
    for form in (tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)
    if form != tarfile.USTAR_FORMAT
]


def archive(blob: bytes, encoding: Encoding, single: tuple[str, int] | None = None) -> Archive:
    return Archive(Descriptor("", digest_of(blob), len(blob)), encoding, 0, "layer 1", single)


def known(content: bytes) -> TarIndex:
    steps = index_tar(len(content))
    want = next(steps)
    try:
        while True:
            want = steps.send(content[want.offset : want.offset + want.most])
    except StopIteration as done:
        index: TarIndex = done.value
        return index


@given(
    st.sampled_from(_TARS),
    st.sampled_from(["tar+gzip", "tar+zstd"]),
    st.lists(st.floats(0, 1), max_size=20),
)
def test_an_index_is_the_same_in_whatever_pieces_it_comes(
    content: bytes, encoding: str, cuts: list[float]
) -> None:
    blob = encoded(content, encoding)
    edges = sorted({0, len(blob), *(round(cut * len(blob)) for cut in cuts)})
    pieces = [blob[start:end] for start, end in pairwise(edges)]
    layer = archive(blob, Encoding(encoding))
    assert b"".join(inflated(layer, pieces, 200)) == content
    assert index_passing(layer, inflated(layer, pieces, 200)) == known(content)


@given(st.sampled_from(_TARS), st.lists(st.integers(1, 3000), min_size=1, max_size=40))
def test_headers_are_found_in_content_of_any_pieces(content: bytes, sizes: list[int]) -> None:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(content[at : at + size])
        at += size
    pieces.append(content[at:])
    layer = archive(b"", Encoding.TAR_GZIP)
    assert index_passing(layer, filter(None, pieces)) == known(content)


@pytest.mark.parametrize("encoding", ["tar+gzip", "tar+zstd"])
def test_other_bytes_than_the_digest_says_are_found_out(encoding: str) -> None:
    blob, other = (encoded(tar({"a": data}), encoding) for data in (b"one", b"two"))
    layer = archive(blob, Encoding(encoding))
    with pytest.raises(WrongBytes):
        list(inflated(layer, [other], 200))
    with pytest.raises((WrongBytes, ArtifactError)):
        list(inflated(layer, [blob[:-9]], 200))


def test_a_truncated_archive_is_an_error() -> None:
    content = tar({"a": b"x" * 5000})[:3000]
    with pytest.raises(ArtifactError, match="truncated"):
        index_passing(archive(b"", Encoding.TAR_GZIP), [content])


def test_one_file_is_known_by_its_header() -> None:
    content = tar({"a.bin": b"x" * 5000})
    layer = archive(b"", Encoding.TAR_GZIP, single=("a.bin", 5000))
    index = index_passing(layer, [content[:1024]])
    assert [entry.path for entry in index.entries] == ["a.bin"]


def test_a_layer_that_expands_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snapshotter.copies.inflating.FREE", 1 << 20)
    blob = encoded(bytes(64 << 20), "tar+gzip")
    with pytest.raises(ArtifactError, match="max_ratio"):
        for _ in inflated(archive(blob, Encoding.TAR_GZIP), [blob], 200):
            pass


@pytest.mark.parametrize("encoding", ["tar+gzip", "tar+zstd"])
def test_memory_does_not_grow_with_what_comes_out(encoding: str) -> None:
    content = tar({"a": bytes(128 << 20), "b": b"behind it"})
    blob = encoded(content, encoding)
    expected = known(content)
    del content
    layer = archive(blob, Encoding(encoding))
    tracemalloc.start()
    try:
        assert index_passing(layer, inflated(layer, [blob], 1 << 20)) == expected
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 32 << 20
