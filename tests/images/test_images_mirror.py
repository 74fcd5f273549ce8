"""The mirror endpoint through a real socket, in front of a small registry in memory."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from snapshotter.artifact.descriptor import Descriptor, Platform
from snapshotter.artifact.digest import Digest, digest_of, encoded
from snapshotter.artifact.manifest import parse
from snapshotter.artifact.marker import ModelRef
from snapshotter.images.errors import ImageError
from snapshotter.images.mirror import MirrorOptions, MirrorServer, named_in_hosts, serve
from snapshotter.images.stub import stub_image
from snapshotter.registry.errors import NotFound, Unauthorized, Unreachable
from snapshotter.registry.reference import Reference
from snapshotter.units import Seconds

HOST = "registry.example.com:5000"
AMD64 = Platform("linux", "amd64")
MODEL_TYPE = "application/vnd.cncf.model.manifest.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


def manifest(name: str = "", **changes: Any) -> bytes:
    empty = {
        "mediaType": "application/vnd.oci.empty.v1+json",
        "digest": digest_of(b"{}"),
        "size": 2,
    }
    fields = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": MODEL_TYPE,
        "config": empty,
        "layers": [],
        "annotations": {"name": name},
    }
    return json.dumps(fields | changes).encode()


def index(*manifests: tuple[bytes, str], **changes: Any) -> bytes:
    entries = [
        {
            "mediaType": MANIFEST,
            "digest": digest_of(raw),
            "size": len(raw),
            "platform": {"os": "linux", "architecture": architecture},
        }
        for raw, architecture in manifests
    ]
    return json.dumps(
        {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries} | changes
    ).encode()


MODEL = manifest("model")
IMAGE = manifest("image", artifactType=None)


class FakeRegistry:
    """Manifests by ``registry/repository:tag`` and by digest; failures and delays on demand."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.failure: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()

    def push(self, raw: bytes, tag: str = "v1", repository: str = f"{HOST}/team/llama") -> Digest:
        self.contents[f"{repository}:{tag}"] = raw
        self.contents[f"{repository}@{digest_of(raw)}"] = raw
        return digest_of(raw)

    def manifest(self, reference: Reference) -> tuple[Descriptor, bytes]:
        self.asked.append(str(reference))
        self.gate.wait()
        if self.failure is not None:
            raise self.failure
        raw = self.contents.get(str(reference))
        if raw is None:
            raise NotFound(f"{reference} does not exist")
        media_type = json.loads(raw).get("mediaType", "")
        return Descriptor(media_type, digest_of(raw), len(raw)), raw


class Client:
    """Asks as containerd does."""

    def __init__(self, server: MirrorServer) -> None:
        self._http = httpx.Client(base_url=f"http://{server.address}", trust_env=False, timeout=60)
        self.close = self._http.close

    def get(self, path: str, ns: str | None = HOST, method: str = "GET") -> httpx.Response:
        return self._http.request(method, path, params={} if ns is None else {"ns": ns})

    def manifest(self, target: str, method: str = "GET", **options: Any) -> httpx.Response:
        return self.get(f"/v2/team/llama/manifests/{target}", method=method, **options)

    def blob(self, digest: str) -> httpx.Response:
        return self.get(f"/v2/team/llama/blobs/{digest}")


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    fake = FakeRegistry()
    yield fake
    fake.gate.set()


Open = Callable[..., Client]


@pytest.fixture
def open_mirror(tmp_path: Path, registry: FakeRegistry) -> Iterator[Open]:
    """Starts a mirror; several in a row stand for restarts of one."""
    patient = {"upstream_timeout": Seconds(60), "keep": Seconds(600)}
    with ExitStack() as stack:

        def opened(serves: Callable[[str], bool] = lambda registry: True, **options: Any) -> Client:
            server = serve(
                MirrorOptions(**{**patient, "address": "127.0.0.1:0"} | options),
                registry,
                tmp_path / "stubs",
                serves=serves,
                platform=AMD64,
            )
            stack.callback(server.stop)
            client = Client(server)
            stack.callback(client.close)
            return client

        yield opened


def model_ref(raw: bytes = MODEL) -> ModelRef:
    return ModelRef(HOST, "team/llama", digest_of(raw))


