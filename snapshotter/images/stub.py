"""The stub: a tiny ordinary image that stands for a model.

One real layer with one file, the marker, and real digests all through, so that
every client can pull, push, save, check and collect it as any image. The
snapshotter knows it by the marker and shows the model instead.

The layer is an uncompressed tar (``application/vnd.oci.image.layer.v1.tar``, which
OCI image-spec ``layer.md`` obliges every implementation to support, and which
containerd since 1.6 and dockerd pass through their decompressor untouched): a
gzip stream depends on the version of zlib that wrote it, these bytes on nothing.

Pure and deterministic: the same model, choice of its files and platform give the same
digests on every machine and in every release, whoever makes the stub.
"""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass
from typing import Any

from snapshotter.artifact.choice import encode_choice
from snapshotter.artifact.descriptor import Descriptor, Platform
from snapshotter.artifact.digest import digest_of
from snapshotter.artifact.marker import MARKER_NAME, ModelRef, encode_marker
from snapshotter.artifact.mediatypes import OCI_CONFIG, OCI_LAYER_TAR, OCI_MANIFEST

REF_ANNOTATION = "containerd.io/snapshot/modelpack.ref"
"""On the layer: containerd hands annotations of this prefix to the snapshotter as labels."""
REF_LABEL = "modelpack.ref"
"""On manifest and image config, for people and tools: registry/repository@digest."""
CHOICE_LABEL = "modelpack.choice"
"""Beside it, where not all of the model's files are asked for: how they were chosen."""

_CREATED = "1970-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class StubImage:
    manifest: Descriptor
    manifest_bytes: bytes
    config: Descriptor
    config_bytes: bytes
    layer: Descriptor
    layer_bytes: bytes

    @property
    def contents(self) -> tuple[tuple[Descriptor, bytes], ...]:
        """All three blobs, what is referred to before what refers to it."""
        return (
            (self.layer, self.layer_bytes),
            (self.config, self.config_bytes),
            (self.manifest, self.manifest_bytes),
        )


def stub_image(ref: ModelRef, platform: Platform) -> StubImage:
    """The stub of ``ref`` for ``platform``, which changes only the config (and so its digest)."""
    title = f"ModelPack model {ref}"
    layer_bytes = _layer(ref)
    layer = Descriptor(
        OCI_LAYER_TAR, digest_of(layer_bytes), len(layer_bytes), {REF_ANNOTATION: str(ref)}
    )
    labels = {
        REF_LABEL: str(ref),
        "org.opencontainers.image.title": title,
        "org.opencontainers.image.description": (
            "Stands for a model. The snapshotter modelpack mounts the model's files in its place."
        ),
    }
    if ref.selection:
        labels[CHOICE_LABEL] = encode_choice(ref.selection)
    config_bytes = _json(
        {
            "created": _CREATED,
            "architecture": platform.architecture,
            "os": platform.os,
            **({"variant": platform.variant} if platform.variant else {}),
            "config": {"Labels": labels},
            # Uncompressed, so the layer's digest is also its diff ID.
            "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
            "history": [{"created": _CREATED, "created_by": "modelpack", "comment": title}],
        }
    )
    config = Descriptor(OCI_CONFIG, digest_of(config_bytes), len(config_bytes))
    manifest_bytes = _json(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": _descriptor(config),
            "layers": [_descriptor(layer)],
            "annotations": labels,
        }
    )
    manifest = Descriptor(OCI_MANIFEST, digest_of(manifest_bytes), len(manifest_bytes))
    return StubImage(manifest, manifest_bytes, config, config_bytes, layer, layer_bytes)


def _layer(ref: ModelRef) -> bytes:
    marker = encode_marker(ref)
    member = tarfile.TarInfo(MARKER_NAME)
    member.size = len(marker)
    member.mode = 0o444
    member.uname = member.gname = "root"
    header = member.tobuf(tarfile.USTAR_FORMAT)
    block = tarfile.BLOCKSIZE
    return header + marker + bytes(-len(marker) % block) + bytes(2 * block)


def _descriptor(descriptor: Descriptor) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size,
    }
    if descriptor.annotations:
        fields["annotations"] = dict(descriptor.annotations)
    return fields


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
