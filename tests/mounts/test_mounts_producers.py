"""Models of every producer, pushed to a real registry, mounted, and read by another process."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

import pytest
from mounts_node import Node, shell
from producers import PRODUCERS, Producer, Pushed
from registry_process import RegistryProcess

from snapshotter.artifact.digest import digest_of
from snapshotter.images.resolve import resolve_model
from snapshotter.registry.client import Registry
from snapshotter.registry.reference import Reference


def push(registry: Registry, reference: Reference, pushed: Pushed) -> None:
    for blob in pushed.blobs:
        registry.upload_blob(reference, digest_of(blob), len(blob), lambda blob=blob: iter([blob]))  # type: ignore[misc]
    *listed, last = pushed.manifests
    for media_type, raw in listed:
        registry.put_manifest(reference.with_digest(digest_of(raw)), media_type, raw)
    registry.put_manifest(reference, *last)


def found_in(directory: Path) -> dict[str, tuple[str, ...]]:
    """Path to what kind of thing it is, and of files also mode, owner, time and content."""
    listing = shell(
        f"cd {directory} && find . -mindepth 1 -printf '%P\\t%y\\t%m\\t%U:%G\\t%T@\\n'"
    ).stdout.decode()
    sums = shell(f"cd {directory} && find . -type f -exec sha256sum {{}} +").stdout.decode()
    digests = dict(reversed(line.split("  ./")) for line in sums.splitlines())
    rows = [line.split("\t") for line in listing.splitlines()]
    return {
        path: (kind, *facts[:2], facts[2], digests[path]) if kind == "f" else (kind,)
        for path, kind, *facts in rows
    }


def expected_of(producer: Producer) -> dict[str, tuple[str, ...]]:
    directories = {
        parent
        for path in (*producer.shows, *(f"{path}/." for path in producer.empty_directories))
        for parent in map(str, Path(path).parents)
        if parent != "."
    } | set(producer.empty_directories)
    files = {
        path: (
            "f",
            f"{shown.mode:o}",
            "0:0",
            f"{shown.mtime_ns // 10**9}.{shown.mtime_ns % 10**9:09}0",
            hashlib.sha256(shown.data).hexdigest(),
        )
        for path, shown in producer.shows.items()
    }
    return dict.fromkeys(directories, ("d",)) | files


@pytest.mark.parametrize("producer", PRODUCERS, ids=lambda producer: producer.name)
def test_a_mount_shows_what_the_producers_own_tool_extracts(
    node: Node, docker_registry: RegistryProcess, producer: Producer
) -> None:
    if producer.name == "aikit-platforms":
        assert platform.machine() in ("x86_64", "amd64"), "expectations are of this platform"
    reference = Reference.parse(f"{docker_registry.address}/producers/{producer.name}:1")
    push(node.registry, reference, producer.make())
    ref, _ = resolve_model(reference, node.registry)
    assert found_in(node.mounts.mount(ref)) == expected_of(producer)


@pytest.mark.parametrize("producer", PRODUCERS, ids=lambda producer: producer.name)
def test_it_is_shown_again_without_a_registry(
    make_node: object, docker_registry: RegistryProcess, producer: Producer
) -> None:
    node: Node = make_node()  # type: ignore[operator]
    reference = Reference.parse(f"{docker_registry.address}/again/{producer.name}:1")
    push(node.registry, reference, producer.make())
    ref, _ = resolve_model(reference, node.registry)
    shown = found_in(node.mounts.mount(ref))
    node.store.flush()
    node = make_node()  # type: ignore[operator]
    node.registry.close()
    assert found_in(node.mounts.mount(ref)) == shown
