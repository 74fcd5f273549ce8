from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from snapshotter.bench.models import write_sharded
from snapshotter.bench.origins import OwnOrigin
from snapshotter.bench.published import Published, publish, publish_sparse
from snapshotter.images.resolve import resolve_model
from snapshotter.registry.client import Registry
from snapshotter.registry.options import RegistryOptions
from snapshotter.registry.reference import Reference


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[OwnOrigin]:
    with ExitStack() as stack:
        yield OwnOrigin(tmp_path / "origin", stack)


@pytest.fixture
def model(origin: OwnOrigin, tmp_path: Path) -> Published:
    write_sharded(tmp_path / "model", 1 << 20, 4)
    return publish(tmp_path / "model", "small", origin, tmp_path / "builds")


def url(model: Published, digest: str) -> str:
    return f"http://{model.registry}/v2/{model.repository}/blobs/{digest}"


def fetched(url: str, **headers: str) -> httpx.Response:
    return httpx.get(url, headers=headers, timeout=60)


def test_a_published_model_is_resolved_as_from_any_registry(model: Published) -> None:
    registry = Registry(RegistryOptions(certs_d=()))
    reference = Reference.parse(f"{model.registry}/{model.repository}:{model.tag}")
    _, manifest = resolve_model(reference, registry)
    registry.close()
    assert [layer.size for layer in manifest.layers if layer.size == model.largest.size]


def test_a_range_of_a_blob_is_that_part_of_its_file(model: Published) -> None:
    file = model.weights[1]
    assert model.source is not None
    expected = (model.source / file.path).read_bytes()[1000:5000]
    answer = fetched(url(model, file.digest), Range="bytes=1000-4999")
    assert (answer.status_code, answer.content) == (206, expected)
    assert answer.headers["content-range"] == f"bytes 1000-4999/{file.size}"


def test_a_blob_without_a_range_comes_whole(model: Published) -> None:
    assert len(fetched(url(model, model.largest.digest)).content) == model.largest.size


def test_a_range_beyond_the_end_is_refused(model: Published) -> None:
    file = model.largest
    answer = fetched(url(model, file.digest), Range=f"bytes={file.size}-")
    assert answer.status_code == 416


def test_what_is_not_there_is_not_found(model: Published) -> None:
    assert fetched(url(model, "sha256:" + "0" * 64)).status_code == 404


def test_a_sparse_model_of_100_gib_takes_no_disk(origin: OwnOrigin, tmp_path: Path) -> None:
    model = publish_sparse(100 << 30, origin, tmp_path / "sparse")
    answer = fetched(url(model, model.largest.digest), Range=f"bytes={99 << 30}-{(99 << 30) + 9}")
    assert answer.content == bytes(10)
    (path,) = (tmp_path / "sparse").iterdir()
    assert path.stat().st_blocks * 512 < 1 << 20
