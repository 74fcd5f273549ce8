"""Chunk lists of real models, made from files and from a registry."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from pack_models import write_model
from registry_process import RegistryProcess

from snapshotter.artifact.chunks import CHUNK_LIST, LIST_LIMIT, decode_chunks
from snapshotter.artifact.digest import digest_of, encoded
from snapshotter.artifact.manifest import Manifest, parse
from snapshotter.pack.build import build
from snapshotter.pack.chunks import chunk_digests, index_build, index_model
from snapshotter.pack.errors import BuildError, SourceChanged
from snapshotter.pack.push import push
from snapshotter.pack.record import BuildStore
from snapshotter.registry.client import Registry
from snapshotter.registry.options import RegistryOptions
from snapshotter.registry.reference import Reference
from snapshotter.registry.referrers import list_referrers

CHUNK = 64 << 10
CONTENT = random.Random(9).randbytes(5 * CHUNK + 100)


@pytest.fixture
def registry() -> Iterator[Registry]:
    registry = Registry(RegistryOptions(certs_d=(), docker_config="/nonexistent"))
    yield registry
    registry.close()


@pytest.mark.parametrize("piece", [1000, CHUNK, CHUNK + 1, len(CONTENT)])
def test_chunks_are_the_same_however_the_bytes_come(piece) -> None:
    pieces = [CONTENT[at : at + piece] for at in range(0, len(CONTENT), piece)]
    chunks = chunk_digests(digest_of(CONTENT), len(CONTENT), CHUNK, pieces)
    assert len(chunks) == 6
    for number in range(6):
        start, end = chunks.span(number)
        assert chunks.right(number, CONTENT[start:end])


@pytest.mark.parametrize("wrong", [CONTENT[:-1], CONTENT + b"x", b"y" + CONTENT[1:], b""])
def test_no_list_is_made_of_bytes_that_are_not_the_blobs(wrong) -> None:
    with pytest.raises(BuildError, match="has other content"):
        chunk_digests(digest_of(CONTENT), len(CONTENT), CHUNK, [wrong])


@pytest.fixture(params=[False, True], ids=["raw", "tar"])
def pushed(request, tmp_path, docker_registry, registry) -> tuple[Reference, BuildStore]:
    kind = "tar" if request.param else "raw"
    reference = Reference.parse(f"{docker_registry.address}/chunks/{kind}:1")
    store = BuildStore(tmp_path / "store")
    directory = write_model(tmp_path / "model")
    (directory / "long.bin").write_bytes(CONTENT)
    build(directory, reference, store, tar=request.param)
    push(reference, store, registry)
    return reference, store


def test_a_build_and_the_model_in_the_registry_have_the_same_list(pushed, registry) -> None:
    reference, store = pushed
    record = store.load(reference)
    manifest = parse(record.manifest)
    assert isinstance(manifest, Manifest)
    built = index_build(record, registry, reference, chunk_size=CHUNK)
    assert index_model(manifest, registry, reference, chunk_size=CHUNK).raw == built.raw
    assert {*built.list.blobs} == {layer.digest for layer in manifest.layers}


def test_a_published_list_is_found_and_reads_as_it_was_made(pushed, registry) -> None:
    reference, store = pushed
    record = store.load(reference)
    manifest = parse(record.manifest)
    built = index_build(record, registry, reference)
    place = reference.with_digest(manifest.digest)
    *_, found = list_referrers(registry, place, artifact_types=(CHUNK_LIST,))
    referrer = parse(registry.manifest(place.with_digest(found.digest))[1])
    assert [layer.digest for layer in referrer.layers] == [built.digest]
    raw = registry.blob(place, referrer.layers[0], limit=LIST_LIMIT)
    assert decode_chunks(raw, manifest).blobs == built.list.blobs


def test_a_file_that_changed_since_the_build_is_noticed(pushed, registry, tmp_path) -> None:
    reference, store = pushed
    (tmp_path / "model" / "long.bin").write_bytes(bytes(len(CONTENT)))
    with pytest.raises(SourceChanged):
        index_build(store.load(reference), registry, reference)


def test_a_registry_that_holds_wrong_bytes_gets_no_list(
    docker_registry: RegistryProcess, registry: Registry, tmp_path: Path
) -> None:
    reference = Reference.parse(f"{docker_registry.address}/chunks/damaged:1")
    store = BuildStore(tmp_path / "store")
    directory = write_model(tmp_path / "model")
    data = random.Random(10).randbytes(100_000)
    (directory / "more.bin").write_bytes(data)
    build(directory, reference, store)
    push(reference, store, registry)
    name = encoded(digest_of(data))
    stored = docker_registry.storage / "docker/registry/v2/blobs/sha256" / name[:2] / name / "data"
    stored.write_bytes(bytes(len(data)))
    manifest = parse(store.load(reference).manifest)
    with pytest.raises(BuildError, match=f"{digest_of(data)} has other content"):
        index_model(manifest, registry, reference)
