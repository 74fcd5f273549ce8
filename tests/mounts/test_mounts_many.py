"""As many files as a manifest may have layers."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from mounts_node import Node, shell
from producers import CNCF, FILEPATH, METADATA, Artifact, metadata

from snapshotter.artifact.descriptor import Descriptor
from snapshotter.artifact.digest import Digest, digest_of
from snapshotter.artifact.manifest import LAYER_LIMIT
from snapshotter.artifact.marker import ModelRef


class Counting:
    """The content of a blob that is its own number; counts what is asked for."""

    name = "registry.test/model"
    opened: ClassVar[list[int]] = []

    def __init__(self, number: int) -> None:
        self.number = number

    def open(self, start: int, end: int) -> Any:
        self.opened.append(self.number)
        return io.BytesIO((b"%08d" % self.number)[start:end])


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_model_of_16384_files_takes_no_request_and_no_descriptor_for_each(
    make_node: Callable[..., Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    node = make_node()
    artifact, numbers = Artifact(b"{}"), dict[Digest, int]()
    for number in range(LAYER_LIMIT):
        data, name = b"%08d" % number, f"{number:05}.bin"
        said = {FILEPATH: f"{number % 100:02}/{name}", METADATA: metadata(name, len(data))}
        artifact.add(f"{CNCF}weight.v1.raw", data, said)
        numbers[digest_of(data)] = number
    raw = artifact.manifest()
    node.documents.put(digest_of(raw), raw)

    def origin(_: str, __: str, descriptor: Descriptor) -> Any:
        return Counting(numbers[descriptor.digest])

    monkeypatch.setattr(node.registry, "origin", origin)
    before = descriptors()
    directory = node.mounts.mount(ModelRef("registry.test", "model", digest_of(raw)))
    assert descriptors() <= before + 8
    assert Counting.opened == []
    assert shell(f"find {directory} -type f | wc -l").stdout.strip() == b"16384"
    assert shell(f"cat {directory}/83/16383.bin {directory}/00/00000.bin").stdout == (
        b"0001638300000000"
    )
