"""The checked-in stubs, and that they speak as containerd and Kubernetes do."""

from __future__ import annotations

from pathlib import Path

from google.protobuf.descriptor import FileDescriptor

from proto.containerd.services.content.v1 import content_pb2
from proto.containerd.services.images.v1 import images_pb2
from proto.containerd.services.introspection.v1 import introspection_pb2
from proto.containerd.services.leases.v1 import leases_pb2
from proto.containerd.services.namespaces.v1 import namespace_pb2
from proto.containerd.services.snapshots.v1 import snapshots_pb2
from proto.containerd.services.version.v1 import version_pb2
from proto.cri.runtime.v1 import api_pb2
from proto.generate import ROOT, generate


def stubs(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in (root / "proto").rglob("*_pb2*")
        if path.suffix in (".py", ".pyi")
    }


def test_the_checked_in_stubs_are_what_the_proto_files_generate(tmp_path: Path) -> None:
    generate(tmp_path)
    fresh = stubs(tmp_path)
    checked_in = stubs(ROOT)
    assert sorted(checked_in) == sorted(fresh)
    stale = [name for name, content in fresh.items() if checked_in[name] != content]
    assert not stale, "run: python -m proto.generate"


def services(file: FileDescriptor) -> dict[str, list[str]]:
    return {
        service.full_name: sorted(service.methods_by_name)
        for service in file.services_by_name.values()
    }


def test_services_have_the_names_that_go_into_request_paths() -> None:
    files = (
        content_pb2,
        images_pb2,
        introspection_pb2,
        leases_pb2,
        namespace_pb2,
        snapshots_pb2,
        version_pb2,
        api_pb2,
    )
    assert {name for file in files for name in services(file.DESCRIPTOR)} == {
        "containerd.services.content.v1.Content",
        "containerd.services.images.v1.Images",
        "containerd.services.introspection.v1.Introspection",
        "containerd.services.leases.v1.Leases",
        "containerd.services.namespaces.v1.Namespaces",
        "containerd.services.snapshots.v1.Snapshots",
        "containerd.services.version.v1.Version",
        "runtime.v1.ImageService",
        "runtime.v1.RuntimeService",
    }


def test_the_snapshots_service_is_whole() -> None:
    (methods,) = services(snapshots_pb2.DESCRIPTOR).values()
    assert methods == [
        "Cleanup",
        "Commit",
        "List",
        "Mounts",
        "Prepare",
        "Remove",
        "Stat",
        "Update",
        "Usage",
        "View",
    ]


def test_a_snapshot_travels_under_containerds_field_numbers() -> None:
    info = snapshots_pb2.Info(name="n", parent="p", kind=snapshots_pb2.COMMITTED, labels={"k": "v"})
    info.created_at.seconds = 1
    info.updated_at.seconds = 2
    assert info.SerializeToString(deterministic=True).hex(" ") == (
        "0a 01 6e 12 01 70 18 03 22 02 08 01 2a 02 08 02 32 06 0a 01 6b 12 01 76"
    )


def test_an_image_volume_travels_under_kubernetes_field_numbers() -> None:
    mount = api_pb2.Mount(
        container_path="/m", readonly=True, image=api_pb2.ImageSpec(image="i"), image_sub_path="s"
    )
    assert mount.SerializeToString(deterministic=True).hex(" ") == (
        "0a 02 2f 6d 18 01 4a 03 0a 01 69 52 01 73"
    )
