"""The mirror where the registry refuses the node: clients are asked for their credentials."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from test_images_mirror import AMD64, HOST, MODEL, FakeRegistry

from snapshotter.images.mirror import MirrorOptions, MirrorServer, serve
from snapshotter.registry.challenges import parse_challenges
from snapshotter.registry.credentials import Credential
from snapshotter.registry.errors import Unauthorized
from snapshotter.registry.pull_secrets import PullSecret

ALICE = PullSecret(Credential("alice", "alice-password"))


class Private:
    """A registry that lets in alice only, and a mirror in front of it."""

    def __init__(self, root: Path) -> None:
        self.kept: list[tuple[str, str, PullSecret]] = []
        self.refusing, self.open = FakeRegistry(), FakeRegistry()
        self.refusing.failure = Unauthorized("no credentials")
        self.open.push(MODEL)
        self.server: MirrorServer = serve(
            MirrorOptions(address="127.0.0.1:0", registries=(HOST,)),
            self.refusing,
            root,
            serves=lambda registry: True,
            platform=AMD64,
            upstream_for=lambda secret: self.open if secret == ALICE else self.refusing,
            keep_secret=lambda *kept: self.kept.append(kept),
        )
        self.http = httpx.Client(
            base_url=f"http://{self.server.address}", trust_env=False, timeout=60
        )

    def pull(self, token: str = "") -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return self.http.head("/v2/team/llama/manifests/v1", params={"ns": HOST}, headers=headers)


@pytest.fixture
def private(tmp_path: Path) -> Iterator[Private]:
    private = Private(tmp_path)
    yield private
    private.http.close()
    private.server.stop()


def realm(answer: httpx.Response) -> str:
    assert answer.status_code == 401
    (challenge,) = parse_challenges([answer.headers["www-authenticate"]])
    assert challenge.scheme == "bearer"
    assert challenge.parameters["scope"] == "repository:team/llama:pull"
    return challenge.parameters["realm"]


def test_who_shows_good_credentials_gets_the_model_and_they_are_kept(private: Private) -> None:
    place = realm(private.pull())
    token = httpx.get(place, auth=("alice", "alice-password"), timeout=60).json()["token"]
    assert private.pull(token).status_code == 200
    assert private.kept == [(HOST, "team/llama", ALICE)]
    # It stands for alice, and for nobody who does not show it.
    realm(private.pull())


@pytest.mark.parametrize(
    "form",
    [
        {"grant_type": "password", "username": "alice", "password": "alice-password"},
        {"grant_type": "password", "username": "alice", "password": "wrong"},
        {"grant_type": "refresh_token", "refresh_token": "some-identity-token"},
        {},
    ],
)
def test_credentials_may_be_posted_as_containerd_does(
    private: Private, form: dict[str, str]
) -> None:
    answer = httpx.post(realm(private.pull()), data=form, timeout=60).json()
    assert answer["access_token"] == answer["token"]
    good = form.get("password") == "alice-password"
    assert private.pull(answer["token"]).status_code == (200 if good else 403)
    assert bool(private.kept) is good


def test_an_anonymous_pull_goes_on_to_the_registry(private: Private) -> None:
    token = httpx.get(realm(private.pull()), timeout=60).json()["token"]
    assert private.pull(token).status_code == 403
    assert private.kept == []


@pytest.mark.parametrize("token", ["made-up", base64.b64encode(b"alice:alice-password").decode()])
def test_a_token_of_somebody_else_is_none(private: Private, token: str) -> None:
    realm(private.pull(token))


def test_who_may_not_be_asked_over_the_network_is_not(tmp_path: Path) -> None:
    private = Private(tmp_path)
    app = private.server._server._server.application
    seen: list[str] = []
    environment = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/v2/team/llama/manifests/v1",
        "QUERY_STRING": f"ns={HOST}",
        "REMOTE_ADDR": "192.0.2.1",
        "HTTP_HOST": "192.0.2.2",
    }
    app(environment, lambda status, headers: seen.append(status))
    app(environment | {"PATH_INFO": "/token"}, lambda status, headers: seen.append(status))
    assert [status.split()[0] for status in seen] == ["403", "404"]
    private.http.close()
    private.server.stop()
