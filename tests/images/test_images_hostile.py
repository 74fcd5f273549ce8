"""What clients ask the mirror, and what is left of its files: answered or refused, never more."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from fuzzing import DAMAGES, Damage, damaged, documents, examples
from hypothesis import given
from hypothesis import strategies as st

from proto.cri.runtime.v1 import api_pb2 as api
from snapshotter.artifact.descriptor import Descriptor, Platform
from snapshotter.artifact.digest import Digest, digest_of
from snapshotter.artifact.marker import ModelRef
from snapshotter.images.cri import PrivatePlaces, _read_pull
from snapshotter.images.mirror import MirrorOptions, MirrorServer, serve
from snapshotter.images.stub import stub_image
from snapshotter.images.stub_store import StubStore
from snapshotter.registry.errors import NotFound
from snapshotter.registry.pull_secrets import PullSecrets
from snapshotter.registry.reference import Reference

AMD64 = Platform("linux", "amd64")
MODEL = ModelRef("r.example:5000", "team/m", Digest("sha256:" + "a" * 64))
STUB = stub_image(MODEL, AMD64)
BLOBS = {descriptor.digest: data for descriptor, data in STUB.contents}
TEXTS = st.text(max_size=20).filter(lambda text: text.isprintable())
FILES = ["manifest.json", "config.json", "layer.tar", "model.json"]
ASKED = (
    b"HEAD /v2/team/m/manifests/1?ns=r.example HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    b"Authorization: Bearer abcdefgh\r\nAccept: */*\r\nContent-Length: 0\r\n\r\n"
)
BASIC = b"GET /token?service=x HTTP/1.1\r\nHost: h\r\nAuthorization: Basic YTpi\r\n\r\n"
TOKEN = (
    b"POST /token HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 12\r\n"
    b"Transfer-Encoding: chunked\r\n\r\nc\r\ngrant_type=x\r\n0\r\n\r\n"
)


@examples(60)
@given(st.sampled_from(FILES), DAMAGES)
def test_a_damaged_stub_is_dropped_or_gives_the_right_bytes(
    tmp_path: Path, name: str, damage: Damage
) -> None:
    root = tmp_path / "stubs"
    shutil.rmtree(root, ignore_errors=True)
    StubStore(root).add(MODEL, STUB)
    file = root / STUB.manifest.digest[7:] / name
    file.write_bytes(damage.to(file.read_bytes()))
    store = StubStore(root)
    for digest, data in BLOBS.items():
        found = store.find(digest)
        assert found is None or found[1] == data
    store.add(MODEL, STUB)
    for digest, data in BLOBS.items():
        assert (store.find(digest) or ("", b""))[1] == data


@examples(60)
@given(DAMAGES)
def test_a_stub_that_is_damaged_while_it_is_served_is_lost_and_not_wrong(
    tmp_path: Path, damage: Damage
) -> None:
    root = tmp_path / "stubs"
    shutil.rmtree(root, ignore_errors=True)
    store = StubStore(root)
    store.add(MODEL, STUB)
    file = root / STUB.manifest.digest[7:] / "layer.tar"
    file.write_bytes(damage.to(file.read_bytes()))
    found = store.find(STUB.layer.digest)
    assert found is None or found[1] == BLOBS[STUB.layer.digest]


@examples(100)
@given(documents([["r.example", "a/b"], ["r.example:5000", "c"]]))
def test_any_list_of_private_models_is_read_or_forgotten(tmp_path: Path, raw: bytes) -> None:
    file = tmp_path / "private-models.json"
    file.write_bytes(raw)
    places = PrivatePlaces(file)
    places.add("r.example", "d")
    assert places.has("r.example", "d")
    assert PrivatePlaces(file).has("r.example", "d")


@given(documents([["r.example", "a/b", "user", "a-password-of-tests", "", "r.example"]]))
def test_any_file_of_pull_secrets_is_read_or_forgotten(raw: bytes) -> None:
    with TemporaryDirectory(dir="/dev/shm") as directory:  # they are in memory only
        file = Path(directory, "secrets.json")
        file.write_bytes(raw)
        file.chmod(0o600)
        for found in PullSecrets(file).find("r.example", "a/b", "r.example"):
            assert found.credential is not None
            assert found.credential.basic


class NoRegistry:
    """Has nothing, and knows what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def resolve(self, ref: Reference) -> Descriptor:
        self.asked.append(ref.registry)
        raise NotFound(f"no {ref}")

    def manifest(self, ref: Reference) -> tuple[Descriptor, bytes]:
        self.asked.append(ref.registry)
        raise NotFound(f"no {ref}")

    def blob(self, ref: Reference, descriptor: Descriptor, *, limit: int) -> bytes:
        self.asked.append(ref.registry)
        raise NotFound(f"no {ref}")


