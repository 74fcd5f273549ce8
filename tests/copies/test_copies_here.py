"""What is on this node: listed, and taken from there instead of from a registry."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from copies_models import Cli, push
from producers import CNCF, FILEPATH, MODEL_CONFIG, Artifact, digest, encoded, tar
from registry_process import RegistryProcess

from snapshotter.api import ApiServer
from snapshotter.artifact.digest import encoded as encoded_digest
from snapshotter.artifact.digest import parse_digest
from snapshotter.bench.children.forwarder import Forwarder
from snapshotter.cache.documents import Documents
from snapshotter.cache.options import CacheOptions
from snapshotter.cache.store import BlobStore
from snapshotter.copies.gathering import gather
from snapshotter.fetch.fetcher import Fetcher
from snapshotter.fetch.options import FetchOptions
from snapshotter.holdings import holdings_of, mounted
from snapshotter.images.resolve import resolve_model
from snapshotter.mounts.loader import Loader
from snapshotter.registry.client import Registry
from snapshotter.registry.options import RegistryOptions
from snapshotter.registry.reference import Reference
from snapshotter.unpack.options import UnpackOptions
from snapshotter.unpack.unpacker import Unpacker

_WEIGHTS = bytes(range(256)) * 20_000
_PACKED = encoded(tar({"README.md": b"read me"}), "tar+zstd")


def model() -> Artifact:
    artifact = Artifact(b"{}", MODEL_CONFIG)
    artifact.add(f"{CNCF}weight.v1.raw", _WEIGHTS, {FILEPATH: "a.bin"})
    return artifact.add(f"{CNCF}doc.v1.tar+zstd", _PACKED, {FILEPATH: "."})


DIGEST = digest(model().manifest())
SIZE = len(_WEIGHTS) + len(_PACKED)


@pytest.fixture
def reference(docker_registry: RegistryProcess) -> Reference:
    return Reference.parse(push(docker_registry, "here/model", model().pushed()))


def keep(reference: Reference, cache: Path, documents: Path, *, whole: bool = True) -> None:
    """What a mount that has been read leaves behind."""
    with ExitStack() as stack:
        registry = Registry(RegistryOptions(certs_d=()))
        stack.callback(registry.close)
        store = BlobStore(cache, CacheOptions())
        stack.callback(store.close)
        fetcher = Fetcher(FetchOptions())
        stack.callback(fetcher.close)
        unpacker = Unpacker(store, fetcher, UnpackOptions())
        stack.callback(unpacker.close)
        loader = Loader(registry, Documents(documents), store, fetcher, unpacker=unpacker)
        ref, _ = resolve_model(reference, registry)
        loaded = loader.load(ref)
        stack.callback(loader.unload, loaded)
        for unpacked in loaded.unpacked.values():
            unpacked.wait()
        if whole:
            for blob in loaded.blobs.values():
                gather(fetcher, loaded.loaded, blob, lambda: False)
            for unpacked in loaded.unpacked.values():
                unpacked.blob.verify()


@pytest.fixture
def kept(reference: Reference, tmp_path: Path) -> Reference:
    """In the daemon's cache, which does not run."""
    keep(reference, tmp_path / "root" / "cache", tmp_path / "root" / "documents")
    return reference


def test_a_node_without_models_says_so(cli: Cli) -> None:
    assert json.loads(cli("ls", "--json").stdout) == {"models": []}
    assert "no model" in cli("ls").stdout


def test_ls_lists_what_the_daemon_and_mount_have_kept(
    cli: Cli, kept: Reference, tmp_path: Path
) -> None:
    own = tmp_path / "home" / ".cache" / "modelpack" / encoded_digest(parse_digest(DIGEST))
    keep(kept, own, own / "documents", whole=False)
    daemons, users = json.loads(cli("ls", "--json").stdout)["models"]
    assert daemons == {
        "names": [kept.name],
        "digest": DIGEST,
        "size_bytes": SIZE,
        "present_bytes": SIZE,
        "cache": str(tmp_path / "root" / "cache"),
        "mounted": [],
    }
    assert (users["cache"], users["present_bytes"]) == (str(own), len(_PACKED))
    shown = cli("ls").stdout
    assert kept.name in shown
    assert "(100%)" in shown
    assert "(0%)" in shown


