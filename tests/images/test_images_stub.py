from __future__ import annotations

import io
import json
import tarfile

import pytest

from snapshotter.artifact.descriptor import Platform
from snapshotter.artifact.digest import Digest, digest_of
from snapshotter.artifact.manifest import Manifest, is_model, parse
from snapshotter.artifact.marker import MARKER_NAME, ModelRef, decode_marker
from snapshotter.images.stub import stub_image

REF = ModelRef("registry.example.com:5000", "team/llama", Digest("sha256:" + "a" * 64))
AMD64 = Platform("linux", "amd64")
PINNED_LAYER = "sha256:337abdf7af216e18d18eddb82ad3caafcc4147152fe5e68b9facf33897aac1c7"
PINNED_MANIFEST = "sha256:38b71ec77daf721a3b71e371682910a341d3838e26b501ff7624393f4869ac3f"


def test_the_layer_is_an_ordinary_tar_with_the_marker_alone() -> None:
    stub = stub_image(REF, AMD64)
    assert stub.layer.media_type == "application/vnd.oci.image.layer.v1.tar"
    with tarfile.open(fileobj=io.BytesIO(stub.layer_bytes)) as tar:
        (member,) = tar.getmembers()
        assert (member.name, member.mode, member.mtime) == (MARKER_NAME, 0o444, 0)
        assert (member.uid, member.gid, member.uname, member.gname) == (0, 0, "root", "root")
        assert member.isreg()
        content = tar.extractfile(member)
        assert content is not None
        assert decode_marker(content.read()) == REF
    assert len(stub.layer_bytes) <= 4096


def test_all_digests_and_sizes_are_real() -> None:
    stub = stub_image(REF, AMD64)
    for descriptor, data in stub.contents:
        assert descriptor.digest == digest_of(data)
        assert descriptor.size == len(data)
    manifest = parse(stub.manifest_bytes, stub.manifest.digest)
    assert isinstance(manifest, Manifest)
    assert manifest.config == stub.config
    assert manifest.layers == (stub.layer,)
    config = json.loads(stub.config_bytes)
    assert config["rootfs"] == {"type": "layers", "diff_ids": [stub.layer.digest]}
    assert (config["os"], config["architecture"]) == ("linux", "amd64")


def test_the_stub_names_its_model_wherever_somebody_looks() -> None:
    stub = stub_image(REF, AMD64)
    manifest = json.loads(stub.manifest_bytes)
    assert manifest["annotations"]["modelpack.ref"] == str(REF)
    assert manifest["layers"][0]["annotations"] == {
        "containerd.io/snapshot/modelpack.ref": str(REF)
    }
    assert json.loads(stub.config_bytes)["config"]["Labels"]["modelpack.ref"] == str(REF)


def test_a_stub_is_an_image_and_no_model_itself() -> None:
    assert not is_model(parse(stub_image(REF, AMD64).manifest_bytes))


def test_digests_are_the_same_on_every_machine_and_in_every_release() -> None:
    # Clients keep these digests: changing the form of stubs makes every model
    # a new image on every node. Change the numbers only for that.
    stub = stub_image(REF, AMD64)
    assert stub.layer.digest == PINNED_LAYER
    assert stub.manifest.digest == PINNED_MANIFEST


def test_platforms_differ_in_the_config_only() -> None:
    one, other = stub_image(REF, AMD64), stub_image(REF, Platform("linux", "arm", "v7"))
    assert one.layer == other.layer
    assert one.layer_bytes == other.layer_bytes
    fields = json.loads(other.config_bytes)
    assert (fields.pop("architecture"), fields.pop("variant")) == ("arm", "v7")
    assert fields == {k: v for k, v in json.loads(one.config_bytes).items() if k != "architecture"}
    manifest, same = json.loads(one.manifest_bytes), json.loads(other.manifest_bytes)
    assert manifest.pop("config") != same.pop("config")
    assert manifest == same


@pytest.mark.parametrize(
    "other",
    [
        ModelRef("other.example.com", REF.repository, REF.digest),
        ModelRef(REF.registry, "team/other", REF.digest),
        ModelRef(REF.registry, REF.repository, Digest("sha256:" + "b" * 64)),
    ],
)
def test_every_model_has_its_own_image_id(other: ModelRef) -> None:
    assert stub_image(REF, AMD64).config.digest != stub_image(other, AMD64).config.digest
