"""Chunk lists: what is published, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshotter.artifact.chunks import (
    ChunkDigests,
    check_chunk_size,
    decode_chunks,
    encode_chunks,
)
from snapshotter.artifact.digest import digest_of
from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.manifest import Manifest, parse

CHUNK = 64 << 10
CONTENTS = [random.Random(n).randbytes(size) for n, size in enumerate((0, 1, CHUNK, 3 * CHUNK + 7))]


def manifest_of(*contents: bytes) -> Manifest:
    config = {"mediaType": "application/json", "digest": digest_of(b"{}"), "size": 2}
    layers = [
        {"mediaType": "application/octet-stream", "digest": digest_of(data), "size": len(data)}
        for data in contents
    ]
    found = parse(json.dumps({"schemaVersion": 2, "config": config, "layers": layers}).encode())
    assert isinstance(found, Manifest)
    return found


def digests_of(data: bytes, chunk: int = CHUNK) -> ChunkDigests:
    parts = [data[at : at + chunk] for at in range(0, len(data), chunk)]
    hashed = b"".join(hashlib.sha256(part).digest() for part in parts)
    return ChunkDigests(len(data), chunk, hashed)


MANIFEST = manifest_of(*CONTENTS)
LIST = encode_chunks(
    MANIFEST.digest, CHUNK, [(digest_of(data), digests_of(data)) for data in CONTENTS]
)


def changed(**fields: Any) -> bytes:
    return json.dumps(json.loads(LIST) | fields).encode()


def test_a_list_comes_back_as_it_was_written() -> None:
    read = decode_chunks(LIST, MANIFEST)
    assert read.digest == digest_of(LIST)
    assert read.subject == MANIFEST.digest
    assert read.blobs == {digest_of(data): digests_of(data) for data in CONTENTS}


@pytest.mark.parametrize("data", CONTENTS, ids=len)
def test_every_chunk_is_known_and_no_other_bytes_pass_for_it(data) -> None:
    chunks = digests_of(data)
    assert [*chunks.touched(0, len(data))] == [*range(len(chunks))]
    for number in range(len(chunks)):
        start, end = chunks.span(number)
        assert chunks.right(number, data[start:end])
        assert not chunks.right(number, data[start : end - 1])
        assert not chunks.right(number, bytes([data[start] ^ 1]) + data[start + 1 : end])


@given(st.integers(0, 10 * CHUNK), st.integers(0, 3 * CHUNK))
def test_the_chunks_touched_are_those_with_a_byte_of_the_range(start, size) -> None:
    chunks = ChunkDigests(20 * CHUNK, CHUNK, b"")
    expected = [n for n in range(20) if start < (n + 1) * CHUNK and n * CHUNK < start + size]
    assert [*chunks.touched(start, start + size)] == (expected if size else [])


def test_a_list_of_another_model_is_refused() -> None:
    with pytest.raises(ArtifactError, match=f"is of '{MANIFEST.digest}', not of sha256:"):
        decode_chunks(LIST, manifest_of(b"other"))


def test_a_list_that_leaves_a_blob_out_is_refused() -> None:
    blobs = json.loads(LIST)["blobs"]
    with pytest.raises(ArtifactError, match=f"does not cover {digest_of(CONTENTS[3])}"):
        decode_chunks(changed(blobs=blobs[:3]), MANIFEST)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"version": 2}, "version 2"),
        ({"algorithm": "md5"}, "'md5'"),
        ({"chunkSize": 100_000}, "power of two"),
        ({"chunkSize": 1 << 40}, "power of two"),
        ({"chunkSize": 2 * CHUNK}, "bytes of digests"),
        ({"more": 1}, "no chunk list"),
        ({"blobs": [{"digest": "sha256:0", "size": 0, "chunks": ""}]}, "is no digest"),
        ({"blobs": [{"digest": digest_of(b""), "size": -1, "chunks": ""}]}, "does not cover"),
        (
            {
                "blobs": [
                    {
                        "digest": digest_of(b"x"),
                        "size": 1,
                        "chunks": base64.b64encode(bytes(31)).decode(),
                    }
                ]
            },
            "31 bytes of digests for the 1 bytes",
        ),
    ],
)
def test_what_does_not_add_up_is_refused(fields, why) -> None:
    with pytest.raises(ArtifactError, match=why):
        decode_chunks(changed(**fields), MANIFEST)


@given(st.binary(max_size=200) | st.integers(0, len(LIST)).map(lambda cut: LIST[:cut]))
def test_anything_else_is_refused_and_nothing_worse(raw) -> None:
    if raw != LIST:
        with pytest.raises(ArtifactError):
            decode_chunks(raw, MANIFEST)


@pytest.mark.parametrize("size", [0, -1, 4096, 3 << 20, 128 << 20])
def test_odd_chunk_sizes_are_refused(size) -> None:
    with pytest.raises(ArtifactError, match="power of two"):
        check_chunk_size(size)
