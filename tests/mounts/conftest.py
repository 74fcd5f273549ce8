from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from mounts_node import FILES, Node
from registry_process import RegistryProcess

from fuse.mount import fuse_mounts, unmount
from snapshotter.artifact.marker import ModelRef
from snapshotter.cache.documents import Documents
from snapshotter.cache.options import CacheOptions
from snapshotter.cache.store import BlobStore
from snapshotter.fetch.fetcher import Fetcher
from snapshotter.fetch.options import FetchOptions
from snapshotter.mounts.loader import Loader
from snapshotter.mounts.options import MountOptions
from snapshotter.mounts.table import Mounts
from snapshotter.pack.build import build
from snapshotter.pack.push import push
from snapshotter.pack.record import BuildStore
from snapshotter.registry.client import Registry
from snapshotter.registry.options import RegistryOptions
from snapshotter.registry.reference import Reference
from snapshotter.units import Seconds
from snapshotter.unpack.options import UnpackOptions
from snapshotter.unpack.unpacker import Unpacker

MakeNode: TypeAlias = Callable[..., Node]
_ON_DEMAND = MountOptions(prefetch=False)


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("model")
    for name, data in FILES.items():
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    return root


@pytest.fixture
def make_node(tmp_path: Path) -> Iterator[MakeNode]:
    """Nodes one after the other on the same directories, as a daemon that restarts is."""
    with ExitStack() as stack:

        def make(
            options: MountOptions = _ON_DEMAND,
            unpack: UnpackOptions = UnpackOptions(),  # noqa: B008
            **fetch: Any,
        ) -> Node:
            stack.close()
            registry = Registry(RegistryOptions(certs_d=()))
            stack.callback(registry.close)
            store = BlobStore(tmp_path / "cache", CacheOptions())
            stack.callback(store.close)
            fetcher = Fetcher(
                FetchOptions(**{"read_deadline": Seconds(50), **fetch}),
                on_verified=lambda blob: mounts.verified(blob),
                on_bad=lambda blob: mounts.condemned(blob),
            )
            stack.callback(fetcher.close)
            documents = Documents(tmp_path / "documents")
            unpacker = Unpacker(store, fetcher, unpack, on_bad=lambda blob: mounts.condemned(blob))
            stack.callback(unpacker.close)
            loader = Loader(
                registry,
                documents,
                store,
                fetcher,
                unpacker=unpacker,
                rules=options.rules,
                patience=unpack.mount_wait,
            )
            mounts = Mounts(tmp_path / "mounts", loader, fetcher, options)
            stack.callback(mounts.close)
            return Node(registry, documents, store, fetcher, loader, mounts)

        yield make
    for left in fuse_mounts("modelpack"):
        if left.mount_point.is_relative_to(tmp_path):
            unmount(left.mount_point, lazy=True)
            raise AssertionError(f"left mounted: {left.mount_point}")


@pytest.fixture
def node(make_node: MakeNode) -> Node:
    return make_node()


@pytest.fixture(params=[False, True], ids=["raw", "tar"])
def model(
    request: pytest.FixtureRequest,
    docker_registry: RegistryProcess,
    model_directory: Path,
    tmp_path: Path,
) -> ModelRef:
    """A model in the registry, its files as raw layers and as tar layers."""
    kind = "tar" if request.param else "raw"
    reference = Reference.parse(f"{docker_registry.address}/mounts/{kind}:1")
    store = BuildStore(tmp_path / "builds")
    built = build(model_directory, reference, store, tar=request.param)
    registry = Registry(RegistryOptions(certs_d=()))
    push(reference, store, registry)
    registry.close()
    return ModelRef(reference.registry, reference.repository, built.digest)
