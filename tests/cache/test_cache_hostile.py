"""Files of the cache that somebody or a disk has changed: no byte is claimed that is not right,
as far as a checksum can tell, and nothing but errors of ours comes of it."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzzing import DAMAGES, Damage, examples, is_for_people
from hypothesis import given
from hypothesis import strategies as st

from snapshotter.artifact.digest import Digest, digest_of
from snapshotter.artifact.tar import TarEntry, TarIndex
from snapshotter.cache.documents import Documents
from snapshotter.cache.errors import CacheError
from snapshotter.cache.indexes import TarIndexes
from snapshotter.cache.options import CacheOptions
from snapshotter.cache.store import BlobStore
from snapshotter.unpack.content import Content

CONTENT = random.Random(5).randbytes(100_000)
DIGEST = digest_of(CONTENT)
THERE = [(0, 4096), (50_000, 60_000)]
INDEX = TarIndex((TarEntry("a/b", 512, 9, 0o444, 5, False, "", ""),))


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """A cache that has some ranges of a blob."""
    store = BlobStore(tmp_path / "sound", CacheOptions())
    blob = store.open(DIGEST, len(CONTENT))
    for start, end in THERE:
        blob.write(start, CONTENT[start:end])
    store.close()
    return tmp_path / "sound"


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "cache"
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)


def claimed(root: Path, size: int = len(CONTENT)) -> list[tuple[int, int]]:
    """The ranges that a daemon which finds these files would serve."""
    store = BlobStore(root, CacheOptions())
    try:
        blob = store.open(DIGEST, size)
        ranges = list(blob.present)
        for start, end in ranges:
            assert blob.path.read_bytes()[start:end] == CONTENT[start:end]
        blob.write(0, CONTENT[:10])
        return ranges
    finally:
        store.close()


def place(root: Path) -> Path:
    return root / "blobs" / "sha256" / DIGEST[7:]


@examples(100)
@given(DAMAGES)
def test_a_damaged_map_claims_nothing_or_what_it_did(
    sound: Path, cache: Path, damage: Damage
) -> None:
    shutil.rmtree(cache, ignore_errors=True)
    shutil.copytree(sound, cache)
    file = place(cache) / "map"
    file.write_bytes(damage.to(file.read_bytes()))
    assert claimed(cache) in ([], THERE)


@examples(50)
@given(st.integers(0, 2 * len(CONTENT)))
def test_a_data_file_of_another_length_has_nothing(sound: Path, cache: Path, length: int) -> None:
    shutil.rmtree(cache, ignore_errors=True)
    shutil.copytree(sound, cache)
    os.truncate(place(cache) / "data", length)
    assert claimed(cache) == (THERE if length == len(CONTENT) else [])


@pytest.mark.parametrize("name", ["data", "map"])
@pytest.mark.parametrize("kind", ["link", "directory", "nothing"])
def test_something_else_in_place_of_a_file_is_followed_nowhere(
    sound: Path, tmp_path: Path, name: str, kind: str
) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"not ours")
    file = place(sound) / name
    file.unlink()
    if kind == "link":
        file.symlink_to(precious)
    elif kind == "directory":
        file.mkdir()
    try:
        assert claimed(sound) == []
    except CacheError as error:
        is_for_people(error)
    assert precious.read_bytes() == b"not ours"


@examples(100)
@given(DAMAGES)
def test_a_damaged_document_is_none(tmp_path: Path, damage: Damage) -> None:
    documents = Documents(tmp_path)
    documents.put(DIGEST, CONTENT[:500])  # of another digest: as if the disk had changed it
    assert documents.get(DIGEST) is None
    digest = digest_of(CONTENT[:500])
    documents.put(digest, CONTENT[:500])
    file = tmp_path / "sha256" / digest[7:]
    file.write_bytes(damage.to(file.read_bytes()))
    assert documents.get(digest) in (None, CONTENT[:500])


@examples(100)
@given(DAMAGES)
def test_a_damaged_index_of_a_tar_is_none(tmp_path: Path, damage: Damage) -> None:
    indexes = TarIndexes(tmp_path)
    indexes.put(DIGEST, INDEX)
    (file,) = (tmp_path / "sha256").iterdir()
    file.write_bytes(damage.to(file.read_bytes()))
    assert indexes.get(DIGEST) in (None, INDEX)


@examples(100)
@given(DAMAGES, st.booleans())
def test_an_unpacked_layer_with_a_damaged_record_is_unpacked_anew(
    cache: Path, damage: Damage, resealed: bool
) -> None:
    shutil.rmtree(cache, ignore_errors=True)
    content = Content(cache, DIGEST)
    content.append(CONTENT)
    content.finish(Digest(DIGEST))
    file = cache / "done"
    checksum, _, body = file.read_bytes().partition(b"\n")
    changed = damage.to(body)
    if resealed:
        checksum = hashlib.sha256(changed).hexdigest().encode()
    file.write_bytes(checksum + b"\n" + changed)
    found = Content(cache, DIGEST)
    assert found.record is None or found.size == len(CONTENT)
    if found.record is None:
        assert not file.exists()