def test_inspect_says_how_much_is_here(cli: Cli, kept: Reference) -> None:
    told = json.loads(cli("inspect", str(kept), "--json").stdout)
    assert {blob["present_bytes"] for blob in told["node"][0]["blobs"]} == {
        len(_WEIGHTS), len(_PACKED),
    }  # fmt: skip
    assert "(100%)" in cli("inspect", str(kept)).stdout


@pytest.fixture
def counted(docker_registry: RegistryProcess) -> Iterator[Forwarder]:
    host, port = docker_registry.address.split(":")
    forwarder = Forwarder((host, int(port)), 0.0)
    yield forwarder
    forwarder.close()


def test_what_is_here_is_not_fetched(
    cli: Cli, kept: Reference, counted: Forwarder, tmp_path: Path
) -> None:
    cli("fetch", f"{counted.address}/here/model:1", "-o", str(tmp_path / "out"))
    assert (tmp_path / "out" / "a.bin").read_bytes() == _WEIGHTS
    assert (tmp_path / "out" / "README.md").read_bytes() == b"read me"
    assert counted.answered_bytes < 10_000


@pytest.mark.parametrize("named", ["", f"@{DIGEST}", f":1@{DIGEST}"])
def test_a_model_that_is_here_is_extracted_without_its_registry(
    cli: Cli, kept: Reference, tmp_path: Path, named: str
) -> None:
    cli("extract", f"{kept.name}{named}", "-o", str(tmp_path / "out"))
    assert (tmp_path / "out" / "a.bin").read_bytes() == _WEIGHTS
    assert (tmp_path / "out" / "README.md").read_bytes() == b"read me"


def test_a_tag_says_nothing_of_what_is_here(cli: Cli, kept: Reference, tmp_path: Path) -> None:
    failed = cli("extract", f"{kept.name}:1", "-o", str(tmp_path / "out"), fails=True)
    assert f"{kept.name}@{DIGEST}" in str(failed.exception)


def test_a_model_that_is_here_in_part_is_not_extracted(
    cli: Cli, reference: Reference, tmp_path: Path
) -> None:
    keep(reference, tmp_path / "root" / "cache", tmp_path / "root" / "documents", whole=False)
    failed = cli("extract", reference.name, "-o", str(tmp_path / "out"), fails=True)
    assert "modelpack fetch" in str(failed.exception)
    assert "a.bin" not in {path.name for path in (tmp_path / "out").iterdir()}
    failed = cli("extract", "registry.example/other", "-o", str(tmp_path / "out"), fails=True)
    assert "nothing of registry.example/other" in str(failed.exception)


def test_a_cache_that_rotted_is_found_out(cli: Cli, kept: Reference, tmp_path: Path) -> None:
    hexadecimal = encoded_digest(parse_digest(digest(_WEIGHTS)))
    data = tmp_path / "root" / "cache" / "blobs" / "sha256" / hexadecimal / "data"
    with data.open("r+b") as file:
        file.write(b"?????")
    failed = cli("extract", kept.name, "-o", str(tmp_path / "out"), fails=True)
    assert failed.exit_code == 3
    assert not (tmp_path / "out" / "a.bin").exists()


def test_the_daemon_tells_what_it_keeps(cli: Cli, kept: Reference, tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "root" / "cache", CacheOptions())
    holdings = holdings_of(store, Documents(tmp_path / "root" / "documents"))
    api = ApiServer(tmp_path / "api.sock", dict, holdings=holdings)
    api.start()
    try:
        transport = httpx.HTTPTransport(uds=str(tmp_path / "api.sock"))
        with httpx.Client(transport=transport, base_url="http://daemon", timeout=60) as client:
            (model,) = client.get("/v1/models").json()["models"]
            assert (model["digest"], model["present_bytes"]) == (DIGEST, SIZE)
            (one,) = client.get("/v1/models", params={"manifest": DIGEST}).json()["models"]
            assert [blob["size_bytes"] for blob in one["blobs"]] == [len(_WEIGHTS), len(_PACKED)]
            other = "sha256:" + 64 * "0"
            assert client.get("/v1/models", params={"manifest": other}).json() == {"models": []}
            assert client.get("/v1/models", params={"manifest": "x"}).status_code == 400
            assert client.post("/v1/models").status_code == 405
    finally:
        api.stop()
        store.close()


def test_mounts_are_known_from_the_kernel() -> None:
    digest = parse_digest("sha256:" + 64 * "1")
    points = [(f"registry.example/m@{digest}", Path("/mnt")), (f"r.example/m@{digest}", Path("/a"))]
    assert mounted(lambda: iter(points)) == {digest: ["/mnt", "/a"]}
