"""The few calls of containerd's API that models need.

Namespaces, images, contents and leases, as of containerd's ``api/services/*/v1``. Every call
is bounded in time: some are made while containerd waits for us.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.field_mask_pb2 import FieldMask

from proto.containerd.services.content.v1 import content_pb2, content_pb2_grpc
from proto.containerd.services.images.v1 import images_pb2, images_pb2_grpc
from proto.containerd.services.leases.v1 import leases_pb2, leases_pb2_grpc
from proto.containerd.services.namespaces.v1 import namespace_pb2, namespace_pb2_grpc
from proto.containerd.services.version.v1 import version_pb2_grpc
from proto.containerd.types import descriptor_pb2
from snapshotter.artifact.descriptor import Descriptor
from snapshotter.artifact.digest import Digest, parse_digest
from snapshotter.images.errors import ContainerdError

_CALL_SECONDS = 5.0
_CONTENT_LIMIT = 8 << 20
"""Manifests and configs only; blobs of models never pass here."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image record of containerd."""

    name: str
    target: Descriptor
    labels: Mapping[str, str] = field(default_factory=dict)


class Containerd:
    """containerd behind its unix socket. Thread-safe."""

    def __init__(self, address: Path) -> None:
        self.address = address
        self._channel = grpc.insecure_channel(
            f"unix:{address}", options=[("grpc.max_receive_message_length", 16 << 20)]
        )
        self._images = images_pb2_grpc.ImagesStub(self._channel)
        self._content = content_pb2_grpc.ContentStub(self._channel)
        self._leases = leases_pb2_grpc.LeasesStub(self._channel)
        self._namespaces = namespace_pb2_grpc.NamespacesStub(self._channel)
        self._version = version_pb2_grpc.VersionStub(self._channel)

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def version(self) -> tuple[int, int]:
        """Major and minor, e.g. (2, 1)."""
        with self._call("Version"):
            text = self._version.Version(Empty(), timeout=_CALL_SECONDS).version
        numbers = re.match(r"v?(\d+)\.(\d+)", text)
        if numbers is None:
            raise ContainerdError(
                f"containerd at {self.address} says it is version {text[:80]!r}, expected for "
                "instance 2.1.4; say what it is to be given with --as"
            )
        return int(numbers[1]), int(numbers[2])

    def namespaces(self) -> list[str]:
        with self._call("Namespaces.List"):
            answer = self._namespaces.List(
                namespace_pb2.ListNamespacesRequest(), timeout=_CALL_SECONDS
            )
        return [namespace.name for namespace in answer.namespaces]

    def images(self, namespace: str, *filters: str) -> list[Image]:
        with self._call("Images.List"):
            answer = self._images.List(
                images_pb2.ListImagesRequest(filters=filters),
                metadata=_in(namespace),
                timeout=_CALL_SECONDS,
            )
        return [
            Image(
                image.name,
                Descriptor(
                    image.target.media_type, parse_digest(image.target.digest), image.target.size
                ),
                dict(image.labels),
            )
            for image in answer.images
        ]

    def put_image(self, namespace: str, image: Image, *, lease: str) -> None:
        """Create the record, or point the existing one at the new target; other labels stay."""
        message = images_pb2.Image(
            name=image.name,
            labels=image.labels,
            target=descriptor_pb2.Descriptor(
                media_type=image.target.media_type,
                digest=image.target.digest,
                size=image.target.size,
            ),
        )
        metadata = _in(namespace, lease)
        with self._call(f"storing image {image.name}"):
            try:
                self._images.Create(
                    images_pb2.CreateImageRequest(image=message),
                    metadata=metadata,
                    timeout=_CALL_SECONDS,
                )
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.ALREADY_EXISTS:
                    raise
                paths = ["target", *(f"labels.{key}" for key in image.labels)]
                self._images.Update(
                    images_pb2.UpdateImageRequest(
                        image=message, update_mask=FieldMask(paths=paths)
                    ),
                    metadata=metadata,
                    timeout=_CALL_SECONDS,
                )

    def read(self, namespace: str, digest: Digest) -> bytes | None:
        """A small content; None when containerd has it not."""
        data = bytearray()
        request = content_pb2.ReadContentRequest(digest=digest)
        with self._call(f"Content.Read {digest}"):
            try:
                for part in self._content.Read(
                    request, metadata=_in(namespace), timeout=_CALL_SECONDS
                ):
                    data += part.data
                    if len(data) > _CONTENT_LIMIT:
                        raise ContainerdError(
                            f"content {digest} in containerd: expected at most "
                            f"{_CONTENT_LIMIT} bytes of manifest or config, it is larger"
                        )
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.NOT_FOUND:
                    return None
                raise
        return bytes(data)

    def write(
        self, namespace: str, digest: Digest, data: bytes, labels: Mapping[str, str], *, lease: str
    ) -> None:
        """Store a content with its labels; one that is there already gets the labels."""
        metadata = _in(namespace, lease)
        commit = content_pb2.WriteContentRequest(
            action=content_pb2.COMMIT,
            ref=f"modelpack-{digest}",
            total=len(data),
            expected=digest,
            offset=0,
            data=data,
            labels=labels,
        )
        with self._call(f"storing content {digest}"):
            try:
                for _ in self._content.Write(
                    iter([commit]), metadata=metadata, timeout=_CALL_SECONDS
                ):
                    pass
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.ALREADY_EXISTS:
                    raise
                # An update of no field in particular replaces all labels, also the one by
                # which containerd keeps what it unpacked (gc.ref.snapshot of the config).
                if labels:
                    self._content.Update(
                        content_pb2.UpdateRequest(
                            info=content_pb2.Info(digest=digest, labels=labels),
                            update_mask=FieldMask(paths=[f"labels.{key}" for key in labels]),
                        ),
                        metadata=metadata,
                        timeout=_CALL_SECONDS,
                    )
                self._leases.AddResource(
                    leases_pb2.AddResourceRequest(
                        id=lease, resource=leases_pb2.Resource(id=digest, type="content")
                    ),
                    metadata=metadata,
                    timeout=_CALL_SECONDS,
                )

    def has_lease(self, namespace: str, id: str) -> bool:
        """Whether there is a lease of that name."""
        quoted = "".join(f"\\U{ord(letter):08x}" for letter in id)
        with self._call("Leases.List"):
            answer = self._leases.List(
                leases_pb2.ListRequest(filters=[f'id=="{quoted}"']),
                metadata=_in(namespace),
                timeout=_CALL_SECONDS,
            )
        return bool(answer.leases)

    @contextmanager
    def lease(self, namespace: str) -> Iterator[str]:
        """Keeps what is written inside the block from garbage collection, also after a crash."""
        expire = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        with self._call("Leases.Create"):
            lease = self._leases.Create(
                leases_pb2.CreateRequest(labels={"containerd.io/gc.expire": expire}),
                metadata=_in(namespace),
                timeout=_CALL_SECONDS,
            ).lease
        try:
            yield lease.id
        finally:
            with self._call("Leases.Delete"):
                self._leases.Delete(
                    leases_pb2.DeleteRequest(id=lease.id),
                    metadata=_in(namespace),
                    timeout=_CALL_SECONDS,
                )

    @contextmanager
    def _call(self, what: str) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            code, details = error.code(), error.details()
            if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise ContainerdError(
                    f"containerd at {self.address} does not answer ({details}): is it running, "
                    "and is this the right socket ([containerd] address, --address)?"
                ) from None
            raise ContainerdError(
                f"containerd at {self.address}: {what}: {code.name}: {details}"
            ) from None


def _in(namespace: str, lease: str | None = None) -> tuple[tuple[str, str], ...]:
    headers = (("containerd-namespace", namespace),)
    return headers if lease is None else (*headers, ("containerd-lease", lease))
