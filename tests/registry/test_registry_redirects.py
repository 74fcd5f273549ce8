"""Blobs that live in object storage: redirects, and who may see the token."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
from registry_scripted import Reply, Request, ranged, scripted
from test_registry_blobs import CONTENT, OPTIONS, PATH, origin, read

from snapshotter.registry.client import Registry
from snapshotter.registry.errors import BadAnswer, Unauthorized
from snapshotter.registry.exchange import redirect_target

whole = ranged(CONTENT)


@pytest.fixture
def registry() -> Iterator[Registry]:
    registry = Registry(OPTIONS)
    yield registry
    registry.close()


def token_registry(location: str) -> Callable[[Request], Reply]:
    """Wants a token, and sends whoever has it to ``location``."""

    def answer(request: Request) -> Reply:
        if request.path == "/token":
            return Reply(200, {}, b'{"token": "hunter2"}')
        if request.headers.get("Authorization") != "Bearer hunter2":
            realm = f"http://{request.headers['Host']}/token"
            return Reply(401, {"WWW-Authenticate": f'Bearer realm="{realm}",service="s"'})
        return Reply(307, {"Location": location})

    return answer


def test_the_token_stays_with_the_registry(registry: Registry) -> None:
    with (
        scripted(whole) as storage,
        scripted(token_registry(f"{storage.url}/signed?sig=1")) as server,
    ):
        blob = origin(registry, server)
        assert read(blob, 3, 3000) == CONTENT[3:3000]
        assert [r.headers.get("Authorization") for r in storage.requests] == [None]
        assert server.requests[-1].headers["Authorization"] == "Bearer hunter2"


def test_where_a_blob_was_found_is_remembered(registry: Registry) -> None:
    with (
        scripted(whole) as storage,
        scripted(token_registry(f"{storage.url}/signed?sig=1")) as server,
    ):
        blob = origin(registry, server)
        for start in range(0, 5000, 1000):
            assert read(blob, start, start + 1000) == CONTENT[start : start + 1000]
        assert len(storage.requests) == 5
        assert storage.requests[0].query == {"sig": ["1"]}
        assert len(server.asked(PATH)) == 2  # without and with the token


@pytest.mark.parametrize("status", [401, 403, 410])
def test_a_location_that_has_run_out_is_asked_for_anew(registry: Registry, status: int) -> None:
    signatures = itertools.count()
    valid = "0"

    def store(request: Request) -> Reply:
        return whole(request) if request.query["sig"] == [valid] else Reply(status)

    def front(request: Request) -> Reply:
        return Reply(307, {"Location": f"{storage.url}/signed?sig={next(signatures)}"})

    with scripted(store) as storage, scripted(front) as server:
        blob = origin(registry, server)
        assert read(blob, 0, 10) == CONTENT[:10]
        valid = "1"
        assert read(blob, 10, 20) == CONTENT[10:20]
        assert len(server.requests) == 2
        valid = "never"
        with pytest.raises(Unauthorized, match=f"{server.address} sent us there"):
            read(blob, 20, 30)
        assert len(server.requests) == 3


def test_a_redirect_on_the_same_host_keeps_the_token(registry: Registry) -> None:
    def answer(request: Request) -> Reply:
        if request.path == "/token":
            return Reply(200, {}, b'{"access_token": "hunter2", "expires_in": 300}')
        if request.headers.get("Authorization") != "Bearer hunter2":
            realm = f"http://{request.headers['Host']}/token"
            return Reply(401, {"WWW-Authenticate": f'Bearer realm="{realm}"'})
        return Reply(302, {"Location": "/moved"}) if request.path == PATH else whole(request)

    with scripted(answer) as server:
        assert read(origin(registry, server), 0, 10) == CONTENT[:10]


def test_redirects_in_a_circle_end(registry: Registry) -> None:
    with (
        scripted(lambda request: Reply(307, {"Location": PATH})) as server,
        pytest.raises(BadAnswer, match="circles"),
    ):
        read(origin(registry, server), 0, 10)


@pytest.mark.parametrize("location", ["ftp://s.example/x", "http://[::1", "file:///etc"])
def test_only_http_is_followed(registry: Registry, location: str) -> None:
    with (
        scripted(lambda request: Reply(307, {"Location": location})) as server,
        pytest.raises(BadAnswer, match="no http URL"),
    ):
        read(origin(registry, server), 0, 10)


def test_a_redirect_never_leaves_tls() -> None:
    with pytest.raises(BadAnswer, match="plain http"):
        redirect_target("https://r.example/v2/", "http://s.example/blob")
    assert redirect_target("http://r.example/v2/", "https://s.example/b") == "https://s.example/b"
