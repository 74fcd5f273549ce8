"""What may be taken from one host."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from registry_scripted import Reply, Request, ranged, scripted

from snapshotter.artifact.descriptor import Descriptor
from snapshotter.artifact.digest import Digest, digest_of
from snapshotter.registry.blobs import BlobOrigin
from snapshotter.registry.client import Registry
from snapshotter.registry.errors import Busy
from snapshotter.registry.hosts import Host
from snapshotter.registry.limits import Limiter, Limits
from snapshotter.registry.options import HostLimits, RegistryOptions
from snapshotter.units import ByteSize

CONTENT = bytes(range(256)) * 400
DIGEST = digest_of(CONTENT)


def registry_with(limits: dict[str, HostLimits], certs_d: tuple[str, ...] = ()) -> Registry:
    return Registry(RegistryOptions(certs_d=certs_d, docker_config="/nonexistent", limits=limits))


def origin(registry: Registry, name: str) -> BlobOrigin:
    return registry.origin(name, "m", Descriptor("x/y", Digest(DIGEST), len(CONTENT)))


def test_no_more_ranges_are_asked_for_at_a_time_than_allowed() -> None:
    with scripted(ranged(CONTENT)) as server:
        registry = registry_with({server.address: HostLimits(connections=2)})
        blob = origin(registry, server.address)
        first, second = blob.open(0, 50_000), blob.open(0, 50_000)
        with pytest.raises(Busy, match=r"registry\.limits") as caught:
            blob.open(0, 10)
        assert caught.value.temporary
        assert caught.value.retry_after
        second.close()
        second.close()
        with blob.open(0, 10) as body:
            assert body.readinto(memoryview(bytearray(10))) == 10
        first.close()
        registry.close()


def test_a_place_is_free_again_however_the_request_ended() -> None:
    replies = [Reply(500), Reply(raw=b""), Reply(404), Reply(206, {"Content-Range": "none"})]

    def answer(request: Request) -> Reply:
        return replies.pop(0) if replies else ranged(CONTENT)(request)

    with scripted(answer) as server:
        registry = registry_with({"_default": HostLimits(connections=1)})
        blob = origin(registry, server.address)
        for _ in range(len(replies)):
            with pytest.raises(Exception, match=server.address) as caught:
                blob.open(0, 10)
            assert not isinstance(caught.value, Busy)
        with blob.open(0, 10) as body:
            assert body.readinto(memoryview(bytearray(10))) == 10
        registry.close()


def test_a_mirror_at_its_limits_is_waited_for_and_no_other_host_asked(tmp_path: Path) -> None:
    with scripted(ranged(CONTENT)) as mirror, scripted(ranged(CONTENT)) as upstream:
        (tmp_path / "r.example").mkdir()
        (tmp_path / "r.example" / "hosts.toml").write_text(
            f'server = "{upstream.url}"\n[host."{mirror.url}"]\n'
        )
        limits = {mirror.address: HostLimits(connections=1)}
        registry = registry_with(limits, (str(tmp_path),))
        blob = origin(registry, "r.example")
        with blob.open(0, 50_000):
            with pytest.raises(Busy):
                blob.open(0, 10)
            assert upstream.requests == []
        registry.close()


def test_requests_come_no_faster_than_allowed() -> None:
    now = 0.0
    limiter = Limiter("r.example", HostLimits(requests_per_second=0.5), lambda: now)
    limiter.enter()
    with pytest.raises(Busy) as caught:
        limiter.enter()
    assert caught.value.retry_after == pytest.approx(2)
    assert limiter.connections == 1
    now = 2.0
    limiter.enter()


def test_bytes_come_no_faster_than_allowed() -> None:
    now = 0.0
    limits = HostLimits(bytes_per_second=ByteSize(1 << 20))
    limiter = Limiter("r.example", limits, lambda: now)
    assert limiter.piece == (1 << 20) // 10
    assert limiter.delay(1 << 20) == pytest.approx(1)
    assert limiter.delay(1 << 19) == pytest.approx(1.5)
    now = 10.0
    assert limiter.delay(1 << 20) == pytest.approx(1)


def test_a_limited_rate_brings_the_right_bytes_and_can_be_broken_off() -> None:
    with scripted(ranged(CONTENT)) as server:
        limits = {"_default": HostLimits(bytes_per_second=ByteSize(1 << 20))}
        registry = registry_with(limits)
        blob = origin(registry, server.address)
        buffer = bytearray(len(CONTENT))
        with blob.open(0, len(CONTENT)) as body:
            assert body.readinto(memoryview(buffer)) == len(CONTENT)
        assert buffer == CONTENT
        registry.close()
    with scripted(ranged(CONTENT)) as server:
        registry = registry_with({"_default": HostLimits(bytes_per_second=ByteSize(1))})
        body = origin(registry, server.address).open(0, len(CONTENT))
        reader = threading.Thread(target=body.readinto, args=(memoryview(bytearray(4096)),))
        reader.start()
        body.close()
        reader.join(20)
        assert not reader.is_alive()
        registry.close()


def test_the_limits_of_a_registry_are_found_by_its_address_its_name_or_the_default() -> None:
    limits = Limits(
        {
            "docker.io": HostLimits(connections=1),
            "mirror.example:5000": HostLimits(connections=2),
            "_default": HostLimits(connections=3),
        }
    )

    def of(url: str, registry: str) -> int:
        return limits.of(Host(url, registry)).limits.connections

    assert of("https://registry-1.docker.io/v2", "docker.io") == 1
    assert of("http://mirror.example:5000/v2", "docker.io") == 2
    assert of("https://ghcr.io/v2", "ghcr.io") == 3
