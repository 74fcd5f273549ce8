"""Pushing into a real registry, and reading back what is there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest
from pack_models import write_model
from registry_process import RegistryProcess

from snapshotter.artifact.layout import layout
from snapshotter.artifact.manifest import Manifest, parse
from snapshotter.pack.build import build
from snapshotter.pack.errors import NoBuild, SourceChanged
from snapshotter.pack.push import push
from snapshotter.pack.record import BuildStore
from snapshotter.registry.client import Registry
from snapshotter.registry.errors import NotFound, Overloaded, Unreachable
from snapshotter.registry.options import RegistryOptions
from snapshotter.registry.reference import Reference


class Counting:
    def __init__(self) -> None:
        self.expected = self.seen = 0
        self.lock = threading.Lock()

    def total(self, size: int, /) -> None:
        self.expected = size

    def advance(self, size: int, /) -> None:
        with self.lock:
            self.seen += size


@pytest.fixture
def store(tmp_path: Path) -> BuildStore:
    return BuildStore(tmp_path / "store")


@pytest.fixture
def registry() -> Iterator[Registry]:
    registry = Registry(RegistryOptions(certs_d=(), docker_config="/nonexistent"))
    yield registry
    registry.close()


@pytest.fixture
def reference(docker_registry: RegistryProcess, request: pytest.FixtureRequest) -> Reference:
    """A repository for this test alone."""
    name = "".join(c if c.isalnum() else "-" for c in request.node.name.lower()).strip("-")
    name = "-".join(part for part in name.split("-") if part)
    return Reference.parse(f"{docker_registry.address}/{name}:v1")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = write_model(tmp_path / "m")
    (directory / "large.safetensors").write_bytes(bytes(range(256)) * 20_000)
    return directory


@pytest.mark.parametrize("tar", [False, True])
def test_what_was_pushed_is_read_back_in_ranges(
    tmp_path: Path,
    directory: Path,
    store: BuildStore,
    registry: Registry,
    reference: Reference,
    tar: bool,
) -> None:
    built = build(directory, reference, store, tar=tar)
    progress = Counting()
    pushed = push(reference, store, registry, progress=progress)
    assert pushed.digest == built.digest
    assert (pushed.pushed, pushed.skipped) == (len(built.layers) + 1, 0)
    assert progress.seen == progress.expected == pushed.bytes
    descriptor, raw = registry.manifest(reference)
    assert descriptor.digest == built.digest
    manifest = parse(raw)
    assert isinstance(manifest, Manifest)
    config = registry.blob(reference, manifest.config, limit=1 << 20)
    assert config == store.load(reference).config
    headers = {layer.digest: layer.size - layer.file_size for layer in built.layers}
    for layer, made in zip(manifest.layers, built.layers, strict=True):
        source = (directory / made.path).read_bytes()
        start = 512 if tar else 0
        assert headers[layer.digest] >= start
        buffer = bytearray(len(source))
        origin = registry.origin(reference.registry, reference.repository, layer)
        for begin in range(0, len(source), 1_000_000):
            end = min(begin + 1_000_000, len(source))
            with origin.open(start + begin, start + end) as body:
                assert body.readinto(memoryview(buffer)[begin:end]) == end - begin
        assert bytes(buffer) == source
    if not tar:
        assert {file.path for file in layout(manifest, {}).files} == {
            layer.path for layer in built.layers
        }


def test_pushing_again_sends_nothing(
    directory: Path, store: BuildStore, registry: Registry, reference: Reference
) -> None:
    built = build(directory, reference, store)
    push(reference, store, registry)
    progress = Counting()
    again = push(reference, store, registry, progress=progress)
    assert (again.pushed, again.skipped, again.bytes) == (0, len(built.layers) + 1, 0)
    assert again.digest == built.digest
    assert progress.seen == progress.expected


def test_only_what_changed_is_sent(
    directory: Path, store: BuildStore, registry: Registry, reference: Reference
) -> None:
    build(directory, reference, store)
    push(reference, store, registry)
    (directory / "tokenizer.json").write_text('{"other": 1}')
    build(directory, reference, store)
    assert push(reference, store, registry).pushed == 2  # that file, and the config's diffIds


def test_a_file_changed_since_the_build_stops_the_push_before_anything_is_sent(
    directory: Path, store: BuildStore, registry: Registry, reference: Reference
) -> None:
    build(directory, reference, store)
    (directory / "large.safetensors").write_bytes(b"shorter")
    with pytest.raises(SourceChanged, match=r"large\.safetensors.*build again"):
        push(reference, store, registry)
    with pytest.raises(NotFound):
        registry.manifest(reference)


def test_what_was_not_built_is_not_pushed(
    store: BuildStore, registry: Registry, reference: Reference
) -> None:
    with pytest.raises(NoBuild):
        push(reference, store, registry)


class Flaky(Registry):
    """A registry whose uploads fail at first, on the way to the real one."""

    def __init__(self, failures: int) -> None:
        super().__init__(RegistryOptions(certs_d=(), docker_config="/nonexistent"))
        self.failures = failures

    def upload_blob(self, ref, digest, size, body: Callable[[], Iterator[bytes]]) -> None:  # type: ignore[no-untyped-def]
        if self.failures > 0:
            self.failures -= 1
            next(body(), None)
            raise Overloaded("503", status=503, temporary=True, retry_after=0.01)
        super().upload_blob(ref, digest, size, body)


def test_temporary_failures_are_tried_again(
    directory: Path, store: BuildStore, reference: Reference
) -> None:
    flaky = Flaky(failures=3)
    build(directory, reference, store)
    progress = Counting()
    pushed = push(reference, store, flaky, progress=progress)
    assert progress.seen == progress.expected == pushed.bytes
    assert flaky.manifest(reference)[0].digest == pushed.digest
    flaky.close()


def test_failures_that_do_not_end_are_given_up(
    directory: Path, store: BuildStore, reference: Reference
) -> None:
    flaky = Flaky(failures=1000)
    build(directory, reference, store)
    with pytest.raises(Overloaded):
        push(reference, store, flaky)
    with pytest.raises(NotFound):
        flaky.manifest(reference)
    flaky.close()


def test_a_registry_that_is_down_is_named(
    directory: Path, store: BuildStore, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snapshotter.pack.push._ATTEMPTS", 2)
    reference = Reference.parse("127.0.0.1:1/m:v1")
    build(directory, reference, store)
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1.*connection refused"):
        push(reference, store, registry)


def test_the_registry_keeps_every_blob_under_its_digest(
    directory: Path, store: BuildStore, registry: Registry, reference: Reference
) -> None:
    build(directory, reference, store)
    push(reference, store, registry)
    connection = HTTPConnection(reference.registry)
    for blob in store.load(reference).blobs:
        connection.request("HEAD", f"/v2/{reference.repository}/blobs/{blob.digest}")
        response = connection.getresponse()
        response.read()
        assert response.status == 200
        assert response.headers["Content-Length"] == str(blob.size)
    connection.close()
