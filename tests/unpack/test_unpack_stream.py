"""One layer on its way into its content: it comes out whole or not at all, whatever it is."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from unpack_origin import archive_of, packed, seekable, sha256, tar

from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.mediatypes import Encoding
from snapshotter.unpack.content import Content
from snapshotter.unpack.inflate import Dry
from snapshotter.unpack.stream import Stream

FILES = st.dictionaries(
    st.sampled_from(["a", "b/c", "b/d", "e" * 120, "ü.txt"]), st.binary(max_size=2000), max_size=4
)
ENCODINGS = st.sampled_from([Encoding.TAR_GZIP, Encoding.TAR_ZSTD])


def run(data: bytes, encoding: Encoding, directory: Path, step: int) -> tuple[bytes, Stream]:
    """Unpack it, fed in steps. Raises what the stream raises."""
    archive = archive_of(data, encoding)
    content = Content(directory, archive.descriptor.digest)
    stream = Stream(archive, content, None, 200)
    while True:
        try:
            if not stream.step():
                return content.read(0, content.size), stream
        except Dry:
            stream.feed(data[stream.taken : stream.taken + min(step, stream.wanted)])


@settings(max_examples=60)
@given(files=FILES, encoding=ENCODINGS, step=st.integers(1, 4000), frame=st.integers(1, 4000))
def test_every_archive_comes_out_whole_in_any_steps(
    files: dict[str, bytes], encoding: Encoding, step: int, frame: int
) -> None:
    whole = tar(files)
    data = packed(whole, encoding)
    if encoding is Encoding.TAR_ZSTD:
        data = seekable(whole, frame + 100)
    with tempfile.TemporaryDirectory() as directory:
        content, stream = run(data, encoding, Path(directory), step)
    assert sha256(content) == sha256(whole)
    assert stream.index is not None
    assert {
        entry.path: content[entry.offset : entry.offset + entry.size]
        for entry in stream.index.entries
    } == files


@settings(max_examples=150)
@given(
    files=FILES,
    encoding=ENCODINGS,
    inside=st.booleans(),
    place=st.integers(0, 12_000),
    junk=st.binary(max_size=40),
    end=st.integers(0, 12_000),
)
def test_a_damaged_layer_is_refused_or_has_other_bytes_but_never_hangs_or_crashes(
    files: dict[str, bytes], encoding: Encoding, inside: bool, place: int, junk: bytes, end: int
) -> None:
    # The digest is right: it is the producer who made it so.
    data = bytearray(tar(files) if inside else packed(tar(files), encoding))
    data[place : place + len(junk)] = junk
    del data[end:]
    raw = packed(bytes(data), encoding) if inside else bytes(data)
    with tempfile.TemporaryDirectory() as directory:
        refused = ""
        try:
            content, stream = run(raw, encoding, Path(directory), 1 << 20)
        except ArtifactError as error:
            refused = str(error)
    if refused:
        assert refused.startswith("layer 1 of 1")
        assert "\n" not in refused
    else:
        assert stream.index is not None
        assert stream.index.end <= len(content)
