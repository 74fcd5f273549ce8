"""Models in a registry, and the command line that reads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from click.testing import Result
from producers import Producer, Pushed
from registry_process import RegistryProcess

from snapshotter.artifact.digest import digest_of
from snapshotter.registry.client import Registry
from snapshotter.registry.options import RegistryOptions
from snapshotter.registry.reference import Reference

Cli: TypeAlias = Callable[..., Result]


def push_producer(process: RegistryProcess, producer: Producer) -> str:
    return push(process, f"copies/{producer.name}", producer.make())


def push(process: RegistryProcess, repository: str, pushed: Pushed) -> str:
    reference = Reference.parse(f"{process.address}/{repository}:1")
    registry = Registry(RegistryOptions(certs_d=()))
    try:
        for blob in pushed.blobs:
            digest = digest_of(blob)
            if not registry.has_blob(reference, digest):
                registry.upload_blob(reference, digest, len(blob), lambda raw=blob: iter([raw]))  # type: ignore[misc]
        *listed, last = pushed.manifests
        for media_type, raw in listed:
            registry.put_manifest(reference.with_digest(digest_of(raw)), media_type, raw)
        registry.put_manifest(reference, *last)
    finally:
        registry.close()
    return str(reference)
