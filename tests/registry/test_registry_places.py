"""A model in two registries: when one refuses its bytes the other is asked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
from registry_scripted import Reply, Request, ScriptedServer, ranged, scripted

from snapshotter.artifact.descriptor import Descriptor
from snapshotter.artifact.digest import digest_of
from snapshotter.registry.blobs import BlobOrigin
from snapshotter.registry.client import Registry
from snapshotter.registry.errors import NotFound, Overloaded, RegistryError
from snapshotter.registry.options import RegistryOptions

CONTENT = hashlib.shake_128(b"blob").digest(10_000)
DIGEST = digest_of(CONTENT)


@pytest.fixture
def registry() -> Iterator[Registry]:
    registry = Registry(RegistryOptions(certs_d=(), docker_config="/nonexistent"))
    yield registry
    registry.close()


def origin(registry: Registry, first: ScriptedServer, *others: ScriptedServer) -> BlobOrigin:
    made = registry.origin(first.address, "team/m", Descriptor("", DIGEST, len(CONTENT)))
    for other in others:
        registry.also_at(other.address, "mirror/m", [DIGEST])
    return made


def read(blob: BlobOrigin, start: int = 0, end: int = len(CONTENT)) -> bytes:
    buffer = bytearray(end - start)
    with blob.open(start, end) as body:
        body.readinto(memoryview(buffer))
    return bytes(buffer)


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_a_place_that_refuses_is_followed_by_the_next_which_is_then_kept_to(
    registry: Registry, status: int
) -> None:
    with scripted(lambda request: Reply(status)) as first, scripted(ranged(CONTENT)) as second:
        blob = origin(registry, first, second)
        assert blob.name.startswith(first.address)
        assert read(blob) == CONTENT
        assert read(blob, 1, 5) == CONTENT[1:5]
        assert len(first.requests) == 1
        assert {request.path for request in second.requests} == {f"/v2/mirror/m/blobs/{DIGEST}"}


def test_a_place_told_of_later_serves_origins_made_before(registry: Registry) -> None:
    with scripted(lambda request: Reply(404)) as first, scripted(ranged(CONTENT)) as second:
        blob = origin(registry, first)
        with pytest.raises(NotFound):
            read(blob)
        registry.also_at(second.address, "mirror/m", [DIGEST])
        assert read(blob) == CONTENT


def test_while_its_own_place_gives_bytes_no_other_is_asked(registry: Registry) -> None:
    with scripted(ranged(CONTENT)) as first, scripted(ranged(CONTENT)) as second:
        assert read(origin(registry, first, second)) == CONTENT
        assert second.requests == []


@pytest.mark.parametrize(
    ("first", "second", "expected"), [(404, 500, Overloaded), (500, 404, Overloaded)]
)
def test_when_all_fail_the_error_that_gives_hope_counts(
    registry: Registry, first: int, second: int, expected: type[RegistryError]
) -> None:
    def answer(status: int, request: Request) -> Reply:
        return Reply(status)

    with (
        scripted(lambda request: answer(first, request)) as one,
        scripted(lambda request: answer(second, request)) as other,
        pytest.raises(expected),
    ):
        read(origin(registry, one, other))


def test_after_wrong_bytes_the_other_place_is_asked(registry: Registry) -> None:
    with scripted(ranged(bytes(len(CONTENT)))) as first, scripted(ranged(CONTENT)) as second:
        blob = origin(registry, first, second)
        assert read(blob) != CONTENT
        blob.distrust()
        assert read(blob) == CONTENT