def test_the_api_version_is_answered(open_mirror: Open) -> None:
    for path in ("/v2/", "/v2"):
        answer = open_mirror().get(path, ns=None)
        assert answer.status_code == 200
        assert answer.headers["Docker-Distribution-API-Version"] == "registry/2.0"


def test_a_models_tag_is_pulled_as_its_stub(open_mirror: Open, registry: FakeRegistry) -> None:
    registry.push(MODEL)
    client = open_mirror()
    expected = stub_image(model_ref(), AMD64)

    head = client.manifest("v1", method="HEAD")
    assert head.status_code == 200
    assert head.content == b""
    assert head.headers["Docker-Content-Digest"] == expected.manifest.digest
    assert head.headers["Content-Type"] == MANIFEST
    assert int(head.headers["Content-Length"]) == len(expected.manifest_bytes)

    got = client.manifest(expected.manifest.digest)
    assert (got.status_code, got.content) == (200, expected.manifest_bytes)
    assert got.headers["Content-Type"] == MANIFEST
    for descriptor, data in (
        (expected.config, expected.config_bytes),
        (expected.layer, expected.layer_bytes),
    ):
        blob = client.blob(descriptor.digest)
        assert (blob.status_code, blob.content) == (200, data)
        assert blob.headers["Docker-Content-Digest"] == descriptor.digest
    assert registry.asked == [f"{HOST}/team/llama:v1"]


def test_what_is_no_model_is_answered_with_404(open_mirror: Open, registry: FakeRegistry) -> None:
    pinned = registry.push(IMAGE, "image")
    registry.contents[f"{HOST}/team/llama:old"] = b'{"schemaVersion": 1}'
    client = open_mirror()
    for target in ("image", pinned, "old", "missing", digest_of(b"missing")):
        for method in ("HEAD", "GET"):
            assert client.manifest(target, method=method).status_code == 404, target


def test_an_ordinary_image_costs_one_question_however_often_it_is_pulled(
    open_mirror: Open, registry: FakeRegistry
) -> None:
    pinned = registry.push(IMAGE)
    client = open_mirror()
    for target in ("v1", "v1", pinned, pinned):
        assert client.manifest(target).status_code == 404
    assert len(registry.asked) == 1


def test_a_tag_that_moved_is_seen_after_a_short_time(
    open_mirror: Open, registry: FakeRegistry
) -> None:
    registry.push(MODEL)
    client = open_mirror(keep=Seconds(0.01))
    first = client.manifest("v1").headers["Docker-Content-Digest"]
    registry.push(manifest("newer"))
    time.sleep(0.02)
    assert client.manifest("v1").headers["Docker-Content-Digest"] != first


def test_stubs_outlive_a_restart_with_the_registry_gone(
    open_mirror: Open, registry: FakeRegistry
) -> None:
    registry.push(MODEL)
    stub = stub_image(model_ref(), AMD64)
    open_mirror().manifest("v1")
    registry.failure = Unreachable("down")
    client = open_mirror()
    assert client.manifest(stub.manifest.digest).content == stub.manifest_bytes
    assert client.blob(stub.config.digest).content == stub.config_bytes
    assert client.blob(stub.layer.digest).content == stub.layer_bytes


def test_a_broken_stub_on_disk_is_dropped_and_made_again(
    open_mirror: Open, registry: FakeRegistry, tmp_path: Path
) -> None:
    registry.push(MODEL)
    stub = stub_image(model_ref(), AMD64)
    open_mirror().manifest("v1")
    directory = tmp_path / "stubs" / encoded(stub.manifest.digest)
    (directory / "layer.tar").write_bytes(b"torn")
    (tmp_path / "stubs" / ".new-interrupted").mkdir()
    client = open_mirror()
    assert not directory.exists()
    assert not (tmp_path / "stubs" / ".new-interrupted").exists()
    assert client.blob(stub.layer.digest).status_code == 404
    assert client.manifest("v1").status_code == 200
    assert client.blob(stub.layer.digest).content == stub.layer_bytes


def test_an_index_of_models_is_pulled_as_the_stub_of_our_platform(
    open_mirror: Open, registry: FakeRegistry
) -> None:
    ours, other = manifest("amd64"), manifest("arm64")
    for raw in (ours, other):
        registry.push(raw, "by-digest-only")
    registry.push(index((other, "arm64"), (ours, "amd64")))
    answer = open_mirror().manifest("v1")
    assert answer.content == stub_image(model_ref(ours), AMD64).manifest_bytes