@pytest.fixture
def upstream() -> NoRegistry:
    return NoRegistry()


@pytest.fixture
def mirror(tmp_path: Path, upstream: NoRegistry) -> Iterator[MirrorServer]:
    options = MirrorOptions(address="127.0.0.1:0")
    server = serve(
        options,
        upstream,
        tmp_path,
        serves=lambda name: name == "r.example",
        platform=AMD64,
        upstream_for=lambda secret: upstream,
    )
    yield server
    server.stop()


def answer(mirror: MirrorServer, raw: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", mirror.port), timeout=60) as connection:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        told = b""
        while piece := connection.recv(1 << 16):
            told += piece
        return told


@examples(100)
@given(damaged(ASKED, TOKEN, BASIC) | st.binary(max_size=300))
def test_whatever_is_sent_to_the_mirror_it_answers_the_next(
    mirror: MirrorServer, upstream: NoRegistry, raw: bytes
) -> None:
    try:
        assert b" 500 " not in answer(mirror, raw).partition(b"\r\n")[0]
    except ConnectionResetError:
        pass  # what came after what it had read of a bad request
    assert answer(mirror, b"GET /v2/ HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200 OK")
    assert set(upstream.asked) <= {"r.example"}


@pytest.mark.parametrize(
    "target",
    [
        "/v2/team/m/manifests/1?ns=other.example",
        "/v2/team/m/manifests/1?ns=r.example&ns=other.example",
        "/v2/team/m/manifests/1?ns=r.example.other.example",
        "/v2/team/m/manifests/1?ns=r.example%2f..%2fother.example",
        "/v2/team/m/manifests/1?ns=other.example%3fr.example",
        "/v2/team/m/manifests/1?ns=user:pass@other.example",
        "/v2/team/m/manifests/1?ns=",
        "/v2/team/m/manifests/1",
        f"/v2/team/m/blobs/{digest_of(b'x')}?ns=other.example",
        "http://other.example/v2/team/m/manifests/1?ns=other.example",
        "//other.example/v2/team/m/manifests/1",
        "/v2/other.example/team/m/manifests/1",
    ],
)
def test_it_is_no_open_proxy_what_is_not_configured_is_404_and_asked_of_nobody(
    mirror: MirrorServer, upstream: NoRegistry, target: str
) -> None:
    told = answer(mirror, f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert told.startswith(b"HTTP/1.1 404 ")
    assert upstream.asked == []


def test_it_tunnels_for_nobody(mirror: MirrorServer, upstream: NoRegistry) -> None:
    told = answer(mirror, b"CONNECT other.example:443 HTTP/1.1\r\nHost: other.example\r\n\r\n")
    assert told.split(b" ")[1] in (b"400", b"404", b"405")
    assert upstream.asked == []


@pytest.mark.parametrize("shown", ["Basic \xfc", "Basic YTpi", "Basic", "Bearer x", "x" * 5000])
def test_whoever_a_client_says_it_is_it_gets_a_token(mirror: MirrorServer, shown: str) -> None:
    head = f"GET /token HTTP/1.1\r\nHost: h\r\nConnection: close\r\nAuthorization: {shown}\r\n\r\n"
    assert answer(mirror, head.encode("latin-1")).startswith(b"HTTP/1.1 200 OK")


PULL = api.PullImageRequest(
    image=api.ImageSpec(image="r.example/a/m:1"),
    auth=api.AuthConfig(username="u", password="p", server_address="https://r.example/v1/"),
).SerializeToString()


@examples(200)
@given(
    damaged(PULL)
    | st.binary(max_size=200)
    | st.builds(
        lambda **fields: api.PullImageRequest(auth=api.AuthConfig(**fields)).SerializeToString(),
        username=TEXTS,
        password=TEXTS,
        auth=TEXTS,
        identity_token=TEXTS,
        server_address=TEXTS,
    )
)
def test_any_request_of_kubelet_has_a_secret_or_none(raw: bytes) -> None:
    secret, image = _read_pull(raw)
    assert isinstance(image, str)
    if secret is not None:
        assert secret.credential.basic
