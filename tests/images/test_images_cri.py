"""Which pull secrets are kept, and when kubelet is made to bring one again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_images_mirror import AMD64, IMAGE, MODEL

from proto.cri.runtime.v1 import api_pb2 as api
from snapshotter.artifact.descriptor import Descriptor
from snapshotter.artifact.digest import Digest, digest_of
from snapshotter.artifact.marker import ModelRef
from snapshotter.images.containerd import Containerd, Image
from snapshotter.images.cri import PrivatePlaces, PullWatcher
from snapshotter.images.errors import ContainerdError
from snapshotter.images.stub import stub_image
from snapshotter.registry.pull_secrets import PullSecrets

V1, ALPHA = "/runtime.v1.ImageService", "/runtime.v1alpha2.ImageService"
NAME = "r.example/team/m:1"
STUB = stub_image(ModelRef("r.example", "team/m", digest_of(MODEL)), AMD64).manifest_bytes


class FakeContainerd(Containerd):
    """Images by name; only what a real one cannot be made to do is worth it."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.fails = False

    def images(self, namespace: str, *filters: str) -> list[Image]:
        if self.fails:
            raise ContainerdError("containerd is gone")
        return [
            Image(name, Descriptor("", digest_of(raw), len(raw)))
            for name, raw in self.contents.items()
            if filters == (f'name=="{name}"',)
        ]

    def read(self, namespace: str, digest: Digest) -> bytes | None:
        return next((raw for raw in self.contents.values() if digest_of(raw) == digest), None)


class Node:
    def __init__(self, root: Path) -> None:
        self.containerd = FakeContainerd()
        self.root = root
        self.complete: set[Digest] = set()
        self.restart()

    def restart(self) -> None:
        self.secrets = PullSecrets()
        places = PrivatePlaces(self.root / "places.json")
        self.watcher = PullWatcher(
            self.containerd, self.secrets, places, complete=self.complete.__contains__
        )

    def pull(self, image: str = NAME, service: str = V1, **auth: str) -> None:
        auth = auth or {"username": "alice", "password": "alice-password"}
        request = api.PullImageRequest(
            image=api.ImageSpec(image=image), auth=api.AuthConfig(**auth)
        )
        method = f"{service}/PullImage"
        assert self.watcher.watches(method)
        self.watcher.succeeded(method, request.SerializeToString())

    def hides(self, image: str = NAME) -> bool:
        request = api.ImageStatusRequest(image=api.ImageSpec(image=image)).SerializeToString()
        answer = self.watcher.answer(f"{V1}/ImageStatus", request)
        if answer is None:
            return False
        return not api.ImageStatusResponse.FromString(answer).HasField("image")


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.mark.parametrize("manifest", [MODEL, STUB])
@pytest.mark.parametrize("service", [V1, ALPHA])
def test_the_secret_of_a_model_is_kept(node: Node, manifest: bytes, service: str) -> None:
    node.containerd.contents[NAME] = manifest
    node.pull(service=service)
    assert node.secrets.has("r.example", "team/m")


def test_a_name_with_tag_and_digest_is_known_by_its_digest(node: Node) -> None:
    pinned = f"r.example/team/m@{digest_of(MODEL)}"
    node.containerd.contents[pinned] = MODEL
    node.pull(f"{NAME}@{digest_of(MODEL)}")
    assert node.secrets.has("r.example", "team/m")


@pytest.mark.parametrize(
    ("manifest", "auth"),
    [
        (IMAGE, {}),
        (b"no manifest", {}),
        (None, {}),
        (MODEL, {"server_address": "r.example"}),
        (MODEL, {"registry_token": "containerd does not know what to do with it"}),
    ],
)
def test_no_other_secret_is(node: Node, manifest: bytes | None, auth: dict[str, str]) -> None:
    if manifest is not None:
        node.containerd.contents[NAME] = manifest
    node.pull(**auth)
    assert not node.secrets.has("r.example", "team/m")


def test_in_doubt_a_secret_is_kept(node: Node) -> None:
    node.containerd.fails = True
    node.pull()
    assert node.secrets.has("r.example", "team/m")


def test_what_is_no_request_or_no_reference_is_left_alone(node: Node) -> None:
    node.watcher.succeeded(f"{V1}/PullImage", b"\xff\xff")
    node.pull("sha256:" + "0" * 64)
    node.pull("NOT A REFERENCE")
    assert node.hides("sha256:" + "0" * 64) is False
    assert not node.watcher.watches("/runtime.v1.ImageService/ListImages")
    assert not node.watcher.watches("/runtime.v1.RuntimeService/ImageStatus")


def test_a_model_whose_secret_was_lost_is_hidden_until_it_is_brought_or_not_needed(
    node: Node,
) -> None:
    node.containerd.contents = {NAME: MODEL, "r.example/other:1": MODEL}
    node.pull()
    assert not node.hides()
    node.restart()
    assert node.hides()
    assert not node.hides("r.example/other:1")
    node.complete.add(digest_of(MODEL))
    assert not node.hides()
    node.complete.clear()
    node.pull()
    assert not node.hides()


def test_images_that_are_not_there_are_containerds_to_answer(node: Node) -> None:
    node.containerd.contents[NAME] = MODEL
    node.pull()
    node.restart()
    node.containerd.contents.clear()
    assert not node.hides()


@pytest.mark.parametrize("content", ["{", "[1]", '[["a"]]', "{}"])
def test_a_list_of_names_that_is_broken_is_begun_anew(tmp_path: Path, content: str) -> None:
    file = tmp_path / "places.json"
    file.write_text(content)
    places = PrivatePlaces(file)
    places.add("r.example", "m")
    read: Any = json.loads(file.read_text())
    assert read == [["r.example", "m"]]
    assert PrivatePlaces(file).has("r.example", "m")