def test_an_index_of_models_without_our_platform_ends_the_pull_naming_those_there_are(
    open_mirror: Open, registry: FakeRegistry
) -> None:
    document = index(
        (manifest("a"), "arm64"),
        (manifest("b"), "riscv64"),
        artifactType="application/vnd.cncf.model.index.v1+json",
    )
    registry.push(document)
    answer = open_mirror().manifest("v1")
    assert answer.status_code == 300
    assert "it has linux/arm64, linux/riscv64" in answer.reason_phrase


def test_an_image_index_without_our_platform_is_none_of_our_business(
    open_mirror: Open, registry: FakeRegistry
) -> None:
    registry.push(index((IMAGE, "arm64"), (manifest("b"), "riscv64")))
    assert open_mirror().manifest("v1").status_code == 404


def test_a_model_pulled_by_digest_ends_with_a_reason_that_says_what_to_do(
    open_mirror: Open, registry: FakeRegistry
) -> None:
    pinned = registry.push(MODEL)
    client = open_mirror()
    for method in ("HEAD", "GET"):
        answer = client.manifest(pinned, method=method)
        assert answer.status_code == 300
        assert "Location" not in answer.headers
        assert answer.reason_phrase == (
            "ModelPack artifact cannot be pulled by digest here; with --docker for Docker, "
            f"run: modelpack pull {HOST}/team/llama@{pinned}"
        )


def test_an_index_of_models_pulled_by_digest_ends_too(
    open_mirror: Open, registry: FakeRegistry
) -> None:
    registry.push(MODEL, "by-digest-only")
    pinned = registry.push(index((MODEL, "amd64")))
    assert open_mirror().manifest(pinned).status_code == 300


def test_a_known_models_digest_is_refused_without_asking_again(
    open_mirror: Open, registry: FakeRegistry
) -> None:
    pinned = registry.push(MODEL)
    open_mirror().manifest("v1")
    registry.failure = Unreachable("down")
    assert open_mirror().manifest(pinned).status_code == 300
    assert len(registry.asked) == 1


def test_pinned_models_are_passed_on_where_containerd_handles_them_itself(
    open_mirror: Open, registry: FakeRegistry
) -> None:
    pinned = registry.push(MODEL)
    client = open_mirror(pinned="pass")
    assert client.manifest(pinned).status_code == 404
    assert registry.asked == []
    assert client.manifest("v1").status_code == 200
    assert client.manifest(pinned).status_code == 404


def test_a_registry_that_fails_for_what_may_be_no_model_is_passed_on(
    open_mirror: Open, registry: FakeRegistry
) -> None:
    registry.failure = Unreachable("timed out")
    assert open_mirror().manifest("v1").status_code == 404


def test_a_registry_that_refuses_what_may_be_no_model_is_passed_on_with_the_reason(
    open_mirror: Open, registry: FakeRegistry
) -> None:
    registry.failure = Unauthorized("it wants a password; run: docker login")
    answer = open_mirror().manifest("v1")
    assert answer.status_code == 403
    assert "docker login" in answer.reason_phrase


def test_a_registry_that_fails_for_a_repository_of_models_ends_the_pull_with_the_reason(
    open_mirror: Open, registry: FakeRegistry
) -> None:
    registry.push(MODEL)
    open_mirror().manifest("v1")
    registry.failure = Unauthorized(f"{HOST} answered 401: log in\nwith ünicode")
    answer = open_mirror().manifest("v2")
    assert answer.status_code == 300
    assert answer.reason_phrase == (
        f"ModelPack artifact cannot be pulled now: {HOST} answered 401: log in with ?nicode"
    )


def test_a_tag_that_is_gone_is_404_even_in_a_repository_of_models(
    open_mirror: Open, registry: FakeRegistry
) -> None:
    registry.push(MODEL)
    client = open_mirror()
    client.manifest("v1")
    assert client.manifest("gone").status_code == 404


def test_a_reason_is_one_bounded_line(open_mirror: Open, registry: FakeRegistry) -> None:
    registry.push(MODEL)
    open_mirror().manifest("v1")
    registry.failure = Unreachable("x" * 5000)
    assert len(open_mirror().manifest("v2").reason_phrase) <= 512


