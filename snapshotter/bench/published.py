"""A model that can be measured: which files it has, and where they are published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from snapshotter.artifact.config import ModelFacts
from snapshotter.artifact.digest import Digest, digest_of
from snapshotter.artifact.layout import Layout, layout
from snapshotter.artifact.manifest import Manifest, parse
from snapshotter.artifact.mediatypes import Category, Encoding
from snapshotter.bench.errors import BenchError
from snapshotter.bench.origins import TAG, DockerRegistry, OwnOrigin
from snapshotter.pack.build import build
from snapshotter.pack.document import Layer, config_json, manifest_json
from snapshotter.pack.record import BuildStore
from snapshotter.registry.reference import Reference

_WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt", ".pth", ".onnx")


@dataclass(frozen=True, slots=True)
class PublishedFile:
    path: str
    size: int
    digest: Digest


@dataclass(frozen=True, slots=True)
class Published:
    """A model in a registry."""

    registry: str
    repository: str
    tag: str
    files: tuple[PublishedFile, ...]
    source: Path | None
    """A local copy of its files; None where there is none yet."""
    loopback: bool
    """On a registry of ours: reached by plain HTTP, and through a forwarder if need be."""

    @property
    def weights(self) -> tuple[PublishedFile, ...]:
        """Files of weights in order of their names."""
        return tuple(file for file in self.files if file.path.endswith(_WEIGHTS))

    @property
    def largest(self) -> PublishedFile:
        return max(self.files, key=lambda file: file.size)


def publish(
    directory: Path, name: str, origin: DockerRegistry | OwnOrigin, work: Path
) -> Published:
    """Build a directory into a model and put it where ``origin`` serves it."""
    repository = f"bench/{name}"
    reference = Reference(origin.address, repository, TAG, None)
    store = BuildStore(work)
    build(directory, reference, store)
    record = store.load(reference)
    origin.publish(repository, record.manifest, record.config, list(record.blobs))
    files = _files(record.manifest)
    return Published(origin.address, repository, TAG, files, directory, loopback=True)


def publish_sparse(size: int, origin: OwnOrigin, work: Path) -> Published:
    """A model of one file of ``size`` zeros that takes no disk."""
    directory = work / f"sparse-{size}"
    directory.mkdir(parents=True)
    with (directory / "model.safetensors").open("wb") as file:
        file.truncate(size)
    return publish_hollow(directory, directory.name, origin)


def publish_hollow(directory: Path, name: str, origin: OwnOrigin) -> Published:
    """A model of the weights in ``directory``, which nobody can verify: digests are of names and
    sizes, not of bytes, for these may be many more than there are on the disk."""
    layers = [_hollow(name, path) for path in sorted(directory.iterdir())]
    config = config_json(ModelFacts(name=name), layers)
    blobs = [(layer.digest, str(directory / layer.path), layer.size) for layer in layers]
    repository = f"bench/{name}"
    origin.serve(repository, manifest_json(config, layers), [origin.keep(config), *blobs])
    files = tuple(PublishedFile(layer.path, layer.size, layer.digest) for layer in layers)
    return Published(origin.address, repository, TAG, files, directory, loopback=True)


def _hollow(name: str, path: Path) -> Layer:
    size = path.stat().st_size
    return Layer(
        path=path.name,
        category=Category.WEIGHT,
        encoding=Encoding.RAW,
        digest=digest_of(f"{name}/{path.name}/{size}".encode()),
        size=size,
        file_size=size,
        mode=0o644,
    )


def of_manifest(reference: Reference, manifest: Manifest) -> Published:
    """A model somebody else published. Raises :class:`BenchError` where it has tar layers."""
    files = _of_layout(layout(manifest, {}))
    tag = f"@{reference.digest}" if reference.digest else f"{reference.tag}"
    return Published(reference.registry, reference.repository, tag, files, None, loopback=False)


def _files(raw: bytes) -> tuple[PublishedFile, ...]:
    manifest = parse(raw)
    if not isinstance(manifest, Manifest):
        raise BenchError("an index was built where a manifest was expected")
    return _of_layout(layout(manifest, {}))


def _of_layout(described: Layout) -> tuple[PublishedFile, ...]:
    return tuple(PublishedFile(file.path, file.size, file.digest) for file in described.files)


def sizes(files: Sequence[PublishedFile]) -> list[int]:
    return [file.size for file in files]
