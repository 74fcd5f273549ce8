"""Models that containerd has downloaded as a whole: bytes it holds, and cannot mount."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc

from proto.containerd.services.content.v1 import content_pb2, content_pb2_grpc
from proto.containerd.services.images.v1 import images_pb2, images_pb2_grpc
from proto.containerd.services.namespaces.v1 import namespace_pb2, namespace_pb2_grpc
from snapshotter.artifact.digest import Digest, parse_digest
from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.manifest import MANIFEST_LIMIT
from snapshotter.artifact.mediatypes import INDEX_TYPES, MANIFEST_TYPES
from snapshotter.doctor.finding import Finding, error, ok, run, unknown, warning
from snapshotter.images.resolve import model_manifest
from snapshotter.units import format_size

PART = "images"
_CALL_SECONDS = 5.0
_SECONDS = 20.0
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A model of which containerd holds layers."""

    namespace: str
    names: tuple[str, ...]
    """All records of it; CRI makes one of the image ID besides the name."""
    size: int
    """Of the layers it holds, bytes."""


@dataclass(frozen=True, slots=True)
class ImageFacts:
    looked_at: int = 0
    """Images."""
    downloaded: tuple[Downloaded, ...] = ()
    complete: bool = True
    """Whether all were looked at in the time there is."""
    failure: str = ""


def gather(address: Path) -> ImageFacts:
    """Looks at manifests for at most some 20 seconds."""
    deadline = time.monotonic() + _SECONDS
    looked_at, downloaded, complete = 0, [], True
    try:
        with grpc.insecure_channel(
            f"unix:{address}", options=[("grpc.max_receive_message_length", 64 << 20)]
        ) as channel:
            for namespace, digest, names in _images(channel):
                if time.monotonic() > deadline:
                    complete = False
                    break
                looked_at += 1
                size = _held(channel, namespace, digest)
                if size:
                    downloaded.append(Downloaded(namespace, names, size))
    except grpc.RpcError as refused:
        return ImageFacts(failure=str(refused.details()).splitlines()[0][:300])
    return ImageFacts(looked_at, tuple(downloaded), complete)


def judge(facts: ImageFacts, *, direct: bool) -> list[Finding]:
    """``direct``: whether image volumes take such images all the same."""
    if facts.failure:
        return [unknown(PART, "downloaded", f"not looked at: {facts.failure}")]
    found = []
    for image in facts.downloaded[:_SHOWN]:
        # Records of CRI's own are image IDs.
        name = next((n for n in image.names if not n.startswith("sha256:")), image.names[0])
        what = (
            f"{name} in namespace {image.namespace} is a model that was downloaded as a "
            f"whole: {format_size(image.size)}"
        )
        remove = run(
            f"ctr --namespace {image.namespace} images rm --sync {' '.join(image.names)}",
            f"modelpack pull --namespace {image.namespace} {name}",
        )
        if direct:
            why = "image volumes work, without these bytes; anything else mounts an empty directory"
            found.append(warning(PART, "downloaded", what, why, remove))
        else:
            why = "whoever mounts it gets an empty directory, without an error"
            found.append(error(PART, "downloaded", what, why, remove))
    if len(facts.downloaded) > _SHOWN:
        more = len(facts.downloaded) - _SHOWN
        found.append(unknown(PART, "downloaded", f"and {more} more"))
    if not facts.complete:
        found.append(
            unknown(PART, "downloaded", f"only {facts.looked_at} images were looked at in time")
        )
    return found or [
        ok(PART, "downloaded", f"none of {facts.looked_at} images is a model downloaded as a whole")
    ]


def _images(channel: grpc.Channel) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Namespace, digest and names of each image or index."""
    namespaces = namespace_pb2_grpc.NamespacesStub(channel).List(
        namespace_pb2.ListNamespacesRequest(), timeout=_CALL_SECONDS
    )
    for namespace in namespaces.namespaces:
        images = images_pb2_grpc.ImagesStub(channel).List(
            images_pb2.ListImagesRequest(), metadata=_in(namespace.name), timeout=_CALL_SECONDS
        )
        names: defaultdict[str, list[str]] = defaultdict(list)
        for image in images.images:
            if image.target.media_type in (*MANIFEST_TYPES, *INDEX_TYPES):
                names[image.target.digest].append(image.name)
        for digest, named in names.items():
            yield namespace.name, digest, tuple(named)


def _held(channel: grpc.Channel, namespace: str, digest: str) -> int:
    """Bytes of a model's layers in containerd; 0 for what is no model."""
    content = content_pb2_grpc.ContentStub(channel)

    def read(wanted: Digest) -> bytes | None:
        data = bytearray()
        try:
            for part in content.Read(
                content_pb2.ReadContentRequest(digest=wanted),
                metadata=_in(namespace),
                timeout=_CALL_SECONDS,
            ):
                data += part.data
                if len(data) > MANIFEST_LIMIT:
                    return None
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                return None
            raise
        return bytes(data)

    try:
        target = parse_digest(digest)
        raw = read(target)
        manifest = None if raw is None else model_manifest(raw, target, read)
    except ArtifactError:
        return 0
    if manifest is None:
        return 0
    held = 0
    for layer in {layer.digest: layer for layer in manifest.layers}.values():
        try:
            held += content.Info(
                content_pb2.InfoRequest(digest=layer.digest),
                metadata=_in(namespace),
                timeout=_CALL_SECONDS,
            ).info.size
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.NOT_FOUND:
                raise
    return held


def _in(namespace: str) -> tuple[tuple[str, str], ...]:
    return (("containerd-namespace", namespace),)
