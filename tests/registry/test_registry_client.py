"""Manifests, small blobs and uploads: a real registry where it can show it."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from registry_process import RegistryProcess
from registry_scripted import Reply, Request, ranged, scripted
from registry_tls import Certificates

from snapshotter.artifact.descriptor import Descriptor
from snapshotter.artifact.digest import Digest, digest_of
from snapshotter.registry.client import Registry
from snapshotter.registry.errors import (
    BadAnswer,
    InvalidHostsFile,
    LeftAlone,
    NotFound,
    Overloaded,
    RegistryError,
    Unreachable,
    Untrusted,
)
from snapshotter.registry.options import RegistryOptions
from snapshotter.registry.reference import Reference
from snapshotter.units import ByteSize, Seconds

OCI = "application/vnd.oci.image.manifest.v1+json"
MANIFEST = json.dumps({"schemaVersion": 2, "mediaType": OCI}).encode()


def new_registry(certs_d: Path | None = None, **options: object) -> Registry:
    directories = (str(certs_d),) if certs_d else ()
    return Registry(
        RegistryOptions(certs_d=directories, docker_config="/nonexistent", **options)  # type: ignore[arg-type]
    )


@pytest.fixture
def registry() -> Iterator[Registry]:
    registry = new_registry()
    yield registry
    registry.close()


def upload(registry: Registry, reference: Reference, content: bytes) -> Digest:
    digest = digest_of(content)
    half = len(content) // 2
    pieces = [piece for piece in (content[:half], content[half:]) if piece]
    registry.upload_blob(reference, digest, len(content), lambda: iter(pieces))
    return digest


def push_manifest(registry: Registry, reference: Reference) -> tuple[Digest, bytes]:
    config = upload(registry, reference, b"{}")
    descriptor = {"mediaType": "application/octet-stream", "digest": config, "size": 2}
    raw = json.dumps(
        {"schemaVersion": 2, "mediaType": OCI, "config": descriptor, "layers": [descriptor]}
    ).encode()
    return registry.put_manifest(reference, OCI, raw), raw


def test_what_was_pushed_is_read(registry: Registry, docker_registry: RegistryProcess) -> None:
    reference = Reference.parse(f"{docker_registry.address}/client/m:v1")
    digest, raw = push_manifest(registry, reference)
    expected = Descriptor(OCI, digest, len(raw))
    assert registry.resolve(reference) == expected
    assert registry.manifest(reference) == (expected, raw)
    assert registry.manifest(reference.with_digest(digest)) == (expected, raw)
    assert registry.resolve(reference.with_digest(digest)) == expected
    config = Descriptor("application/octet-stream", digest_of(b"{}"), 2)
    assert registry.blob(reference, config, limit=100) == b"{}"


def test_a_manifest_is_put_by_digest(registry: Registry, docker_registry: RegistryProcess) -> None:
    tagged = Reference.parse(f"{docker_registry.address}/client/by-digest:v1")
    digest, raw = push_manifest(registry, tagged)
    assert registry.put_manifest(tagged.with_digest(digest), OCI, raw) == digest
    with pytest.raises(BadAnswer, match="its digest is"):
        registry.put_manifest(tagged.with_digest(digest), OCI, raw + b" ")


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_a_blob_is_uploaded_and_read_in_ranges(
    registry: Registry, docker_registry: RegistryProcess, size: int
) -> None:
    reference = Reference.parse(f"{docker_registry.address}/client/blob-{size}:v1")
    content = hashlib.shake_128(b"x").digest(size)
    assert not registry.has_blob(reference, digest_of(content))
    digest = upload(registry, reference, content)
    assert registry.has_blob(reference, digest)
    descriptor = Descriptor("application/octet-stream", digest, size)
    assert registry.blob(reference, descriptor, limit=size) == content
    origin = registry.origin(reference.registry, reference.repository, descriptor)
    assert origin.name == f"{reference.name}@{digest}"
    buffer = bytearray(size)
    with origin.open(size // 3, size) as body:
        count = body.readinto(memoryview(buffer))
    assert bytes(buffer[:count]) == content[size // 3 :]


def test_an_upload_of_other_content_is_refused(
    registry: Registry, docker_registry: RegistryProcess
) -> None:
    reference = Reference.parse(f"{docker_registry.address}/client/wrong:v1")
    digest = digest_of(b"right")
    with pytest.raises(BadAnswer, match="DIGEST_INVALID"):
        registry.upload_blob(reference, digest, 5, lambda: iter((b"wrong",)))
    assert not registry.has_blob(reference, digest)


def test_an_error_of_the_body_reaches_the_caller(
    registry: Registry, docker_registry: RegistryProcess
) -> None:
    def body() -> Iterator[bytes]:
        yield b"ri"
        raise RuntimeError("the file went away")

    reference = Reference.parse(f"{docker_registry.address}/client/broken:v1")
    with pytest.raises(RuntimeError, match="went away"):
        registry.upload_blob(reference, digest_of(b"right"), 5, body)
    assert not registry.has_blob(reference, digest_of(b"right"))


def test_what_is_not_there_is_named(registry: Registry, docker_registry: RegistryProcess) -> None:
    reference = Reference.parse(f"{docker_registry.address}/client/nothing:v9")
    for ask in (registry.manifest, registry.resolve):
        with pytest.raises(NotFound, match=r"has no manifest v9 of client/nothing") as caught:
            ask(reference)
        assert "is it one?" not in str(caught.value)
    descriptor = Descriptor("", digest_of(b"nothing"), 7)
    with pytest.raises(NotFound, match="has no blob"):
        registry.blob(reference, descriptor, limit=7)


def test_a_blob_larger_than_the_limit_is_refused_unread(registry: Registry) -> None:
    with scripted(lambda request: Reply(500)) as server:
        reference = Reference.parse(f"{server.address}/m")
        with pytest.raises(BadAnswer, match="at most 10"):
            registry.blob(reference, Descriptor("", digest_of(b""), 11), limit=10)
        assert server.requests == []


def test_a_blob_of_another_digest_is_an_error(registry: Registry) -> None:
    with scripted(lambda request: Reply(200, {}, b"wrong")) as server:
        reference = Reference.parse(f"{server.address}/m")
        with pytest.raises(BadAnswer, match="other content"):
            registry.blob(reference, Descriptor("", digest_of(b"right"), 5), limit=10)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(404, {"Content-Type": "text/html"}, b"<html>not found</html>"),
        Reply(200, {"Content-Type": "text/html"}, b"<html>welcome</html>"),
        Reply(200, {"Content-Type": "application/json"}, b"[]"),
        Reply(raw=b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    ],
)
def test_what_is_no_registry_is_named(registry: Registry, reply: Reply) -> None:
    with scripted(lambda request: reply) as server:
        with pytest.raises(RegistryError, match=r"is it (one|a registry)") as caught:
            registry.manifest(Reference.parse(f"{server.address}/m"))
        assert server.address in str(caught.value)
        assert not caught.value.temporary


def test_an_unreachable_registry_is_named(registry: Registry) -> None:
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1 .*connection refused") as caught:
        registry.manifest(Reference.parse("127.0.0.1:1/m"))
    assert caught.value.temporary


def test_a_name_that_does_not_exist_is_told(registry: Registry) -> None:
    with pytest.raises(Unreachable, match="cannot be resolved"):
        registry.manifest(Reference.parse("registry.invalid/m"))


def test_a_manifest_of_another_digest_is_an_error(registry: Registry) -> None:
    headers = {"Content-Type": OCI}
    with scripted(lambda request: Reply(200, headers, MANIFEST)) as server:
        reference = Reference.parse(f"{server.address}/m").with_digest(digest_of(b"other"))
        for ask in (registry.manifest, registry.resolve):
            with pytest.raises(BadAnswer, match="other content"):
                ask(reference)


def test_a_manifest_that_is_not_what_its_header_says_is_an_error(registry: Registry) -> None:
    headers = {"Content-Type": OCI, "Docker-Content-Digest": digest_of(b"other")}
    with (
        scripted(lambda request: Reply(200, headers, MANIFEST)) as server,
        pytest.raises(BadAnswer, match="other content"),
    ):
        registry.manifest(Reference.parse(f"{server.address}/m"))


def test_a_manifest_without_end_is_not_read() -> None:
    registry = new_registry(manifest_limit=ByteSize(1000))
    with (
        scripted(lambda request: Reply(200, {}, bytes(100_000))) as server,
        pytest.raises(BadAnswer, match="more than 1000 bytes"),
    ):
        registry.manifest(Reference.parse(f"{server.address}/m"))
    registry.close()


def test_a_registry_that_answers_head_badly_is_asked_with_get(registry: Registry) -> None:
    def answer(request: Request) -> Reply:
        return Reply(405) if request.method == "HEAD" else Reply(200, {}, MANIFEST)

    with scripted(answer) as server:
        descriptor = registry.resolve(Reference.parse(f"{server.address}/m"))
    assert descriptor == Descriptor(OCI, digest_of(MANIFEST), len(MANIFEST))


def test_the_next_host_is_asked_when_a_mirror_has_not_got_it(tmp_path: Path) -> None:
    with (
        scripted(lambda request: Reply(404)) as mirror,
        scripted(lambda request: Reply(200, {"Content-Type": OCI}, MANIFEST)) as upstream,
    ):
        directory = tmp_path / "r.example"
        directory.mkdir()
        (directory / "hosts.toml").write_text(
            f'server = "{upstream.url}"\n[host."{mirror.url}"]\ncapabilities = ["pull", "resolve"]'
        )
        registry = new_registry(tmp_path)
        _, raw = registry.manifest(Reference.parse("r.example/m:v1"))
        assert raw == MANIFEST
        assert mirror.requests[0].query == {"ns": ["r.example"]}
        assert mirror.requests[0].path == "/v2/m/manifests/v1"
        registry.close()


def test_a_mirror_that_is_down_is_asked_last_for_a_while(tmp_path: Path) -> None:
    with (
        scripted(lambda request: Reply(503)) as mirror,
        scripted(lambda request: Reply(200, {"Content-Type": OCI}, MANIFEST)) as upstream,
    ):
        directory = tmp_path / "_default"
        directory.mkdir()
        (directory / "hosts.toml").write_text(f'server = "{upstream.url}"\n[host."{mirror.url}"]\n')
        registry = new_registry(tmp_path)
        for _ in range(3):
            registry.manifest(Reference.parse("r.example/m:v1"))
        assert len(mirror.requests) == 1
        registry.close()


def test_a_mirror_that_may_not_resolve_tags_is_not_asked_for_them(tmp_path: Path) -> None:
    with (
        scripted(lambda request: Reply(200, {"Content-Type": OCI}, MANIFEST)) as mirror,
        scripted(lambda request: Reply(200, {"Content-Type": OCI}, MANIFEST)) as upstream,
    ):
        (tmp_path / "r.example").mkdir()
        (tmp_path / "r.example" / "hosts.toml").write_text(
            f'server = "{upstream.url}"\n[host."{mirror.url}"]\ncapabilities = ["pull"]\n'
        )
        registry = new_registry(tmp_path)
        tagged = Reference.parse("r.example/m:v1")
        registry.manifest(tagged)
        assert mirror.requests == []
        registry.manifest(tagged.with_digest(digest_of(MANIFEST)))
        assert len(mirror.requests) == 1
        registry.close()


def test_headers_of_a_host_are_sent_to_it(tmp_path: Path) -> None:
    with scripted(lambda request: Reply(200, {"Content-Type": OCI}, MANIFEST)) as server:
        (tmp_path / "r.example").mkdir()
        (tmp_path / "r.example" / "hosts.toml").write_text(
            f'server = "{server.url}"\n[header]\nX-Team = "models"\n'
        )
        registry = new_registry(tmp_path)
        registry.manifest(Reference.parse("r.example/m:v1"))
        assert server.requests[0].headers["X-Team"] == "models"
        registry.close()


def test_a_malformed_hosts_file_is_an_error_of_every_request(tmp_path: Path) -> None:
    (tmp_path / "r.example").mkdir()
    (tmp_path / "r.example" / "hosts.toml").write_text("server = ")
    registry = new_registry(tmp_path)
    with pytest.raises(InvalidHostsFile, match=r"hosts\.toml"):
        registry.manifest(Reference.parse("r.example/m:v1"))
    registry.close()


def serve_manifest_and_blob(request: Request) -> Reply:
    if "blobs" in request.path:
        return Reply(200, {}, b"blob")
    return Reply(200, {"Content-Type": OCI}, MANIFEST)


@pytest.mark.parametrize("trust", ['ca = "{ca}"', "skip_verify = true"])
def test_tls_by_hosts_file_serves_manifests_and_blobs(
    tmp_path: Path, certificates: Certificates, trust: str
) -> None:
    with scripted(serve_manifest_and_blob, tls=certificates.server) as server:
        (tmp_path / "r.example").mkdir()
        (tmp_path / "r.example" / "hosts.toml").write_text(
            f'server = "{server.url}"\n{trust.format(ca=certificates.ca)}\n'
            f'client = "{certificates.leaf}"\n'
        )
        registry = new_registry(tmp_path)
        reference = Reference.parse("r.example/m:v1")
        assert registry.manifest(reference)[1] == MANIFEST
        blob = Descriptor("", digest_of(b"blob"), 4)
        assert registry.blob(reference, blob, limit=10) == b"blob"
        assert registry.blob(reference, blob, limit=10) == b"blob"
        assert len(server.requests) == 3
        registry.close()


def test_a_certificate_nobody_vouches_for_is_not_trusted(
    tmp_path: Path, certificates: Certificates
) -> None:
    with scripted(serve_manifest_and_blob, tls=certificates.server) as server:
        (tmp_path / "r.example").mkdir()
        (tmp_path / "r.example" / "hosts.toml").write_text(f'server = "{server.url}"\n')
        registry = new_registry(tmp_path)
        reference = Reference.parse("r.example/m:v1")
        with pytest.raises(Untrusted, match=r"certificate is not trusted.*`ca`") as caught:
            registry.manifest(reference)
        assert not caught.value.temporary
        with pytest.raises(Untrusted, match="certificate is not trusted"):
            registry.blob(reference, Descriptor("", digest_of(b"blob"), 4), limit=10)
        assert server.requests == []
        registry.close()


def test_a_registry_without_tls_that_should_have_it_is_told_how_to_declare_it(
    tmp_path: Path,
) -> None:
    with scripted(serve_manifest_and_blob) as server:
        (tmp_path / "r.example").mkdir()
        (tmp_path / "r.example" / "hosts.toml").write_text(f'server = "https://{server.address}"')
        registry = new_registry(tmp_path)
        with pytest.raises(Untrusted, match=r"does not speak TLS.*plain_http"):
            registry.manifest(Reference.parse("r.example/m:v1"))
        registry.close()


def test_a_proxy_of_the_environment_is_used_by_both_planes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HTTP_PROXY", "ALL_PROXY", "NO_PROXY", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with scripted(serve_manifest_and_blob) as proxy:
        monkeypatch.setenv("http_proxy", f"http://user:hunter2@{proxy.address}")
        registry = new_registry(plain_http=("r.example:5000",))
        reference = Reference.parse("r.example:5000/m:v1")
        assert registry.manifest(reference)[1] == MANIFEST
        descriptor = Descriptor("", digest_of(b"blob"), 4)
        assert registry.blob(reference, descriptor, limit=10) == b"blob"
        assert [r.headers["Host"] for r in proxy.requests] == ["r.example:5000"] * 2
        assert all("Proxy-Authorization" in r.headers for r in proxy.requests)
        registry.close()
    monkeypatch.setenv("http_proxy", "http://user:hunter2@127.0.0.1:1")
    registry = new_registry(plain_http=("r.example:5000",))
    with pytest.raises(Unreachable) as caught:
        registry.manifest(reference)
    assert "hunter2" not in str(caught.value)
    registry.close()


def test_a_host_that_is_left_alone_is_shown_with_its_last_error() -> None:
    with scripted(lambda request: Reply(503)) as server:
        options = RegistryOptions(
            certs_d=(), docker_config="/nonexistent", breaker_failures=2, breaker_pause=Seconds(60),
            breaker_max_pause=Seconds(60),
        )  # fmt: skip
        registry = Registry(options)
        reference = Reference.parse(f"{server.address}/m:v1")
        for _ in range(2):
            with pytest.raises(Overloaded):
                registry.manifest(reference)
        (told,) = registry.describe()
        assert told["host"] == server.address
        assert told["state"] == "left alone"
        assert told["asked_again_in_seconds"] > 0
        assert "answered 503 for manifest v1 of m" in told["last_error"]
        blob = registry.origin(
            server.address, "m", Descriptor("x/y", digest_of(b"blob"), len(b"blob"))
        )
        asked = len(server.requests)
        with pytest.raises(LeftAlone, match="answered 503 for manifest v1 of m") as caught:
            blob.open(0, 4)
        assert len(server.requests) == asked
        assert caught.value.temporary
        assert caught.value.status == 503
        registry.close()


def test_a_connection_for_ranges_is_made_while_the_manifest_is_asked_for(
    registry: Registry,
) -> None:
    content = b"weights" * 100

    def answer(request: Request) -> Reply:
        if "/manifests/" in request.path:
            while server.connections < 2:  # or this hangs, and is ended by the time limit
                time.sleep(0.005)
            return Reply(200, {"Content-Type": OCI}, MANIFEST)
        return ranged(content)(request)

    with scripted(answer) as server:
        reference = Reference.parse(f"{server.address}/models/tiny:v1")
        registry.manifest(reference, blobs_follow=True)
        for thread in threading.enumerate():
            if thread.name == "modelpack-connect":
                thread.join()
        descriptor = Descriptor("application/octet-stream", digest_of(content), len(content))
        assert registry.blob(reference, descriptor, limit=1000) == content
        assert server.connections == 2


def test_a_connection_that_cannot_be_made_ahead_is_no_error_of_its_own(
    registry: Registry,
) -> None:
    with pytest.raises(Unreachable):
        registry.manifest(Reference.parse("127.0.0.1:1/models/tiny:v1"), blobs_follow=True)
