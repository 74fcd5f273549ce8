"""Who we are, to registries that ask."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from registry_process import PASSWORD, USER, RegistryProcess
from registry_scripted import Reply, Request, scripted

from snapshotter.artifact.descriptor import Descriptor
from snapshotter.artifact.digest import digest_of
from snapshotter.registry.client import Registry
from snapshotter.registry.errors import BadAnswer, Overloaded, Unauthorized
from snapshotter.registry.options import RegistryOptions
from snapshotter.registry.reference import Reference

MANIFEST = b'{"schemaVersion":2}'
OCI = "application/vnd.oci.image.manifest.v1+json"


@contextmanager
def opened(docker_config: Path, document: Any = None) -> Iterator[Registry]:
    if document is not None:
        docker_config.write_text(json.dumps(document))
    registry = Registry(RegistryOptions(certs_d=(), docker_config=str(docker_config)))
    try:
        yield registry
    finally:
        registry.close()


def stored(address: str, user: str = "alice", password: str = "hunter2", **more: str) -> Any:
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"auths": {address: {"auth": auth, **more}}}


def guarded(
    token: Callable[[Request], Reply], *, accepts: Callable[[str], bool] = lambda header: True
) -> Callable[[Request], Reply]:
    """A registry with a token server: manifests only for Bearer headers that are accepted."""

    def answer(request: Request) -> Reply:
        if request.path == "/token":
            return token(request)
        header = request.headers.get("Authorization", "")
        if not header.startswith("Bearer ") or not accepts(header.removeprefix("Bearer ")):
            realm = f"http://{request.headers['Host']}/token"
            challenge = f'Bearer realm="{realm}",service="svc",scope="repository:team/m:pull"'
            return Reply(401, {"WWW-Authenticate": challenge})
        return Reply(200, {"Content-Type": OCI}, MANIFEST)

    return answer


def ask(registry: Registry, address: str, repository: str = "team/m") -> None:
    _, raw = registry.manifest(Reference.parse(f"{address}/{repository}:v1"))
    assert raw == MANIFEST


def test_an_anonymous_token_is_asked_for_once(tmp_path: Path) -> None:
    token = Reply(200, {}, b'{"token": "t1", "expires_in": 300}')
    with scripted(guarded(lambda r: token)) as server, opened(tmp_path / "none") as registry:
        for _ in range(3):
            ask(registry, server.address)
        (asked,) = server.asked("/token")
        assert asked.query == {"service": ["svc"], "scope": ["repository:team/m:pull"]}
        assert "Authorization" not in asked.headers


def test_each_repository_has_its_token(tmp_path: Path) -> None:
    token = Reply(200, {}, b'{"token": "t1"}')
    with scripted(guarded(lambda r: token)) as server, opened(tmp_path / "none") as registry:
        ask(registry, server.address, "team/m")
        ask(registry, server.address, "team/other")
        assert len(server.asked("/token")) == 2


def test_a_password_goes_to_the_token_server_and_the_token_to_the_registry(tmp_path: Path) -> None:
    def token(request: Request) -> Reply:
        basic = base64.b64encode(b"alice:hunter2").decode()
        assert request.headers["Authorization"] == f"Basic {basic}"
        return Reply(200, {}, b'{"token": "t1"}')

    with scripted(guarded(token)) as server:
        with opened(tmp_path / "config.json", stored(server.address)) as registry:
            ask(registry, server.address)
        sent = [r.headers.get("Authorization") for r in server.requests if r.path != "/token"]
        assert sent == [None, "Bearer t1"]


def test_an_identity_token_is_posted(tmp_path: Path) -> None:
    def token(request: Request) -> Reply:
        assert request.method == "POST"
        assert "Authorization" not in request.headers
        fields = parse_qs(request.body.decode())
        assert fields["grant_type"] == ["refresh_token"]
        assert fields["refresh_token"] == ["identity-hunter2"]
        assert fields["scope"] == ["repository:team/m:pull"]
        return Reply(200, {}, b'{"access_token": "t1"}')

    with scripted(guarded(token)) as server:
        document = stored(server.address, identitytoken="identity-hunter2")
        with opened(tmp_path / "config.json", document) as registry:
            ask(registry, server.address)


def test_a_token_that_is_refused_is_renewed_once(tmp_path: Path) -> None:
    issued: list[str] = []

    def token(request: Request) -> Reply:
        issued.append(f"t{len(issued)}")
        return Reply(200, {}, json.dumps({"token": issued[-1]}).encode())

    answer = guarded(token, accepts=lambda header: header == issued[-1] and valid)
    valid = True
    with scripted(answer) as server, opened(tmp_path / "none") as registry:
        ask(registry, server.address)
        issued.append("revoked")
        ask(registry, server.address)
        assert len(server.asked("/token")) == 2
        valid = False
        with pytest.raises(Unauthorized):
            ask(registry, server.address)
        assert len(server.asked("/token")) == 3


def test_a_token_is_renewed_before_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("snapshotter.registry.auth.time.monotonic", lambda: now[0])
    token = Reply(200, {}, b'{"token": "t1", "expires_in": 100}')
    with scripted(guarded(lambda r: token)) as server, opened(tmp_path / "none") as registry:
        ask(registry, server.address)
        now[0] += 89
        ask(registry, server.address)
        assert len(server.asked("/token")) == 1
        now[0] += 2
        ask(registry, server.address)
        assert len(server.asked("/token")) == 2


def test_a_refusal_says_which_credentials_were_used_and_never_the_secret(tmp_path: Path) -> None:
    with scripted(guarded(lambda r: Reply(401))) as server:
        config = tmp_path / "config.json"
        with (
            opened(config, stored(server.address)) as registry,
            pytest.raises(Unauthorized) as caught,
        ):
            ask(registry, server.address)
    message = str(caught.value)
    assert f"credentials of user alice from {config}" in message
    assert f"docker login {server.address}" in message
    assert "hunter2" not in message
    assert "hunter2" not in repr(caught.value.__cause__)


def test_a_refusal_says_that_no_credentials_were_found(tmp_path: Path) -> None:
    with (
        scripted(guarded(lambda r: Reply(401))) as server,
        opened(tmp_path / "none.json") as registry,
        pytest.raises(Unauthorized, match=r"none\.json does not exist.*docker login"),
    ):
        ask(registry, server.address)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"token": 5}', b'{"token": "a\\nb"}'])
def test_an_answer_without_a_token_is_an_error(tmp_path: Path, body: bytes) -> None:
    with (
        scripted(guarded(lambda r: Reply(200, {}, body))) as server,
        opened(tmp_path / "none") as registry,
        pytest.raises(BadAnswer, match="no token"),
    ):
        ask(registry, server.address)


def test_a_token_server_that_is_down_is_temporary(tmp_path: Path) -> None:
    with (
        scripted(guarded(lambda r: Reply(503))) as server,
        opened(tmp_path / "none") as registry,
        pytest.raises(Overloaded) as caught,
    ):
        ask(registry, server.address)
    assert caught.value.temporary


def test_a_way_to_log_in_that_we_do_not_know_is_named(tmp_path: Path) -> None:
    reply = Reply(401, {"WWW-Authenticate": "Negotiate"})
    with (
        scripted(lambda request: reply) as server,
        opened(tmp_path / "none") as registry,
        pytest.raises(Unauthorized, match="negotiate"),
    ):
        ask(registry, server.address)


def test_a_private_registry_is_read_with_the_right_password(
    tmp_path: Path, private_registry: RegistryProcess
) -> None:
    address = private_registry.address
    reference = Reference.parse(f"{address}/auth/m:v1")
    digest = digest_of(b"{}")
    with opened(tmp_path / "config.json", stored(address, USER, PASSWORD)) as registry:
        registry.upload_blob(reference, digest, 2, lambda: iter((b"{}",)))
        assert registry.blob(reference, Descriptor("", digest, 2), limit=2) == b"{}"


def test_a_private_registry_refuses_others_with_a_hint(
    tmp_path: Path, private_registry: RegistryProcess
) -> None:
    address = private_registry.address
    reference = Reference.parse(f"{address}/auth/m:v1")
    with (
        opened(tmp_path / "none") as registry,
        pytest.raises(Unauthorized, match=f"docker login {address}"),
    ):
        registry.manifest(reference)
    with (
        opened(tmp_path / "config.json", stored(address, USER, "hunter2")) as registry,
        pytest.raises(Unauthorized, match=f"user {USER}") as caught,
    ):
        registry.manifest(reference)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "realm",
    ["ftp://x/t", "http://[::1/t", "http://x:99999/t", "http://x\x01y/t", "http://xn--/t",
     f"http://{'a' * 100}/t"],
)  # fmt: skip
def test_a_token_server_that_has_no_usable_address_is_an_error_in_one_line(
    realm: str, tmp_path: Path
) -> None:
    def answer(request: Request) -> Reply:
        return Reply(401, {"WWW-Authenticate": f'Bearer realm="{realm}"'}, b"")

    with scripted(answer) as server, opened(tmp_path / "config.json") as registry:
        with pytest.raises(BadAnswer, match=r"realm|by a URL that cannot be one") as caught:
            registry.manifest(Reference.parse(f"{server.address}/m:1"))
        assert str(caught.value).isprintable()