def test_a_registry_that_hangs_holds_up_its_own_question_only_and_not_for_long(
    open_mirror: Open, registry: FakeRegistry
) -> None:
    registry.push(MODEL)
    client = open_mirror(upstream_timeout=Seconds(0.05))
    registry.gate.clear()
    assert client.manifest("v1").status_code == 404
    assert client.get("/v2/").status_code == 200
    registry.gate.set()


def test_many_clients_of_one_tag_are_one_question(
    open_mirror: Open, registry: FakeRegistry
) -> None:
    registry.push(MODEL)
    client = open_mirror()
    registry.gate.clear()
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(client.manifest("v1").status_code))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    registry.gate.set()
    for thread in threads:
        thread.join()
    assert answers == [200] * 8
    assert len(registry.asked) == 1


def test_an_unexpected_fault_of_the_registrys_client_is_no_500_that_leads_to_a_full_download(
    open_mirror: Open, registry: FakeRegistry
) -> None:
    registry.push(MODEL)
    open_mirror().manifest("v1")
    registry.failure = KeyError("bug")
    assert open_mirror().manifest("v2").status_code == 300


def test_only_configured_registries_are_answered_for(
    open_mirror: Open, registry: FakeRegistry
) -> None:
    registry.push(MODEL)
    assert open_mirror(registries=("other.example.com",)).manifest("v1").status_code == 404
    assert open_mirror(serves=lambda name: name != HOST).manifest("v1").status_code == 404
    assert registry.asked == []
    listed = open_mirror(registries=(HOST,), serves=lambda name: False)
    assert listed.manifest("v1").status_code == 200


def test_docker_hub_is_asked_by_its_own_name(open_mirror: Open, registry: FakeRegistry) -> None:
    registry.push(MODEL, "latest", "docker.io/library/llama")
    answer = open_mirror().get("/v2/library/llama/manifests/latest", ns="docker.io")
    assert answer.status_code == 200
    pinned = open_mirror().get(f"/v2/library/llama/manifests/{digest_of(MODEL)}", ns="docker.io")
    assert pinned.reason_phrase.endswith(f"modelpack pull llama@{digest_of(MODEL)}")


@pytest.mark.parametrize(
    ("path", "ns"),
    [
        ("/", HOST),
        ("/v2/_catalog", HOST),
        ("/v2/team/llama/tags/list", HOST),
        ("/v2/team/llama/manifests/v1", None),
        ("/v2/team/llama/manifests/v1", ""),
        ("/v2/team/llama/manifests/v1", "../../etc"),
        ("/v2/team/llama/manifests/v1", ".."),
        ("/v2/team/llama/manifests/v1", "registry.example.com/x"),
        ("/v2/Team/llama/manifests/v1", HOST),
        ("/v2/team/%2e%2e/llama/manifests/v1", HOST),
        ("/v2/team/llama/manifests/v1%0d%0aX: y", HOST),
        ("/v2/team/llama/manifests/sha256:00", HOST),
        ("/v2/team/llama/manifests/-bad", HOST),
        ("/v2/team/llama/blobs/v1", HOST),
        ("/v2/team/llama/blobs/sha256:" + "0" * 64, HOST),
        ("/v2/llama/manifests/v1", "docker.io"),
    ],
)
def test_other_requests_are_404_and_reach_no_registry(
    open_mirror: Open, registry: FakeRegistry, path: str, ns: str | None
) -> None:
    registry.push(MODEL)
    client = open_mirror()
    assert client.get(path, ns=ns).status_code == 404
    assert registry.asked == []


def test_nothing_but_pulls_is_allowed(open_mirror: Open) -> None:
    for method in ("PUT", "POST", "DELETE", "PATCH"):
        assert open_mirror().manifest("v1", method=method).status_code == 405


def test_blobs_of_the_registry_are_never_relayed(open_mirror: Open, registry: FakeRegistry) -> None:
    registry.push(MODEL)
    assert open_mirror().blob(digest_of(MODEL)).status_code == 404
    assert registry.asked == []


def test_a_manifest_of_a_stub_is_no_blob_and_a_blob_no_manifest(
    open_mirror: Open, registry: FakeRegistry
) -> None:
    registry.push(MODEL)
    client = open_mirror()
    client.manifest("v1")
    stub = stub_image(model_ref(), AMD64)
    assert client.blob(stub.manifest.digest).status_code == 404
    assert client.manifest(stub.config.digest).status_code == 404


