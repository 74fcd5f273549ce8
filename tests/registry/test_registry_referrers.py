"""What refers to a manifest: a real registry without the API, and a scripted one that has it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from registry_process import RegistryProcess
from registry_scripted import Reply, Request, scripted

from snapshotter.artifact.descriptor import Descriptor
from snapshotter.artifact.digest import Digest, digest_of
from snapshotter.artifact.manifest import Manifest, parse
from snapshotter.registry import referrers
from snapshotter.registry.client import Registry
from snapshotter.registry.errors import BadAnswer, Overloaded
from snapshotter.registry.options import RegistryOptions
from snapshotter.registry.reference import Reference
from snapshotter.registry.referrers import EMPTY_TYPE, fallback_tag, list_referrers, publish

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
SUBJECT = digest_of(b"the model")
ABOUT = Descriptor(MANIFEST, SUBJECT, 9)


@pytest.fixture
def registry() -> Iterator[Registry]:
    registry = Registry(RegistryOptions(certs_d=(), docker_config="/nonexistent"))
    yield registry
    registry.close()


def entry(name: str, artifact_type: str = "application/signature") -> dict[str, object]:
    return {
        "mediaType": MANIFEST,
        "digest": digest_of(name.encode()),
        "size": 5,
        "artifactType": artifact_type,
        "annotations": {"name": name},
    }


def listing(*entries: dict[str, object]) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()


def names(found: list[Descriptor]) -> list[str]:
    return [descriptor.annotations["name"] for descriptor in found]


def place(process: RegistryProcess, repository: str, digest: Digest = SUBJECT) -> Reference:
    return Reference(process.address, repository, None, digest)


def test_what_was_published_is_found_where_there_is_no_api(registry, docker_registry) -> None:
    about = place(docker_registry, "referrers/found")
    assert registry.referrers_page(about, "") is None
    digest = publish(
        registry, ABOUT, about, artifact_type="application/x", layers=[("application/x", b"list")]
    )
    (found,) = list_referrers(registry, about)
    assert (found.digest, found.artifact_type) == (digest, "application/x")
    document = parse(registry.manifest(about.with_digest(digest))[1], digest)
    assert isinstance(document, Manifest)
    assert document.config.media_type == EMPTY_TYPE
    assert json.loads(document.raw)["subject"] == {
        "mediaType": MANIFEST, "digest": SUBJECT, "size": 9,
    }  # fmt: skip
    assert registry.blob(about, document.layers[0], limit=100) == b"list"


def test_a_second_referrer_is_listed_beside_the_first_and_none_twice(
    registry, docker_registry
) -> None:
    about = place(docker_registry, "referrers/twice")
    for artifact_type in ("application/x", "application/y", "application/x"):
        publish(
            registry, ABOUT, about, artifact_type=artifact_type, layers=[("text/plain", b"one")]
        )
    assert [d.artifact_type for d in list_referrers(registry, about)] == [
        "application/x",
        "application/y",
    ]
    (found,) = list_referrers(registry, about, artifact_types=("application/y",))
    assert found.artifact_type == "application/y"


def test_a_manifest_nobody_refers_to_has_none(registry, docker_registry) -> None:
    assert list_referrers(registry, place(docker_registry, "referrers/none")) == []


def test_the_fallback_tag_is_the_one_of_the_specification() -> None:
    assert fallback_tag(SUBJECT) == SUBJECT.replace(":", "-")
    long = Digest(f"sha512:{'a' * 128}")
    assert fallback_tag(long) == f"sha512-{'a' * 64}"


def test_all_pages_of_the_api_are_read(registry) -> None:
    def answer(request: Request) -> Reply:
        assert request.path == f"/v2/team/model/referrers/{SUBJECT}"
        page = int(request.query.get("page", ["1"])[0])
        headers = {"Content-Type": INDEX}
        if page < 3:
            headers["Link"] = f'<{request.path}?page={page + 1}>; rel="next"'
        return Reply(200, headers, listing(entry(f"number {page}")))

    with scripted(answer) as server:
        about = Reference(server.address, "team/model", None, SUBJECT)
        assert names(list_referrers(registry, about)) == ["number 1", "number 2", "number 3"]


def test_a_filter_the_registry_does_not_know_is_applied_here(registry) -> None:
    def answer(request: Request) -> Reply:
        assert request.query["artifactType"] == ["application/sbom"]
        found = listing(entry("signature"), entry("sbom", "application/sbom"))
        return Reply(200, {"Content-Type": INDEX}, found)

    with scripted(answer) as server:
        about = Reference(server.address, "team/model", None, SUBJECT)
        found = list_referrers(registry, about, artifact_types=("application/sbom",))
    assert names(found) == ["sbom"]


def test_a_registry_whose_pages_never_end_is_left(registry, monkeypatch) -> None:
    monkeypatch.setattr(referrers, "MAX_PAGES", 5)

    def answer(request: Request) -> Reply:
        count = len(request.query.get("x", [""])[0]) + 1
        link = f'<{request.path}?x={"y" * count}>; rel="next"'
        return Reply(200, {"Content-Type": INDEX, "Link": link}, listing(entry(str(count))))

    with scripted(answer) as server:
        about = Reference(server.address, "team/model", None, SUBJECT)
        assert len(list_referrers(registry, about)) == 5
        assert len(server.requests) == 5


def test_a_next_page_on_another_host_is_asked_of_the_same(registry) -> None:
    def answer(request: Request) -> Reply:
        link = {} if request.query else {"Link": '<http://other.invalid/x?page=2>; rel="next"'}
        return Reply(200, {"Content-Type": INDEX, **link}, listing(entry(f"{request.query}")))

    with scripted(answer) as server:
        about = Reference(server.address, "team/model", None, SUBJECT)
        assert len(list_referrers(registry, about)) == 2


@pytest.mark.parametrize("body", [b"{}", b"[]", b"{", b'{"manifests": [{"size": -1}]}'])
def test_an_answer_that_is_no_index_is_an_error(registry, body) -> None:
    with scripted(lambda _: Reply(200, {"Content-Type": INDEX}, body)) as server:
        about = Reference(server.address, "team/model", None, SUBJECT)
        with pytest.raises(BadAnswer, match=f"the referrers of {about}"):
            list_referrers(registry, about)


def test_a_registry_that_cannot_answer_now_is_not_taken_for_one_without_referrers(
    registry,
) -> None:
    with scripted(lambda _: Reply(503)) as server:
        about = Reference(server.address, "team/model", None, SUBJECT)
        with pytest.raises(Overloaded):
            list_referrers(registry, about)


def test_nothing_is_tagged_where_the_registry_lists_referrers_itself(registry) -> None:
    def answer(request: Request) -> Reply:
        if "/referrers/" in request.path:
            return Reply(200, {"Content-Type": INDEX}, listing())
        return Reply(201 if request.method == "PUT" else 200)

    with scripted(answer) as server:
        about = Reference(server.address, "team/model", None, SUBJECT)
        publish(registry, ABOUT, about, artifact_type="application/x", layers=[])
        put = [request.path for request in server.requests if request.method == "PUT"]
    assert len(put) == 1
    assert put[0].startswith("/v2/team/model/manifests/sha256:")