def test_stubs_that_cannot_be_kept_end_the_pull_with_the_reason(
    open_mirror: Open, registry: FakeRegistry, tmp_path: Path
) -> None:
    registry.push(MODEL)
    client = open_mirror()
    (tmp_path / "stubs").rmdir()
    (tmp_path / "stubs").write_bytes(b"")
    answer = client.manifest("v1")
    assert answer.status_code == 300
    assert "cannot keep the stub image" in answer.reason_phrase
    assert "Not a directory" in answer.reason_phrase


def refused(options: MirrorOptions, root: Path) -> str:
    with pytest.raises(ImageError) as caught:
        serve(options, FakeRegistry(), root, serves=lambda name: True)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_port_in_use_is_one_line_naming_address_and_key(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        message = refused(MirrorOptions(address=address), tmp_path)
    assert message.startswith(f"mirror cannot listen on {address}: it is in use; ")
    assert "[mirror] address" in message


def test_an_address_that_is_not_loopback_needs_permission(tmp_path: Path) -> None:
    for address in ("0.0.0.0:0", "[::]:0", "10.0.0.1:0"):
        assert "allow_remote = true" in refused(MirrorOptions(address=address), tmp_path)
    options = MirrorOptions(address="0.0.0.0:0", allow_remote=True)
    serve(options, FakeRegistry(), tmp_path, serves=lambda name: True).stop()


@pytest.mark.parametrize("address", ["", "7670", "example.com:1", "127.0.0.1:99999", "1.2.3:1"])
def test_an_address_that_is_none_is_refused_with_an_example(address: str, tmp_path: Path) -> None:
    assert "127.0.0.1:7670" in refused(MirrorOptions(address=address), tmp_path)


def test_a_root_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    message = refused(MirrorOptions(address="127.0.0.1:0"), tmp_path / "file" / "stubs")
    assert str(tmp_path / "file" / "stubs") in message


def test_a_stopped_mirror_frees_its_port_at_once(tmp_path: Path) -> None:
    address = "127.0.0.1:0"
    for _ in range(3):
        server = serve(
            MirrorOptions(address=address), FakeRegistry(), tmp_path, serves=lambda name: True
        )
        address = server.address
        client = Client(server)
        assert client.get("/v2/").status_code == 200
        server.stop()
        server.stop()
        client.close()
    assert not [t for t in threading.enumerate() if t.name == "modelpack-mirror"]


def test_hosts_files_say_which_registries_are_answered_for(tmp_path: Path) -> None:
    containerd, docker = tmp_path / "containerd", tmp_path / "docker"
    mirrored = '[host."http://127.0.0.1:7670"]\ncapabilities = ["pull", "resolve"]\n'
    for directory, text in (
        (containerd / "a.example", 'server = "https://a.example"\n'),
        (docker / "a.example", mirrored),
        (containerd / "b.example_5000_", mirrored),
        (containerd / "broken.example", "= not toml"),
    ):
        directory.mkdir(parents=True)
        (directory / "hosts.toml").write_text(text)
    named = named_in_hosts("127.0.0.1:7670", (str(containerd), str(docker)))
    assert named("a.example")
    assert named("b.example:5000")
    assert not named("b.example")
    assert not named("broken.example")
    assert not named_in_hosts("127.0.0.1:1", (str(docker),))("a.example")


def test_a_stub_is_what_its_parser_says(open_mirror: Open, registry: FakeRegistry) -> None:
    registry.push(MODEL)
    answer = open_mirror().manifest("v1")
    parse(answer.content, Digest(answer.headers["Docker-Content-Digest"]))


@pytest.mark.parametrize("written", ["localhost:7670", "[::1]:7670", "127.0.0.1:7670"])
def test_hosts_files_may_call_this_machine_by_any_of_its_names(
    tmp_path: Path, written: str
) -> None:
    (tmp_path / "a.example").mkdir()
    (tmp_path / "a.example" / "hosts.toml").write_text(f'[host."http://{written}"]\n')
    for address in ("127.0.0.1:7670", "localhost:7670", "0.0.0.0:7670"):
        assert named_in_hosts(address, (str(tmp_path),))("a.example")
